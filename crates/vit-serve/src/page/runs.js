// The list of runs, their curves, and the settings in which they differ.
import { $, ask, percent } from "./app.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_SHOWN = 8;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.round(seconds), [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

const share = value => value === null || value === undefined ? "–" : percent(value);

/// Round tick values between two numbers.
function ticks(least, most) {
  const rough = (most - least) / 4 || 1, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(by => by * unit).find(by => by >= rough);
  const found = [];
  for (let at = Math.ceil(least / step) * step; at <= most + step / 1e6; at += step) found.push(Number(at.toPrecision(10)));
  return found;
}

/// A chart of lines, each a list of [x, y].
function chart(title, lines) {
  const points = lines.flatMap(line => line.points).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  if (!points.length) return null;
  const card = element("div", undefined, "card");
  card.append(element("h3", title));
  const [W, H, L, B] = [380, 210, 44, 24];
  const range = (at, pad) => {
    const values = points.map(point => point[at]);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const spread = most - least || Math.abs(most) || 1;
    return [least - spread * pad, most + spread * pad];
  };
  const [x0, x1] = range(0, 0), [y0, y1] = range(1, .05);
  const x = value => L + (value - x0) / (x1 - x0 || 1) * (W - L - 8), y = value => H - B - (value - y0) / (y1 - y0) * (H - B - 8);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("class", "chart");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const add = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
    return made;
  };
  for (const tick of ticks(y0, y1)) {
    add("path", { class: "grid", d: `M${L} ${y(tick)}H${W - 8}` });
    add("text", { x: L - 6, y: y(tick) + 4, "text-anchor": "end" }, tick);
  }
  for (const tick of ticks(x0, x1)) add("text", { x: x(tick), y: H - 6, "text-anchor": "middle" }, tick.toLocaleString("en"));
  for (const { points, colour, dashed } of lines) {
    const drawn = points.filter(point => point.every(Number.isFinite));
    const d = drawn.map(([a, b], at) => `${at ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    if (d) add("path", { class: `line s${colour}${dashed ? " dash" : ""}`, d: drawn.length > 1 ? d : `${d}h.1` , "stroke-linecap": "round" });
  }
  const readout = element("p", "\u00a0", "quiet small");
  svg.onpointermove = event => {
    const box = svg.getBoundingClientRect(), at = x0 + ((event.clientX - box.left) / box.width * W - L) / (W - L - 8) * (x1 - x0);
    const near = lines.map(line => {
      const point = line.points.reduce((a, b) => !a || Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a, null);
      return point && `${line.name}: ${Number(point[1].toPrecision(4))} at ${point[0]}`;
    });
    readout.textContent = near.filter(Boolean).join(" · ");
  };
  svg.onpointerleave = () => { readout.textContent = "\u00a0"; };
  card.append(svg, readout);
  return card;
}

function flat(settings, above = "") {
  return Object.entries(settings ?? {}).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value) ? flat(value, `${above}${name}.`) : [[above + name, JSON.stringify(value)]]);
}

export class Runs {
  constructor(newer) {
    this.newer = newer;
    this.list = [];
    this.shown = new Map();
  }

  begin() { this.begun ??= this.follow(); }

  async follow() {
    await this.refresh();
    if (!this.list.length) { setTimeout(() => this.follow(), 5000); return; }
    $("to-runs").hidden = false;
    const [newest] = this.list;
    await this.toggle(newest.name, true);
    const events = new EventSource("/v1/events");
    events.addEventListener("record", event => {
      const { run, record } = JSON.parse(event.data), details = this.shown.get(run);
      if (details && record.kind === "epoch") details.epochs_done.push(record);
      if (details && record.kind === "step") details.steps.push(record);
      if (record.kind === "epoch" || !this.list.some(each => each.name === run)) this.refresh();
      this.soon();
    });
    events.addEventListener("reset", async event => {
      const { run } = JSON.parse(event.data);
      if (this.shown.has(run)) await this.toggle(run, true);
    });
    events.addEventListener("model", () => this.newer());
  }

  async refresh() {
    this.list = await ask("/v1/runs").catch(() => this.list);
    this.table();
  }

  async toggle(name, on) {
    if (on) this.shown.set(name, await ask(`/v1/runs/${encodeURIComponent(name)}`));
    else this.shown.delete(name);
    while (this.shown.size > MOST_SHOWN) this.shown.delete(this.shown.keys().next().value);
    this.table();
    this.draw();
  }

  turn(visible) {
    this.visible = visible;
    if (visible) { this.table(); this.draw(); }
  }

  /// Draws at the next frame.
  soon() {
    if (this.due || !this.visible) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.draw(); });
  }

  colour(name) { return [...this.shown.keys()].indexOf(name) % MOST_SHOWN; }

  table() {
    if (!this.visible) return;
    const table = $("run-table");
    const focused = document.activeElement?.getAttribute("aria-label");
    const head = element("tr");
    for (const name of ["", "run", "state", "trained on", "epoch", "train", "test", "left"]) head.append(element("th", name));
    const rows = this.list.map(run => {
      const row = element("tr", undefined, this.shown.has(run.name) ? "shown" : "");
      const box = element("input");
      box.type = "checkbox";
      box.checked = this.shown.has(run.name);
      box.setAttribute("aria-label", `Show ${run.name}`);
      box.onchange = () => this.toggle(run.name, box.checked);
      const first = element("td");
      first.append(box);
      const state = element("td");
      state.append(element("span", run.state, `state ${run.state}`));
      row.append(first, element("td", run.name, "wide"), state, element("td", [run.preset, run.dataset].filter(Boolean).join(" on ")),
        element("td", run.epochs ? `${run.epoch} / ${run.epochs}` : run.epoch), element("td", share(run.last?.train_accuracy)),
        element("td", share(run.last?.test_accuracy ?? run.last?.val_accuracy)), element("td", run.state === "running" ? duration(run.seconds_left) : "–"));
      return row;
    });
    table.replaceChildren(head, ...rows);
    for (const box of table.querySelectorAll("input")) if (focused && box.getAttribute("aria-label") === focused) box.focus();
  }

  draw() {
    if (!this.visible) return;
    const runs = [...this.shown.values()];
    const lines = (value, of, dashed) => runs.map(run => ({
      name: dashed ? `${run.name} (training)` : run.name, colour: this.colour(run.name), dashed,
      points: of(run).map(each => [each.epoch && of(run) === run.epochs_done ? each.epoch : each.step, value(each)]).filter(point => Number.isFinite(point[1])),
    })).filter(line => line.points.length);
    const epochs = run => run.epochs_done, steps = run => run.steps;
    const held = name => each => each[`test_${name}`] ?? each[`val_${name}`];
    const charts = [
      chart("Accuracy by epoch (%), dashed in training", [
        ...lines(each => 100 * each.train_accuracy, epochs, true), ...lines(each => 100 * held("accuracy")(each), epochs, false)]),
      chart("Loss by epoch, dashed in training", [...lines(each => each.train_loss, epochs, true), ...lines(held("loss"), epochs, false)]),
      chart("Loss by step", lines(each => each.loss, steps, false)),
      chart("Learning rate by step", lines(each => each.lr, steps, false)),
    ];
    $("run-charts").replaceChildren(...charts.filter(Boolean));
    $("run-legend").replaceChildren(...runs.map(run => {
      const entry = element("span"), swatch = element("i", undefined, "swatch");
      swatch.style.background = `var(--c${this.colour(run.name)})`;
      entry.append(swatch, run.name);
      return entry;
    }));
    this.differences(runs);
    this.detail(runs);
  }

  differences(runs) {
    const place = $("run-diff");
    place.replaceChildren();
    if (runs.length < 2) return;
    const all = runs.map(run => new Map(flat(run.settings)));
    const names = [...new Set(all.flatMap(each => [...each.keys()]))];
    const differ = names.filter(name => new Set(all.map(each => each.get(name))).size > 1);
    const table = element("table", undefined, "table"), head = element("tr");
    head.append(element("th", "setting"), ...runs.map(run => element("th", run.name)));
    table.append(head, ...differ.map(name => {
      const row = element("tr");
      row.append(element("td", name), ...all.map(each => element("td", each.get(name) ?? "–", "wide")));
      return row;
    }));
    place.append(element("h3", differ.length ? "Settings that differ" : "All settings are the same"));
    if (differ.length) place.append(table);
  }

  detail(runs) {
    const place = $("run-detail"), opened = new Set([...place.querySelectorAll("details[open]")].map(each => each.dataset.run));
    place.replaceChildren(...runs.map(run => {
      const details = element("details"), links = element("p");
      details.dataset.run = run.name;
      details.open = opened.has(run.name);
      details.append(element("summary", run.name));
      const base = `/runs/${encodeURIComponent(run.name)}`;
      const known = this.list.find(each => each.name === run.name) ?? run;
      for (const [file, text] of [...(known.has_report ? [["report.html", "Report"]] : []), ["metrics.csv", "Metrics as CSV"], ["metrics.jsonl", "Metrics as JSON lines"]]) {
        const link = element("a", text);
        link.href = `${base}/${file}`;
        links.append(link, " · ");
      }
      links.lastChild.remove();
      const settings = flat(run.settings).map(([name, value]) => `${name} = ${value}`).join("\n");
      const environment = flat(run.environment).map(([name, value]) => `${name} = ${value}`).join("\n");
      if (known.state === "stopped") links.append(" · stopped; continue with vit train --resume");
      details.append(links, element("pre", settings), element("pre", environment));
      return details;
    }));
  }
}
