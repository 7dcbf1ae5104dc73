// The prepared image, an attention map for each layer and head, and the rollout.
import { $ } from "./app.js";

/// The colour of attention, over the image in grey.
const LIGHT = [255, 138, 40];
/// Greatest width or height of a map, in pixels.
const MOST = 64;

export class Maps {
  constructor(pointed) {
    this.pointed = pointed;
    this.canvases = [];
    const seen = $("seen");
    seen.onpointermove = event => event.pointerType === "mouse" && this.point(this.at(seen, event));
    seen.onpointerleave = event => event.pointerType === "mouse" && this.point(null);
    seen.onclick = event => {
      const at = this.at(seen, event);
      // A tap selects a patch; a second tap clears it.
      if (event.pointerType !== "mouse") this.point(at === this.patch ? null : at);
    };
    seen.onblur = () => this.point(null);
    seen.onkeydown = event => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Escape") this.point(null);
      if (!by || !this.model) return;
      event.preventDefault();
      const { rows, columns } = this.model.grid, at = this.patch ?? 0;
      const x = Math.min(columns - 1, Math.max(0, at % columns + by[0]));
      const y = Math.min(rows - 1, Math.max(0, Math.floor(at / columns) + by[1]));
      this.point(this.patch === null || this.patch === undefined ? 0 : y * columns + x);
    };
  }

  build(model) {
    this.model = model;
    const place = $("maps");
    place.replaceChildren();
    place.style.gridTemplateColumns = `max-content repeat(${model.heads}, minmax(0, 6.5rem))`;
    const label = (text, kind) => {
      const span = document.createElement("span");
      span.className = `label ${kind}`;
      span.textContent = text;
      place.append(span);
    };
    label("", "");
    for (let head = 1; head <= model.heads; head++) label(`head ${head}`, "head");
    this.canvases = [];
    for (let layer = 0; layer < model.depth; layer++) {
      label(`layer ${layer + 1}`, "");
      this.canvases.push([]);
      for (let head = 0; head < model.heads; head++) {
        const canvas = document.createElement("canvas");
        canvas.className = "map";
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `Layer ${layer + 1}, head ${head + 1}`);
        canvas.onpointermove = event => this.read(`layer ${layer + 1}, head ${head + 1}`, canvas, event);
        canvas.onpointerleave = () => this.say("");
        place.append(canvas);
        this.canvases[layer].push(canvas);
      }
    }
    $("rollout").onpointermove = event => this.read("rollout", $("rollout"), event);
    $("rollout").onpointerleave = () => this.say("");
    const own = model.reads === "first patch" ? "the first patch, top left, which is the token that the head reads"
      : model.reads === "class token" ? "the class token, which is no patch and so not on the map" : "each patch itself";
    $("rollout-why").textContent = "Attention followed through all layers: the product of (A + I) / 2, with A the mean of a layer’s "
      + `heads. I stands for the residual connections, so much of the rollout stays on its own token: ${own}.`;
  }

  at(canvas, event) {
    if (!this.model) return null;
    const box = canvas.getBoundingClientRect(), { rows, columns } = this.model.grid;
    const x = Math.floor((event.clientX - box.left) / box.width * columns);
    const y = Math.floor((event.clientY - box.top) / box.height * rows);
    return x < 0 || y < 0 || x >= columns || y >= rows ? null : y * columns + x;
  }

  point(patch) {
    if (patch === (this.patch ?? null)) return;
    this.patch = patch;
    this.pointed(patch);
  }

  read(name, canvas, event) {
    const at = this.at(canvas, event), weights = canvas.weights;
    if (at === null || !weights) return this.say("");
    const { columns } = this.model.grid;
    this.say(`${name}: ${(100 * weights[at]).toFixed(1)} % to patch ${at}, row ${Math.floor(at / columns) + 1}, column ${at % columns + 1}`);
  }

  say(text) { $("readout").textContent = text; }

  show(model, answer, patch) {
    const { seen: bytes } = answer, { width, height, channels } = model.image;
    const seen = $("seen");
    if (seen.width !== width || seen.height !== height) {
      [seen.width, seen.height] = [width, height];
      seen.style.aspectRatio = `${width} / ${height}`;
    }
    const context = seen.getContext("2d"), image = context.createImageData(width, height);
    for (let at = 0; at < width * height; at++) {
      for (let channel = 0; channel < 3; channel++) image.data[4 * at + channel] = bytes[channels * at + channel % channels];
      image.data[4 * at + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    const { rows, columns } = model.grid, patches = rows * columns;
    const mark = $("patch-mark");
    mark.hidden = patch === null;
    const of = model.reads === "class token" ? "the class token" : model.reads === "first patch" ? "the first patch" : "all patches, on average";
    $("maps-of").textContent = patch === null
      ? `Attention from ${of}, which the head reads. Point at a patch of the image to see attention from it.`
      : `Attention from patch ${patch}, in row ${Math.floor(patch / columns) + 1}, column ${patch % columns + 1}.`;
    if (patch !== null) {
      mark.style.left = `${100 * (patch % columns) / columns}%`;
      mark.style.top = `${100 * Math.floor(patch / columns) / rows}%`;
      mark.style.width = `${100 / columns}%`;
      mark.style.height = `${100 / rows}%`;
    }
    const weights = (layer, head) => {
      if (patch === null) return answer.attention[layer][head];
      if (answer.of_patches) return answer.of_patches[layer][head].slice(patch * patches, (patch + 1) * patches);
      return answer.of_patch?.[layer][head] ?? answer.attention[layer][head];
    };
    this.canvases.forEach((row, layer) => row.forEach((canvas, head) => this.paint(canvas, bytes, weights(layer, head))));
    this.paint($("rollout"), bytes, answer.rollout);
  }

  paint(canvas, bytes, weights) {
    const { image, grid } = this.model, { channels } = image;
    const scale = Math.max(1, Math.ceil(Math.max(image.width, image.height) / MOST));
    const width = Math.floor(image.width / scale), height = Math.floor(image.height / scale);
    if (canvas.width !== width || canvas.height !== height) {
      [canvas.width, canvas.height] = [width, height];
      canvas.style.aspectRatio = `${width} / ${height}`;
    }
    canvas.weights = weights;
    const context = canvas.getContext("2d"), map = context.createImageData(width, height);
    const most = weights.reduce((a, b) => Math.max(a, b), 1e-9);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const from = channels * (y * scale * image.width + x * scale);
        let grey = 0;
        for (let channel = 0; channel < channels; channel++) grey += bytes[from + channel] / channels;
        const patch = Math.floor(y * grid.rows / height) * grid.columns + Math.floor(x * grid.columns / width);
        const part = .85 * weights[patch] / most, at = 4 * (y * width + x);
        for (let channel = 0; channel < 3; channel++) {
          map.data[at + channel] = (.55 * grey + 14) * (1 - part) + (LIGHT[channel] * .72 + grey * .28) * part;
        }
        map.data[at + 3] = 255;
      }
    }
    context.putImageData(map, 0, 0);
  }
}
