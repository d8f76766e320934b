// All images as dots; what is drawn around is chosen.
const HUES = [162, 28, 262, 205, 338, 95, 232, 12, 55, 300];
export const colour = (index) => `hsl(${HUES[index % 10]} ${65 - 20 * (Math.floor(index / 10) % 2)}% ${45 + 8 * (Math.floor(index / 20) % 3)}%)`;
const EDGE = 14;

export class Map {
  constructor(canvas, choose) {
    Object.assign(this, { canvas, choose, line: [] });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.line = [this.at(event)];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.line.length) return;
      this.line.push(this.at(event));
      this.paint();
    });
    canvas.addEventListener("pointerup", () => {
      const found = this.inside();
      this.line = [];
      this.paint();
      this.choose(found);
    });
    window.addEventListener("resize", () => this.places && this.paint());
  }

  draw(places, state, chosen) {
    Object.assign(this, { places, state, chosen });
    this.paint();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  place([x, y]) {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [EDGE + x * (w - 2 * EDGE), EDGE + y * (h - 2 * EDGE)];
  }

  paint() {
    const { canvas, state } = this;
    const scale = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const ink = getComputedStyle(canvas).color;
    const size = this.places.length > 3000 ? 1.8 : 3.2;
    this.places.forEach((point, row) => {
      const [x, y] = this.place(point);
      const [given, guess] = [state.labels[row], state.guesses[row]];
      const shown = given >= 0 ? given : guess;
      pen.globalAlpha = given >= 0 ? 1 : 0.5;
      pen.fillStyle = shown >= 0 ? colour(shown) : ink;
      pen.beginPath();
      pen.arc(x, y, given >= 0 ? size * 1.5 : size, 0, 7);
      pen.fill();
      if (this.chosen.has(row) || given >= 0) {
        pen.globalAlpha = 1;
        pen.strokeStyle = ink;
        pen.lineWidth = this.chosen.has(row) ? 2.2 : 0.7;
        pen.stroke();
      }
    });
    if (this.line.length) {
      pen.globalAlpha = 1;
      pen.strokeStyle = ink;
      pen.setLineDash([5, 4]);
      pen.beginPath();
      this.line.forEach(([x, y]) => pen.lineTo(x, y));
      pen.stroke();
    }
  }

  // Rows within the drawn line, or, of a mere click, the nearest one.
  inside() {
    const [first] = this.line;
    const far = Math.max(...this.line.map(([x, y]) => Math.hypot(x - first[0], y - first[1])));
    const spots = this.places.map((point) => this.place(point));
    if (far < 6) {
      const away = spots.map(([x, y]) => Math.hypot(x - first[0], y - first[1]));
      const nearest = away.indexOf(Math.min(...away));
      return away[nearest] < 20 ? [nearest] : [];
    }
    return spots.flatMap((spot, row) => (this.holds(spot) ? [row] : []));
  }

  holds([x, y]) {
    let within = false;
    this.line.forEach(([ax, ay], i) => {
      const [bx, by] = this.line[(i + this.line.length - 1) % this.line.length];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
    });
    return within;
  }
}
