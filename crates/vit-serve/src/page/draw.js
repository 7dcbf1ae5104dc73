// The drawing pad: light strokes on black, as in MNIST.

/// Width of the pad and of the pen, in pixels.
const SIDE = 112, PEN = 9.5;

export class Pad {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.strokes = [];
    this.picture = null;
    this.pen = null;
    this.paint();
    canvas.onpointerdown = event => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      // The pad does not move during a stroke, and measuring it at each move would trigger a layout.
      this.box = canvas.getBoundingClientRect();
      this.strokes.push([this.place(event)]);
      this.stroke();
    };
    canvas.onpointermove = event => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const moves = event.getCoalescedEvents?.() ?? [];
      this.strokes.at(-1).push(...(moves.length ? moves : [event]).map(each => this.place(each)));
      this.stroke();
    };
    canvas.onkeydown = event => this.key(event);
  }

  place(event) {
    const { left, top, width, height } = this.box;
    return [(event.clientX - left) / width * SIDE, (event.clientY - top) / height * SIDE];
  }

  stroke() { this.paint(); this.changed(); }

  paint() {
    const { context, strokes, picture } = this;
    context.fillStyle = "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    if (picture) {
      context.imageSmoothingEnabled = picture.width > SIDE;
      const scale = SIDE / Math.max(picture.width, picture.height);
      const [width, height] = [picture.width * scale, picture.height * scale];
      context.drawImage(picture, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
    }
    context.strokeStyle = "#fff";
    context.lineWidth = PEN;
    context.lineCap = context.lineJoin = "round";
    for (const points of strokes) {
      context.beginPath();
      context.moveTo(...points[0]);
      // A single point becomes a dot.
      for (const point of points.length > 1 ? points.slice(1) : points) context.lineTo(...point);
      context.stroke();
    }
    if (this.pen) {
      context.strokeStyle = this.down ? "#fb923c" : "#8d877c";
      context.lineWidth = 1;
      context.strokeRect(this.pen[0] - 4, this.pen[1] - 4, 8, 8);
    }
  }

  /// Arrow keys move the pen; space puts it down or lifts it.
  key(event) {
    const by = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] }[event.key];
    if (!by && event.key !== " ") return;
    event.preventDefault();
    this.pen ??= [SIDE / 2, SIDE / 4];
    if (by) this.pen = this.pen.map((at, axis) => Math.min(SIDE - 4, Math.max(4, at + by[axis])));
    else this.down = !this.down;
    if (this.down) {
      if (!by) this.strokes.push([]);
      this.strokes.at(-1).push([...this.pen]);
      this.changed();
    }
    this.paint();
  }

  /// Puts a picture on the pad, to draw over.
  put(picture) {
    this.strokes = [];
    this.picture = picture;
    this.paint();
  }

  clear() {
    this.strokes = [];
    this.picture = this.pen = null;
    this.down = false;
    this.paint();
  }

  undo() {
    if (!this.strokes.pop()) return;
    this.paint();
    if (this.strokes.length || this.picture) this.changed();
  }

  /// Draws a seven.
  example() {
    this.strokes = [[[34, 32], [78, 32], [66, 54], [56, 82]]];
    this.stroke();
  }

  /// The drawing as a BMP file of grey pixels.
  file() {
    const pen = this.pen;
    if (pen) { this.pen = null; this.paint(); }
    const { data } = this.context.getImageData(0, 0, SIDE, SIDE);
    if (pen) { this.pen = pen; this.paint(); }
    // BMP starts with the lowest row.
    for (let y = 0, to = HEAD.length; y < SIDE; y++) {
      for (let from = 4 * SIDE * (SIDE - 1 - y), end = from + 4 * SIDE; from < end; from += 4) FILE[to++] = data[from];
    }
    return FILE;
  }
}

/// The file header, the bitmap header and a grey palette.
const HEAD = (() => {
  const head = new DataView(new ArrayBuffer(14 + 40 + 4 * 256)), size = head.byteLength + SIDE * SIDE;
  head.setUint16(0, 0x424d);
  for (const [at, value] of [[2, size], [10, head.byteLength], [14, 40], [18, SIDE], [22, SIDE], [34, SIDE * SIDE], [46, 256]]) {
    head.setUint32(at, value, true);
  }
  head.setUint16(26, 1, true);
  head.setUint16(28, 8, true);
  for (let grey = 0; grey < 256; grey++) head.setUint32(54 + 4 * grey, grey * 0x010101, true);
  return new Uint8Array(head.buffer);
})();
const FILE = new Uint8Array(HEAD.length + SIDE * SIDE);
FILE.set(HEAD);
