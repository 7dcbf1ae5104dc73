// From pixels to a class, with the numbers of one image: docs/book/model.md, step by step.
import { $, percent } from "./app.js";

const number = (value, digits = 2) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
const list = (row, most = 6) => row.slice(0, most).map(value => number(value)).join(", ") + (row.length > most ? ", …" : "");

/// Draws a matrix as cells from blue (negative) to red (positive), and below it the number under the pointer.
function matrix(title, rows, { cell = 9, marks = [], row = "row", column = "column", shares = false } = {}) {
  const figure = document.createElement("figure");
  figure.className = "matrix";
  figure.style.margin = 0;
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  const canvas = document.createElement("canvas"), output = document.createElement("output");
  const width = rows[0].length, height = rows.length;
  [canvas.width, canvas.height] = [width, height];
  canvas.style.width = `${width * cell}px`;
  canvas.style.height = "auto";
  canvas.style.aspectRatio = `${width} / ${height}`;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `${title}; arrow keys go from number to number`);
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const most = Math.max(1e-9, ...rows.flat().map(Math.abs));
  const style = getComputedStyle(document.documentElement);
  const colour = name => {
    const hex = style.getPropertyValue(name).trim();
    return [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
  };
  const ends = { more: colour(shares ? "--accent" : "--positive"), less: colour("--negative"), none: colour("--ground") };
  rows.forEach((values, y) => values.forEach((value, x) => {
    const part = Math.min(1, Math.abs(value) / most), end = value < 0 ? ends.less : ends.more;
    const faded = marks.length && !marks.includes(y) ? .45 : 1;
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * (y * width + x) + channel] = ends.none[channel] + (end[channel] - ends.none[channel]) * part * faded;
    }
    image.data[4 * (y * width + x) + 3] = 255;
  }));
  context.putImageData(image, 0, 0);
  let at = [0, 0];
  const tell = (x, y) => {
    at = [Math.min(width - 1, Math.max(0, x)), Math.min(height - 1, Math.max(0, y))];
    const value = rows[at[1]][at[0]];
    output.textContent = `${row} ${at[1]}, ${column} ${at[0]}: ${shares ? percent(value) : number(value, 4)}`;
  };
  canvas.onpointermove = event => {
    const box = canvas.getBoundingClientRect();
    tell(Math.floor((event.clientX - box.left) / box.width * width), Math.floor((event.clientY - box.top) / box.height * height));
  };
  canvas.onpointerleave = canvas.onblur = () => { output.textContent = ""; };
  canvas.onkeydown = event => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    tell(at[0] + by[0], at[1] + by[1]);
  };
  figure.append(caption, canvas, output);
  return figure;
}

/// A step: heading, paragraphs, formulas with numbers, and figures.
function step(title, paragraphs, formulas, figures) {
  const section = document.createElement("section");
  section.className = "step";
  const left = document.createElement("div"), right = document.createElement("div");
  right.className = "figures";
  const heading = document.createElement("h3");
  heading.textContent = title;
  left.append(heading);
  for (const text of paragraphs) {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    left.append(paragraph);
  }
  for (const text of formulas) {
    const formula = document.createElement("code");
    formula.className = "formula";
    formula.textContent = text;
    left.append(formula);
  }
  right.append(...figures);
  section.append(left, right);
  return section;
}

export class Walk {
  constructor(changed) {
    this.token = null;
    for (const id of ["walk-layer", "walk-head"]) $(id).onchange = changed;
    $("walk-token").onchange = () => {
      this.token = Number($("walk-token").value);
      if (this.shown) this.show(...this.shown);
    };
  }

  build(model) {
    const fill = (id, count, name) => {
      const kept = $(id).value;
      $(id).replaceChildren(...Array.from({ length: count }, (_, at) => new Option(name(at), at)));
      if (Number(kept) < count) $(id).value = kept || 0;
    };
    fill("walk-layer", model.depth, at => at + 1);
    fill("walk-head", model.heads, at => at + 1);
    const prefix = model.tokens - model.grid.rows * model.grid.columns;
    fill("walk-token", model.tokens, at => at < prefix ? (at === 0 && model.reads === "class token" ? "class" : `register ${at}`) : `patch ${at - prefix}`);
    this.token = null;
  }

  which() { return `${$("walk-layer").value || 0}.${$("walk-head").value || 0}`; }

