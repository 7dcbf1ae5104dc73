// Sends the drawing to the server at each stroke, and shows the model's answer.
import { Pad } from "./draw.js";
import { Maps } from "./maps.js";
import { Walk } from "./walk.js";
import { Runs } from "./runs.js";

export const $ = id => document.getElementById(id);
export const percent = share => `${(100 * share).toFixed(share > .9995 && share < 1 ? 2 : 1)} %`;

let model = null;
let answer = null;
/// Returns the body of the next request.
let subject = null;
let running = false;
let again = false;
/// The selected patch.
let patch = null;

const maps = new Maps(pointed);
const walk = new Walk(() => look());
const pad = new Pad($("pad"), drawn);

export async function ask(path, init) {
  const response = await fetch(path, init);
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({ detail: response.statusText }));
  throw new Error(problem.hint ? `${problem.detail} (${problem.hint})` : problem.detail);
}

function tell(error) {
  const place = $("problem");
  place.hidden = !error;
  place.textContent = error ? error.message ?? String(error) : "";
}

/// Asks for an explanation, one request at a time; changes made meanwhile lead to one more.
async function look() {
  if (!subject || !model) return;
  if (running) { again = true; return; }
  running = true;
  do {
    again = false;
    const { body, type, query } = subject();
    const parameters = new URLSearchParams(query);
    if (patch !== null) parameters.set("patch", model.answers_all_patches ? "all" : patch);
    if (model.walks && current() === "walk") parameters.set("walk", walk.which());
    const begun = performance.now();
    try {
      answer = await ask(`/v1/explain?${parameters}`, { method: "POST", headers: { "content-type": type }, body });
      show(begun);
      tell(null);
    } catch (error) { tell(error); }
  } while (again);
  running = false;
}

function show(begun) {
  const best = answer.probability;
  $("verdict").innerHTML = "";
  const name = document.createElement("b");
  name.textContent = answer.name ?? answer.class;
  $("verdict").append(name, best > .9 ? "sure" : best > .6 ? "fairly sure" : "not sure");
  $("prepared").textContent = answer.prepared || "unchanged";
  bars(answer.probabilities);
  maps.show(model, answer, patch);
  if (answer.walk) walk.show(model, answer);
  document.documentElement.dataset.shown = (performance.now() - begun).toFixed(2);
  document.documentElement.dataset.class = answer.class;
}

function bars(probabilities) {
  const list = $("bars");
  const order = probabilities.map((p, at) => [p, at]);
  // With many classes, only the most probable.
  if (order.length > 12) { order.sort((a, b) => b[0] - a[0]); order.length = 10; }
  while (list.children.length > order.length) list.lastChild.remove();
  while (list.children.length < order.length) {
    const row = document.createElement("li");
    row.innerHTML = '<span class="name"></span><span class="track"><i></i></span><span class="value"></span>';
    list.append(row);
  }
  order.forEach(([p, at], place) => {
    const row = list.children[place], [name, track, value] = row.children;
    name.textContent = model.classes[at];
    track.firstChild.style.transform = `scaleX(${p})`;
    value.textContent = percent(p);
    row.classList.toggle("best", at === answer.class);
  });
}

/// Called when the pointer enters or leaves a patch.
function pointed(which) {
  if (which === patch) return;
  patch = which;
  if (!answer) return;
  if (answer.of_patches || patch === null) maps.show(model, answer, patch);
  else look();
}

function drawn() {
  $("pad-hint").hidden = true;
  marked(null);
  subject = () => ({ body: pad.file(), type: "image/bmp", query: { invert: "never" } });
  look();
}

/// Shows a picture file, or a picture of the run.
export function picture(blob, query = {}) {
  $("pad-hint").hidden = true;
  subject = () => ({ body: blob, type: blob.type || "application/octet-stream", query });
  look();
}

function marked(button) {
  for (const other of $("mistake-list").children) other.setAttribute("aria-pressed", String(other === button));
}

function bytes(base64) {
  const text = atob(base64);
  return Uint8Array.from(text, letter => letter.charCodeAt(0));
}

async function mistakes(known) {
  const list = known ?? await ask("/v1/mistakes").catch(() => []);
  const place = $("mistake-list");
  place.replaceChildren();
  for (const { label, class: predicted, index, png } of list) {
    const button = document.createElement("button");
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    const names = [label, predicted].map(each => model.classes[each] ?? each);
    image.alt = `test image ${index}`;
    button.type = "button";
    button.title = `Test image ${index}: ${names[0]}, predicted as ${names[1]}`;
    button.append(image, `${names[0]} → ${names[1]}`);
    button.onclick = async () => {
      await image.decode().catch(() => {});
      pad.put(image);
      marked(button);
      picture(new Blob([bytes(png)], { type: "image/png" }), { invert: "never" });
    };
    place.append(button);
  }
  $("mistakes").hidden = !place.children.length;
  return place.firstElementChild;
}

async function begin(known) {
  try { model = known?.model ?? await ask("/v1/model"); } catch (error) {
    tell(error);
    runs.begin();
    setTimeout(begin, 2000);
    return;
  }
  tell(null);
  const { name, parameters, depth, heads, image, classes } = model;
  $("model-name").textContent = `${name} · ${parameters.toLocaleString("en")} parameters · ${depth} layers of ${heads} heads · `
    + `${image.width} × ${image.height} · ${classes.length} classes`;
  $("pad-title").textContent = model.draws ? "Draw a digit" : "A picture";
  document.body.classList.toggle("pictures", !model.draws);
  maps.build(model);
  walk.build(model);
  document.querySelector('a[href="#walk"]').hidden = !model.walks;
  const first = await mistakes(known?.mistakes);
  if (subject) look();
  else if (first) first.click();
  else if (model.draws) pad.example();
  document.documentElement.dataset.ready = performance.now().toFixed(0);
  runs.begin();
}

function current() {
  const asked = location.hash.slice(1);
  return ["walk", "runs"].includes(asked) ? asked : "look";
}

function turn() {
  const page = current();
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== page;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (page === "walk") look();
  runs.turn(page === "runs");
}

function files(list) {
  const file = [...list ?? []].find(file => file.type.startsWith("image/"));
  if (!file) return;
  marked(null);
  createImageBitmap(file).then(image => pad.put(image)).catch(() => {});
  picture(file);
}

$("clear").onclick = () => { pad.clear(); $("pad-hint").hidden = false; $("pad").focus(); };
$("undo").onclick = () => pad.undo();
for (const input of [$("file"), $("camera")]) {
  input.onchange = () => { files(input.files); input.value = ""; };
}
addEventListener("paste", event => files(event.clipboardData?.files));
addEventListener("dragover", event => { event.preventDefault(); $("drop").hidden = false; });
addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", event => { event.preventDefault(); $("drop").hidden = true; files(event.dataTransfer?.files); });
addEventListener("hashchange", turn);

/// Shows the same picture with a newer model of the run.
const runs = new Runs(() => ask("/v1/model").then(newer => {
  const same = model && JSON.stringify([newer.config, newer.name]) === JSON.stringify([model.config, model.name]);
  model = newer;
  if (same) look(); else begin();
}).catch(() => {}));

turn();
// The page contains the answers to its first requests.
begin(JSON.parse($("start").textContent || "null"));
