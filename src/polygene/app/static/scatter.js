// The map: points on a plane, drawn with WebGL 2, or pixel by pixel where there is none. The points are in random order,
// so that the first of them are a fair sample: while the map moves, only those are drawn.

const WHILE_MOVING = 150_000, STILL = 160, VERTEX = `#version 300 es
in vec2 place; in float colour; in float state;
uniform vec2 centre, scale; uniform float size, dim; uniform int pass; uniform sampler2D palette;
out vec4 rgba;
void main() {
  bool chosen = state > 1.5;
  gl_Position = state < .5 || chosen != (pass == 1) ? vec4(9., 9., 9., 1.) : vec4((place - centre) * scale, 0., 1.);
  gl_PointSize = chosen ? size * 1.25 : size;
  rgba = texelFetch(palette, ivec2(int(colour + .5), 0), 0);
  if (!chosen) rgba.a *= dim;
}`, FRAGMENT = `#version 300 es
precision highp float;
in vec4 rgba; uniform float size; out vec4 shown;
void main() {
  float r = length(gl_PointCoord - .5) * 2.;
  float a = rgba.a * (size < 2.5 ? 1. : 1. - smoothstep(1. - 2. / size, 1., r));
  if (a < .01) discard;
  shown = vec4(rgba.rgb * a, a);
}`;

export class Scatter {
  constructor(points, over, onSelect) {
    Object.assign(this, { points, over, onSelect, n: 0, x: 0, y: 0, zoom: 1, mode: "pan", path: null, labels: [], frames: [] });
    this.gl = points.getContext("webgl2", { antialias: false });
    if (this.gl) this.prepare(this.gl); else this.plain = points.getContext("2d");
    new ResizeObserver(() => this.resize()).observe(points);
    this.listen();
  }