  show(model, answer) {
    this.shown = [model, answer];
    const { walk } = answer, { prefix, read } = walk;
    // Starts at the patch with the most ink.
    if (this.token === null) {
      const ink = walk.patches.map(patch => patch.reduce((a, b) => a + b, 0));
      this.token = prefix + ink.indexOf(Math.max(...ink));
      $("walk-token").value = this.token;
    }
    const token = this.token, patch = Math.max(0, token - prefix);
    const isPatch = token >= prefix;
    const name = isPatch ? `patch ${patch}` : $("walk-token").selectedOptions[0].text;
    const { height, width } = model.patch, channels = model.image.channels;
    const pixels = walk.patches[patch];
    const grid = Array.from({ length: height }, (_, y) => pixels.slice(y * width, (y + 1) * width));
    const dim = model.dim, layer = walk.layer + 1, head = walk.head + 1;
    const positions = walk.tokens.slice(prefix).map((row, at) => row.map((value, of) => value - walk.embedded[at][of]));
    const weights = walk.weights[token], scores = walk.scores[token];
    const best = weights.indexOf(Math.max(...weights));
    const toName = at => at >= prefix ? `patch ${at - prefix}` : "a token before the patches";
    const products = walk.queries[token].map((q, at) => q * walk.keys[best][at]);
    const wide = 1 / walk.scale ** 2;
    const order = walk.logits.map((value, at) => [value, at]).sort((a, b) => b[0] - a[0]);
    const exps = walk.logits.map(value => Math.exp(value - order[0][0]));
    const all = exps.reduce((a, b) => a + b, 0);
    const [top, second] = order.map(each => each[1]);
    const by = walk.products[top].map((value, at) => [value, at]).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0])).slice(0, 4);
    const cell = Math.max(3, Math.min(9, Math.floor(420 / dim)));
    const from = read === null ? "the mean of all patches" : toName(read);
    const steps = [
      step("1. The image is cut into patches", [
        `${walk.patches.length} patches of ${width} × ${height} pixels, row by row; each becomes ${pixels.length} numbers, from −1 for black to 1 for white.`,
        "From here on the model does not know which patches were neighbours.",
      ], [`patch ${patch} = (${list(pixels)})`], [
        matrix(`patch ${patch}${channels > 1 ? ", its first channel" : ""}`, grid, { cell: 18 }),
        matrix(`all patches: ${walk.patches.length} × ${pixels.length}`, walk.patches, { cell: Math.max(2, Math.min(8, Math.floor(400 / pixels.length))), marks: [patch], row: "patch", column: "pixel" }),
      ]),
      step("2. Patches become tokens", [
        `One linear map turns each patch into ${dim} numbers; a vector for its position is added.`,
      ], isPatch ? [
        `W patch + b = (${list(walk.embedded[patch])})`,
        `+ position  = (${list(positions[patch])})`,
        `= token     = (${list(walk.tokens[token])})`,
      ] : [`token = (${list(walk.tokens[token])})`], [
        matrix("W patch + b", walk.embedded, { cell, marks: [patch], row: "patch", column: "number" }),
        matrix("position", positions, { cell, marks: [patch], row: "patch", column: "number" }),
        matrix("token", walk.tokens, { cell, marks: [token], row: "token", column: "number" }),
      ]),
      step(`3. Layer ${layer}, head ${head}: queries, keys, values`, [
        `The layer normalises its input; then three linear maps give each token a query, a key and a value of ${walk.queries[0].length} numbers.`,
      ], [
        `query of ${name} = (${list(walk.queries[token])})`,
        `key of ${toName(best)} = (${list(walk.keys[best])})`,
      ], [
        matrix("queries", walk.queries, { marks: [token], row: "token", column: "number" }),
        matrix("keys", walk.keys, { marks: [best], row: "token", column: "number" }),
        matrix("values", walk.values, { row: "token", column: "number" }),
      ]),
      step("4. Scores and attention weights", [
        `A score says how well a query fits a key: their product over √${Math.round(wide)}. The softmax turns a row of scores into weights that sum to 1.`,
        `${name[0].toUpperCase() + name.slice(1)} attends most to ${toName(best)}.`,
      ], [
        `score = (${products.slice(0, 4).map(value => number(value)).join(" + ").replaceAll("+ −", "− ")} + …) / √${Math.round(wide)} = ${number(scores[best])}`,
        `weight = exp(${number(scores[best])}) / Σ exp(score) = ${percent(weights[best])}`,
      ], [
        matrix("scores", walk.scores, { cell: Math.max(3, Math.min(9, Math.floor(200 / scores.length))), marks: [token], row: "from", column: "to" }),
        matrix("attention weights", walk.weights, { cell: Math.max(3, Math.min(9, Math.floor(200 / scores.length))), marks: [token], row: "from", column: "to", shares: true }),
        matrix(`weighted sum of values for ${name}`, [walk.mixed[token]], { cell: 18, row: "head", column: "number" }),
      ]),
      step("5. The head computes class probabilities", [
        `After all layers, the head reads ${from}: ${dim} numbers. Multiplied by the ${dim} weights of a class and summed with its bias, they give its logit; the softmax of all logits gives the probabilities.`,
        second === undefined ? "" : `${model.classes[top]} is ${number(walk.logits[top] - walk.logits[second])} above ${model.classes[second]}.`,
      ], [
        `logit of ${model.classes[top]} = ${by.map(([value]) => number(value)).join(" + ").replaceAll("+ −", "− ")} + … + ${number(walk.head_bias[top])} = ${number(walk.logits[top])}`,
        `probability = exp(${number(walk.logits[top])}) / Σ exp(logit) = 1 / ${all.toFixed(3)} = ${percent(1 / all)}`,
      ], [
        matrix("input of the head", [walk.pooled], { cell, row: "row", column: "number" }),
        matrix("weight × number, for each class", walk.products, { cell, marks: [top], row: "class", column: "number" }),
        matrix("logits", walk.logits.map(value => [value]), { cell: 18, row: "class", column: "logit" }),
        matrix("probabilities", walk.probabilities.map(value => [value]), { cell: 18, row: "class", column: "probability", shares: true }),
      ]),
    ];
    const scroll = document.documentElement.scrollTop;
    $("walk-steps").replaceChildren(...steps);
    document.documentElement.scrollTop = scroll;
  }
}
