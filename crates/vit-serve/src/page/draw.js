// The drawing pad: light strokes on black, as MNIST's are.

/// Pixels of a side, and of the pen.
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
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE];
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
      // A point alone is a dot.
      for (const point of points.length > 1 ? points.slice(1) : points) context.lineTo(...point);
      context.stroke();
    }
    if (this.pen) {
      context.strokeStyle = this.down ? "#fb923c" : "#8d877c";
      context.lineWidth = 1;
      context.strokeRect(this.pen[0] - 4, this.pen[1] - 4, 8, 8);
    }
  }

  /// By keyboard: arrows move the pen, space puts it down or lifts it.
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

  /// A picture to draw on.
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

  /// A seven.
  example() {
    this.strokes = [[[34, 32], [78, 32], [66, 54], [56, 82]]];
    this.stroke();
  }

  json() {
    const pen = this.pen;
    if (pen) { this.pen = null; this.paint(); }
    const { data } = this.context.getImageData(0, 0, SIDE, SIDE);
    if (pen) { this.pen = pen; this.paint(); }
    const rows = [];
    for (let y = 0; y < SIDE; y++) {
      const row = new Array(SIDE);
      for (let x = 0; x < SIDE; x++) row[x] = data[4 * (y * SIDE + x)];
      rows.push(row);
    }
    return JSON.stringify({ pixels: rows });
  }
}