  prepare(gl) {
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(program, shader);
    }
    gl.linkProgram(program); gl.useProgram(program);
    gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.at = Object.fromEntries(["centre", "scale", "size", "dim", "pass"].map((name) => [name, gl.getUniformLocation(program, name)]));
    this.buffers = Object.fromEntries([["place", 2, gl.FLOAT], ["colour", 1, gl.UNSIGNED_BYTE], ["state", 1, gl.UNSIGNED_BYTE]].map(([name, size, type]) => {
      const buffer = gl.createBuffer(), where = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer); gl.enableVertexAttribArray(where); gl.vertexAttribPointer(where, size, type, false, 0, 0);
      return [name, buffer];
    }));
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
  }

  setPoints(xy) {
    this.n = xy.length / 2; this.xy = xy; this.state = new Uint8Array(this.n).fill(1);
    this.order = new Uint32Array(this.n).map((_, i) => i);
    for (let i = this.n - 1, seed = 1; i > 0; i--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const j = Math.floor((seed / 4294967296) * (i + 1)), kept = this.order[i];
      this.order[i] = this.order[j]; this.order[j] = kept;
    }
    const shuffled = new Float32Array(xy.length);
    this.order.forEach((cell, i) => { shuffled[2 * i] = xy[2 * cell]; shuffled[2 * i + 1] = xy[2 * cell + 1]; });
    this.send("place", shuffled); this.colour = new Uint8Array(this.n);
    this.sendState(); this.reset();
  }

  setColours(colour, palette, labels = []) { // colour: an index of the palette (256 × RGBA) for each cell
    Object.assign(this, { colour, palette, labels });
    this.send("colour", this.shuffled(colour));
    if (this.gl) this.gl.texImage2D(this.gl.TEXTURE_2D, 0, this.gl.RGBA, 256, 1, 0, this.gl.RGBA, this.gl.UNSIGNED_BYTE, palette);
    this.draw();
  }

  setVisible(isVisible) { for (let i = 0; i < this.n; i++) this.state[i] = isVisible(i) ? Math.max(this.state[i], 1) : 0; this.sendState(); }

  setSelected(rows) {
    for (let i = 0; i < this.n; i++) if (this.state[i] === 2) this.state[i] = 1;
    for (const row of rows) if (this.state[row]) this.state[row] = 2;
    this.sendState();
  }

  shuffled(values) { const out = new Uint8Array(this.n); for (let i = 0; i < this.n; i++) out[i] = values[this.order[i]]; return out; }
  sendState() { this.hasSelected = this.state.includes(2); this.send("state", this.shuffled(this.state)); this.draw(); }
  send(name, values) {
    if (!this.gl) return;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffers[name]); this.gl.bufferData(this.gl.ARRAY_BUFFER, values, this.gl.STATIC_DRAW);
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.points, this.over]) {
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio)); canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    }
    this.draw();
  }

  reset() { Object.assign(this, { x: 0, y: 0, zoom: 1 }); this.draw(); }
  get half() { return Math.min(this.points.width, this.points.height) / 2 * .92 * this.zoom; } // pixels of one unit
  get size() {
    const ratio = window.devicePixelRatio || 1, side = Math.min(this.points.clientWidth, this.points.clientHeight), base = Math.max(1.6, Math.min(9, .42 * side / Math.sqrt(Math.max(this.n, 1))));
    return base * ratio * Math.min(3, this.zoom ** .35);
  }
  toPixels(x, y) { return [this.points.width / 2 + (x - this.x) * this.half, this.points.height / 2 - (y - this.y) * this.half]; }
  toPlane(event) {
    const box = this.points.getBoundingClientRect(), ratio = this.points.width / box.width;
    const [px, py] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    return [this.x + (px - this.points.width / 2) / this.half, this.y - (py - this.points.height / 2) / this.half];
  }

  move(change) {
    Object.assign(this, change); this.zoom = Math.max(.5, Math.min(200, this.zoom)); this.moved = performance.now(); this.draw();
    clearTimeout(this.rest); this.rest = setTimeout(() => this.draw(), STILL + 20);
  }

  draw() { if (!this.waiting) { this.waiting = true; requestAnimationFrame(() => { this.waiting = false; this.paint(); }); } }

  paint() {
    const isMoving = performance.now() - (this.moved || -1e9) < STILL, some = isMoving ? Math.min(this.n, WHILE_MOVING) : this.n;
    if (this.gl) this.paintWithGpu(some); else this.paintPixels(some);
    this.paintOver(); this.frames.push(performance.now()); if (this.frames.length > 600) this.frames.shift();
  }

  paintWithGpu(some) {
    const { gl, at, points } = this;
    gl.viewport(0, 0, points.width, points.height); gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.palette || !some) return;
    gl.uniform2f(at.centre, this.x, this.y); gl.uniform2f(at.scale, 2 * this.half / points.width, 2 * this.half / points.height);
    gl.uniform1f(at.size, this.size); gl.uniform1f(at.dim, this.hasSelected ? .22 : .9);
    for (let pass = 0; pass <= (this.hasSelected ? 1 : 0); pass++) { gl.uniform1i(at.pass, pass); gl.drawArrays(gl.POINTS, 0, some); }
  }

  paintPixels(some) {
    const { width, height } = this.points, image = this.plain.createImageData(width, height), out = new Uint32Array(image.data.buffer);
    const colours = this.palette ? new Uint32Array(this.palette.buffer) : null, side = Math.max(1, Math.round(this.size));
    for (let pass = 0; colours && pass <= (this.hasSelected ? 1 : 0); pass++) {
      for (let k = 0; k < some; k++) {
        const cell = this.order[k], state = this.state[cell];
        if (!state || (state === 2) !== (pass === 1)) continue;
        const [px, py] = this.toPixels(this.xy[2 * cell], this.xy[2 * cell + 1]), left = Math.round(px - side / 2), top = Math.round(py - side / 2);
        const rgba = this.hasSelected && pass === 0 ? (colours[this.colour[cell]] & 0xffffff) | 0x38000000 : colours[this.colour[cell]];
        for (let y = Math.max(top, 0); y < Math.min(top + side, height); y++) for (let x = Math.max(left, 0); x < Math.min(left + side, width); x++) out[y * width + x] = rgba;
      }
    }
    this.plain.putImageData(image, 0, 0);
  }

  paintOver() {
    const context = this.over.getContext("2d"), ratio = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
    context.clearRect(0, 0, this.over.width, this.over.height);
    this.drawLabels(context, ratio * parseFloat(style.fontSize) / 16, style.getPropertyValue("--ink"), style.getPropertyValue("--back"));
    if (this.path?.length > 1) {
      context.beginPath(); this.path.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](...this.toPixels(x, y))); context.closePath();
      Object.assign(context, { strokeStyle: style.getPropertyValue("--own"), lineWidth: 2 * ratio, fillStyle: "rgba(90, 150, 200, .18)" }); context.fill(); context.stroke();
    }
  }

  drawLabels(context, ratio, ink, back) { // a label is left out where it would cover one of more cells
    const taken = this.named = [];
    Object.assign(context, { font: `600 ${12 * ratio}px system-ui, sans-serif`, textAlign: "center", textBaseline: "middle", lineJoin: "round", lineWidth: 4 * ratio, strokeStyle: back, fillStyle: ink });
    for (const { text, x, y } of this.labels) {
      const [px, py] = this.toPixels(x, y), wide = context.measureText(text).width / 2 + 4 * ratio, high = 9 * ratio;
      const cx = Math.max(wide, Math.min(this.over.width - wide, px));
      if (py < 0 || py > this.over.height || px < 0 || px > this.over.width) continue;
      if (taken.some(([x2, y2, w2]) => Math.abs(cx - x2) < wide + w2 && Math.abs(py - y2) < 2 * high)) continue;
      taken.push([cx, py, wide, text]); context.strokeText(text, cx, py); context.fillText(text, cx, py);
    }
  }

  listen() {
    const points = this.points, touches = new Map(); let last = null, wide = 0, dragged = 0;
    points.addEventListener("pointerdown", (event) => {
      points.setPointerCapture(event.pointerId); touches.set(event.pointerId, event); last = [event.clientX, event.clientY]; dragged = 0; wide = 0;
      if (this.mode === "lasso") this.path = [this.toPlane(event)];
    });
    points.addEventListener("pointermove", (event) => {
      if (!touches.has(event.pointerId)) return;
      touches.set(event.pointerId, event);
      if (touches.size === 2) {
        const [a, b] = [...touches.values()], now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
        if (wide) this.move({ zoom: this.zoom * now / wide });
        wide = now; this.path = null; return;
      }
      const ratio = this.points.width / points.clientWidth, [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
      dragged += Math.abs(dx) + Math.abs(dy); last = [event.clientX, event.clientY];
      if (this.path) { this.path.push(this.toPlane(event)); this.draw(); }
      else this.move({ x: this.x - dx * ratio / this.half, y: this.y + dy * ratio / this.half });
    });
    const end = (event) => {
      if (!touches.delete(event.pointerId)) return;
      const path = this.path; this.path = null;
      if (dragged < 5) this.pick(event); else if (path?.length > 2) this.onSelect(this.within(path), event.shiftKey);
      this.draw();
    };
    points.addEventListener("pointerup", end); points.addEventListener("pointercancel", (event) => { touches.delete(event.pointerId); this.path = null; this.draw(); });
    points.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [x, y] = this.toPlane(event), by = Math.exp(-event.deltaY * (event.deltaMode ? .05 : .0015)), zoom = Math.max(.5, Math.min(200, this.zoom * by)), share = 1 - this.zoom / zoom;
      this.move({ zoom, x: this.x + (x - this.x) * share, y: this.y + (y - this.y) * share });
    }, { passive: false });
    points.addEventListener("keydown", (event) => {
      const step = .15 / this.zoom, moves = { ArrowLeft: { x: this.x - step }, ArrowRight: { x: this.x + step }, ArrowUp: { y: this.y + step }, ArrowDown: { y: this.y - step },
        "+": { zoom: this.zoom * 1.3 }, "=": { zoom: this.zoom * 1.3 }, "-": { zoom: this.zoom / 1.3 }, 0: { x: 0, y: 0, zoom: 1 } };
      if (event.key === "Escape") this.onSelect(new Uint32Array(0), false); else if (moves[event.key]) this.move(moves[event.key]); else return;
      event.preventDefault();
    });
  }

  pick(event) {
    const [x, y] = this.toPlane(event), reach = Math.max(8, this.size) * (window.devicePixelRatio || 1) / this.half;
    let best = reach * reach, found = -1;
    for (let i = 0; i < this.n; i++) {
      const d = (this.xy[2 * i] - x) ** 2 + (this.xy[2 * i + 1] - y) ** 2;
      if (this.state[i] && d < best) { best = d; found = i; }
    }
    this.onSelect(found < 0 ? new Uint32Array(0) : Uint32Array.of(found), event.shiftKey);
  }

  within(path) {
    const rows = [], [xs, ys] = [path.map((p) => p[0]), path.map((p) => p[1])];
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    for (let i = 0; i < this.n; i++) {
      const x = this.xy[2 * i], y = this.xy[2 * i + 1];
      if (!this.state[i] || x < left || x > right || y < low || y > high) continue;
      let inside = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++) if ((ys[a] > y) !== (ys[b] > y) && x < (xs[b] - xs[a]) * (y - ys[a]) / (ys[b] - ys[a]) + xs[a]) inside = !inside;
      if (inside) rows.push(i);
    }
    return Uint32Array.from(rows);
  }
}
