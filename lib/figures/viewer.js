/* <crystal-view scene='{"atoms": [[x, y, z, radius, red, green, blue]], "edges": [[[x, y, z], [x, y, z]]],
   "bonds": [[[x, y, z], [x, y, z], [red, green, blue]]]}'>
   draws a unit cell on a canvas and turns it by dragging; double click goes back. No library, no network, no WebGL. */
customElements.get("crystal-view") || customElements.define("crystal-view", class extends HTMLElement {
  connectedCallback() {
    if (this.canvas) return;
    const { atoms, edges, bonds } = JSON.parse(this.getAttribute("scene"));
    const hidden = q => atoms.some(a => Math.hypot(a[0] - q[0], a[1] - q[1], a[2] - q[2]) < a[3]);
    this.pieces = atoms.map(([x, y, z, r, ...rgb]) => ({ points: [[x, y, z]], r, rgb }));
    for (const [a, b, bond] of [...edges, ...bonds])  // in short pieces, each drawn before or behind an atom; none inside
      for (let i = 0, n = bond ? 6 : 32; i < n; i++) {
        const points = [i, i + 1].map(k => a.map((v, d) => v + (b[d] - v) * k / n));
        if (!points.every(hidden)) this.pieces.push({ points, bond });
      }
    this.reach = Math.max(...this.pieces.flatMap(p => p.points.map(q => Math.hypot(...q) + (p.r || 0))));
    Object.assign(this.style, { display: "block", width: "220px", height: "220px", cursor: "grab", touchAction: "pan-y" });
    this.canvas = this.appendChild(document.createElement("canvas"));
    this.canvas.width = this.canvas.height = 220 * (window.devicePixelRatio || 1);
    this.canvas.style.width = this.canvas.style.height = "220px";
    this.addEventListener("pointerdown", e => this.setPointerCapture(e.pointerId));
    this.addEventListener("pointermove", e => e.buttons && this.turn(e.movementX / 80, e.movementY / 80));
    this.addEventListener("dblclick", () => this.reset());
    this.reset();
  }
  reset() {
    this.rotation = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
    this.turn(0, 0);
  }
  turn(right, down) {
    const [c, s, k, n] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)];
    const step = [[c, 0, s], [-n * -s, k, -n * c], [k * -s, n, k * c]];
    this.rotation = step.map(row => [0, 1, 2].map(j => row.reduce((sum, v, i) => sum + v * this.rotation[i][j], 0)));
    this.draw();
  }
  draw() {
    const pen = this.canvas.getContext("2d"), size = this.canvas.width, scale = size / 2 / this.reach;
    const seen = p => {
      const [x, y, z] = this.rotation.map(row => row.reduce((sum, v, i) => sum + v * p[i], 0));
      return [size / 2 + scale * x, size / 2 - scale * y, z];
    };
    const drawn = this.pieces.map(p => ({ ...p, points: p.points.map(seen) }));
    const depth = p => p.points.reduce((sum, q) => sum + q[2], 0) / p.points.length;
    pen.clearRect(0, 0, size, size);
    for (const p of drawn.sort((a, b) => depth(a) - depth(b))) {
      const [x, y] = p.points[0];
      pen.beginPath();
      if (p.rgb) {
        const r = p.r * scale, shade = pen.createRadialGradient(x - r * .35, y - r * .4, r * .05, x, y, r);
        const tone = f => `rgb(${p.rgb.map(v => Math.min(255, f > 1 ? v + (255 - v) * (f - 1) : v * f))})`;
        [[0, 1.8], [.35, 1.1], [.85, .75], [1, .4]].forEach(([at, f]) => shade.addColorStop(at, tone(f)));
        pen.fillStyle = shade;
        pen.arc(x, y, r, 0, 2 * Math.PI);
        pen.fill();
      } else {
        pen.strokeStyle = p.bond ? `rgb(${p.bond.map(v => v * .8)})` : "#555";
        pen.lineWidth = p.bond ? .18 * scale : size / 180;
        pen.moveTo(x, y);
        pen.lineTo(p.points[1][0], p.points[1][1]);
        pen.stroke();
      }
    }
  }
});
