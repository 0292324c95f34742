"use strict";
// A page around this one, which shows traces here as they come and may let the reader say where the model may look.
// To this page: {gaze: "show", data, follow} · {gaze: "set", state} · {gaze: "steer", hidden, forced}.
// To the page around: {gaze: "ready"} · {gaze: "state", state} · {gaze: "steer", hidden, forced, again}.
// `data` as the page's own, pictures left out ("src": "") where they are those before; `follow`: go to the last token.

class Host {
  constructor(viewer) {
    this.viewer = viewer;
    this.steering = null;
    this.drag = null;
    this.queue = Promise.resolve();
    this.told = null;
    if (window.parent === window) return;
    viewer.changed = () => this.tell();
    byId("page").classList.toggle("framed", window.name === "pane");
    window.addEventListener("message", (event) => {
      if (event.source === window.parent && event.data?.gaze) this.hear(event.data);
    });
    this.post({ gaze: "ready" });
  }

  post(message) { window.parent.postMessage(message, "*"); }

  tell() {
    const { t, layer, head, unit, region, show } = this.viewer.state;
    const text = JSON.stringify([t, layer, head, unit, region, show]);
    if (text !== this.told) this.post({ gaze: "state", state: { t, layer, head, unit, region, show } });
    this.told = text;
  }

  hear(message) {
    if (message.gaze === "show") {
      // One after the other: unpacking takes its time.
      this.queue = this.queue.then(() => this.show(message.data, message.follow)).catch((error) => {
        byId("failed").hidden = false;
        byId("failed").className = "error";
        byId("failed").textContent = `This trace could not be shown: ${error.message}`;
      });
    } else if (message.gaze === "set") this.follow(message.state);
    else if (message.gaze === "steer") this.steer(message.hidden, message.forced);
  }

  async show(data, follow) {
    const { viewer } = this, before = viewer.data.units;
    data.units.forEach((unit, u) => { unit.src ||= before[u]?.src ?? ""; });
    const trace = await Trace.from(data);
    // A reader who went back to a word stays there while the answer grows.
    follow &&= viewer.state.t >= viewer.trace.T - 1 || trace.T < viewer.trace.T;
    viewer.take(trace);
    if (follow) viewer.state.t = Math.max(0, trace.T - 1);
    viewer.heaviestUnit(viewer.state.t, false);
    viewer.draw();
    const words = byId("words");
    if (follow) words.scrollTop = words.scrollHeight;
  }

  // What another pane shows, as far as there is such a thing here.
  follow(state) {
    const { viewer } = this, { T, L, H, R } = viewer.trace;
    const within = (value, end) => typeof value !== "number" || value < end;
    const next = { t: clamp(state.t, 0, Math.max(0, T - 1)) };
    if (within(state.layer, L) && within(state.head, H)) Object.assign(next, { layer: state.layer, head: state.head });
    if (state.unit < viewer.data.units.length) next.unit = state.unit;
    if (state.region === null || state.region < R) next.region = state.region;
    if (viewer.trace.heat && state.show) next.show = state.show;
    Object.assign(viewer.state, next);
    const { t, layer, head, unit, region, show } = viewer.state;
    this.told = JSON.stringify([t, layer, head, unit, region, show]);
    viewer.draw();
    byId(`w${t}`)?.scrollIntoView({ block: "nearest" });
  }

  // Which regions are hidden, or the only ones to be seen. The tools for it appear with the first such message.
  steer(hidden, forced) {
    const first = this.steering === null;
    this.steering = { hidden: new Set(hidden), forced: new Set(forced) };
    if (first) this.tools();
    this.viewer.draw();
    this.say();
  }

  get mode() { return document.querySelector('input[name="mode"]:checked').value; }

  tools() {
    const { viewer } = this, stage = byId("stage");
    byId("steer").hidden = false;
    viewer.mark = (svg, here, boxOf, px) => this.mark(svg, here, boxOf, px);
    const hold = viewer.point.bind(viewer);
    viewer.point = (region) => {
      if (this.mode === "look") hold(region);
      else if (!this.dragged) this.change([region], !this.steering[this.mode].has(region));
    };
    byId("clear").addEventListener("click", () => { this.change([], false, true); });
    byId("again").addEventListener("click", () => this.send(true));
    const at = (event) => {
      const box = stage.getBoundingClientRect(), [w, h] = viewer.data.units[viewer.state.unit].size;
      return [((event.clientX - box.left) / box.width) * w, ((event.clientY - box.top) / box.height) * h];
    };
    stage.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      if (this.mode === "look" || !viewer.data.units.length) return;
      this.drag = { from: at(event), to: at(event) };
      stage.setPointerCapture?.(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      this.drag.to = at(event);
      const [w, h] = viewer.data.units[viewer.state.unit].size;
      const { from, to } = this.drag;
      this.dragged ||= Math.abs(to[0] - from[0]) > w / 60 || Math.abs(to[1] - from[1]) > h / 60;
      viewer.draw();
    });
    stage.addEventListener("pointerup", (event) => {
      const { drag } = this;
      this.drag = null;
      if (!drag) return;
      const [x0, x1] = [drag.from[0], drag.to[0]].sort((a, b) => a - b);
      const [y0, y1] = [drag.from[1], drag.to[1]].sort((a, b) => a - b);
      const touched = viewer.regionsOf[viewer.state.unit].filter((r) => {
        const [, , , left, top, right, bottom] = viewer.data.places[r];
        return left <= x1 && x0 < right && top <= y1 && y0 < bottom;
      });
      // The pointer was captured, so that no region gets the click.
      if (this.dragged) this.change(touched, true);
      else if (touched.length) this.change(touched, !this.steering[this.mode].has(touched[0]));
      this.dragged = true;
      setTimeout(() => { this.dragged = false; });
      event.preventDefault();
    });
    stage.addEventListener("pointercancel", () => { this.drag = null; });
  }

  change(regions, on, none = false) {
    const { hidden, forced } = this.steering, mine = this.mode === "forced" ? forced : hidden;
    const other = mine === hidden ? forced : hidden;
    if (none) [hidden, forced].forEach((set) => set.clear());
    for (const region of regions) {
      if (on) mine.add(region);
      else mine.delete(region);
      other.delete(region);
    }
    this.viewer.draw();
    this.say();
    this.send(false);
  }

  send(again) {
    const [hidden, forced] = ["hidden", "forced"].map((name) => [...this.steering[name]].sort((a, b) => a - b));
    this.post({ gaze: "steer", hidden, forced, again });
  }

  say() {
    const { hidden, forced } = this.steering, count = (n) => `${n} region${n === 1 ? "" : "s"}`;
    const parts = [];
    if (hidden.size) parts.push(`${count(hidden.size)} hidden`);
    if (forced.size) parts.push(`only ${count(forced.size)} may be looked at`);
    byId("steered").textContent = parts.length ? `${parts.join(", ")}.` : "The model may look everywhere.";
  }

  mark(svg, here, boxOf, px) {
    const { hidden, forced } = this.steering;
    this.viewer.drawSteering(svg, here, boxOf, px, hidden, forced);
    if (this.drag && this.dragged) {
      const { from, to } = this.drag;
      shape(svg, "rect", { x: Math.min(from[0], to[0]), y: Math.min(from[1], to[1]),
        width: Math.abs(to[0] - from[0]), height: Math.abs(to[1] - from[1]), class: "rubber" });
    }
  }
}
