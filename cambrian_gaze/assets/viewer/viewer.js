"use strict";
// The page: state → drawing. `state` is what the address keeps, `hover` what the pointer shows in passing.

class Viewer extends HeatDrawing {
  constructor(trace) {
    super();
    this.state = { t: 0, layer: "all", head: "all", unit: 0, region: null, show: null };
    this.hover = { t: null, region: null };
    this.timer = null;
    this.listen();
    this.take(trace);
    this.read();
    this.heaviestUnit(this.state.t, !/[#&]u=/.test(location.hash));
    this.draw();
    byId("page").setAttribute("aria-busy", "false");
  }

  // Another trace in the place of what is shown; what there is not in it any more is let go.
  take(trace) {
    this.trace = trace;
    this.data = trace.data;
    trace.whole = byId("whole").checked;
    byId("wholly").hidden = !trace.data.tokens.some((_, t) => { const [a, b] = trace.word(t); return b - a > 1; });
    this.unitOf = new Map(this.data.units.map((unit, u) => [`${unit.item} ${unit.frame}`, u]));
    this.regionsOf = this.data.units.map((unit) =>
      [...this.data.places.keys()].filter((r) => {
        const [item, first, end, x0, , x1] = this.data.places[r];
        return item === unit.item && first <= unit.frame && unit.frame < end && x1 > x0;
      })
    );
    const { state } = this, within = (value, end, other) => (typeof value !== "number" || value < end ? value : other);
    this.hover = { t: null, region: null };
    this.state = {
      t: clamp(state.t, 0, Math.max(0, trace.T - 1)),
      layer: within(state.layer, trace.L, "all"),
      head: within(state.layer, trace.L, null) === null ? "all" : within(state.head, trace.H, "all"),
      unit: clamp(state.unit, 0, Math.max(0, this.data.units.length - 1)),
      region: within(state.region, trace.R, null),
    };
    const chose = this.anyChoice();
    // Whether there is no need to say that nothing was chosen.
    this.quiet = trace.T === 0 || this.data.kept !== null || chose;
    this.usual = trace.heat && !this.quiet ? "heat" : "regions";
    this.state.show = trace.heat ? state.show ?? this.usual : "regions";
    this.build();
  }

  get token() { return this.hover.t ?? this.state.t; }
  get region() { return this.hover.region ?? this.state.region; }
  get selection() { return { layer: this.state.layer, head: this.state.head }; }

  // What never changes while a trace is shown.
  build() {
    const { data, trace } = this;
    byId("page").classList.toggle("empty", !data.units.length && !trace.T);
    byId("facts").textContent = data.facts;
    byId("prompt").textContent = data.prompt || "Gaze";
    byId("failed").hidden = this.quiet;
    byId("failed").className = "notice";
    byId("failed").textContent = "Every head of this trace attends to the whole picture: no regions were chosen.";
    for (const id of ["words", "layer", "head", "about", "strip"]) byId(id).replaceChildren();
    data.tokens.forEach((text, t) => {
      const word = make("span", { role: "option", id: `w${t}`, tabindex: "-1", "aria-selected": "false" });
      const [, space, rest] = text.match(/^(\s*)([^]*)$/);
      word.textContent = rest || (text === "" ? "·" : space.includes("\n") ? "↵" : "␣");
      if (data.special[t] || rest === "") word.classList.add("control");
      byId("words").append(space, word);
    });
    const options = (select, named, count, name) => {
      for (const [value, text] of named) select.append(make("option", { value }, text));
      for (let n = 0; n < count; n++) select.append(make("option", { value: n }, `${name} ${n}`));
    };
    options(byId("layer"), [["all", "all layers"], ["best", "best head per token"]], trace.L, "layer");
    options(byId("head"), [["all", "all heads"]], trace.H, "head");
    for (const [name, value] of data.about) byId("about").append(make("dt", {}, name), make("dd", {}, value));
    const many = data.units.length > 1;
    for (const id of ["strip", "scrubber", "following"]) byId(id).hidden = !many;
    byId("scrub").max = data.units.length - 1;
    if (many) {
      data.units.forEach((unit, u) => {
        const picture = make("img", { src: unit.src, alt: "", loading: "lazy" });
        const bar = make("span", { class: "bar" }, make("i"));
        byId("strip").append(
          make("button", { type: "button", role: "option", tabindex: "-1", "aria-selected": "false",
            "aria-label": unit.name }, picture, bar, `${u + 1}`)
        );
      });
    }
  }

  anyChoice() {
    const { T, L, H } = this.trace;
    for (let t = 0; t < T; t++) {
      for (let l = 0; l < L; l++) for (let h = 0; h < H; h++) if (this.trace.chosen(t, l, h)?.length) return true;
    }
    return false;
  }

  listen() {
    const words = byId("words"), stage = byId("stage"), map = byId("map");
    const wordAt = (event) => {
      const found = event.target.closest('[role="option"]');
      return found && words.contains(found) ? Number(found.id.slice(1)) : null;
    };
    words.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") this.pass({ t: wordAt(event) });
    });
    words.addEventListener("pointerleave", () => this.pass({ t: null }));
    words.addEventListener("click", (event) => {
      const t = wordAt(event);
      if (t !== null) this.choose(t, true);
    });
    words.addEventListener("keydown", (event) => {
      const goal = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };
      if (event.key in goal) this.step(goal[event.key], true);
      else if (event.key === " ") this.play();
      else if (event.key === "Escape") this.set({ region: null });
      else return;
      event.preventDefault();
    });
    const regionAt = (event) => {
      const found = event.target.getAttribute?.("data-region");
      return found === null || found === undefined ? null : Number(found);
    };
    stage.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") this.pass({ region: regionAt(event) });
    });
    stage.addEventListener("pointerleave", () => this.pass({ region: null }));
    stage.addEventListener("click", (event) => {
      const region = regionAt(event);
      if (region !== null) this.point(region);
    });
    stage.addEventListener("keydown", (event) => this.walk(event));
    stage.addEventListener("blur", () => this.pass({ region: null }));
    byId("strip").addEventListener("click", (event) => {
      const found = event.target.closest("button");
      if (found) this.set({ unit: [...byId("strip").children].indexOf(found) });
    });
    byId("strip").addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      this.set({ unit: clamp(this.state.unit + by, 0, this.data.units.length - 1) });
      byId("strip").children[this.state.unit].focus();
      event.preventDefault();
    });
    byId("scrub").addEventListener("input", () => this.set({ unit: Number(byId("scrub").value) }));
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    byId("play").addEventListener("click", () => this.play());
    byId("whole").addEventListener("change", () => {
      this.trace.whole = byId("whole").checked;
      this.choose(this.state.t);
    });
    byId("shows").addEventListener("change", (event) => {
      this.state.show = event.target.value;
      this.choose(this.state.t);
    });
    byId("path").addEventListener("change", () => this.draw());
    byId("follow").addEventListener("change", () => this.choose(this.state.t));
    byId("layer").addEventListener("change", () => {
      const value = byId("layer").value;
      const number = /^\d/.test(value);
      this.set({ layer: number ? Number(value) : value, head: number ? this.state.head : "all" });
    });
    byId("head").addEventListener("change", () => {
      const value = byId("head").value;
      this.set({ head: value === "all" ? value : Number(value) });
    });
    map.addEventListener("click", (event) => {
      const [l, cell] = this.cellAt(event), h = this.heated ? "all" : cell;
      const again = this.state.layer === l && this.state.head === h;
      if (l >= 0) this.set(again ? { layer: "all", head: "all" } : { layer: l, head: h });
    });
    map.addEventListener("keydown", (event) => {
      const goal = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const at = (value) => (typeof value === "number" ? value : 0);
      if (goal) {
        const { L, H } = this.trace;
        const fresh = typeof this.state.layer !== "number";
        this.set({
          layer: fresh ? 0 : clamp(at(this.state.layer) + goal[0], 0, L - 1),
          head: this.heated ? "all" : fresh ? 0 : clamp(at(this.state.head) + goal[1], 0, H - 1),
        });
      } else if (event.key === "Escape") this.set({ layer: "all", head: "all" });
      else return;
      event.preventDefault();
    });
    window.addEventListener("hashchange", () => { this.read(); this.draw(); });
    window.addEventListener("resize", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Arrow keys in the picture: the nearest region in that direction.
  walk(event) {
    const here = this.regionsOf[this.state.unit];
    const goal = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const middle = (r) => { const [, , , x0, y0, x1, y1] = this.data.places[r]; return [(x0 + x1) / 2, (y0 + y1) / 2]; };
    if (goal && here.length) {
      const now = here.includes(this.region) ? this.region : null;
      let next = here[0];
      if (now !== null) {
        const [x, y] = middle(now);
        const ahead = here.map((r) => [r, ...middle(r)]).map(([r, a, b]) => {
          const along = (a - x) * goal[0] + (b - y) * goal[1];
          const aside = Math.abs((a - x) * goal[1]) + Math.abs((b - y) * goal[0]);
          return [r, along, along + 3 * aside];
        }).filter(([, along]) => along > 0.5);
        next = ahead.length ? ahead.reduce((a, b) => (b[2] < a[2] ? b : a))[0] : now;
      }
      this.pass({ region: next });
      byId("live").textContent = this.regionText(next);
    } else if (event.key === "Enter" && this.region !== null) {
      this.point(this.region);
    } else if (event.key === "Escape") {
      this.hover.region = null;
      this.set({ region: null });
    } else return;
    event.preventDefault();
  }

  pass(change) {
    if (Object.entries(change).every(([name, value]) => this.hover[name] === value)) return;
    Object.assign(this.hover, change);
    if ("t" in change) this.heaviestUnit(this.token, false);
    this.draw();
  }

  set(change) {
    Object.assign(this.state, change);
    this.write();
    this.draw();
    byId("live").textContent = byId("told").textContent;
    this.changed?.();
  }

  // A click or Enter on a region holds it, or lets it go.
  point(region) { this.set({ region: region === this.state.region ? null : region }); }

  choose(t, focus = false) {
    this.state.t = t;
    this.hover.t = null;
    this.heaviestUnit(t, false);
    this.set({});
    const word = byId(`w${t}`);
    if (focus) word?.focus({ preventScroll: true });
    word?.scrollIntoView({ block: "nearest" });
  }

  // To another token, or to another word where these are looked at whole.
  step(by, focus = false) {
    const [first, end] = this.trace.span(this.state.t);
    const to = by === 1 ? end : by === -1 ? first - 1 : by;
    this.choose(this.trace.span(clamp(to, 0, this.trace.T - 1))[0], focus);
  }

  play() {
    const playing = this.timer !== null;
    clearInterval(this.timer);
    this.timer = null;
    if (!playing) {
      byId("path").checked = true;
      if (this.last()) this.choose(0);
      this.timer = setInterval(() => (this.last() ? this.play() : this.step(1)), 800);
    }
    byId("play").textContent = playing ? "Play" : "Stop";
    byId("play").setAttribute("aria-pressed", String(!playing));
    this.draw();
  }

  last() { return this.trace.span(this.state.t)[1] >= this.trace.T; }

  heaviestUnit(t, always) {
    if (this.data.units.length < 2 || t >= this.trace.T || !(always || byId("follow").checked)) return;
    const weights = this.weights(t);
    const most = weights.indexOf(Math.max(...weights));
    if (weights[most] > weights[this.state.unit]) this.state.unit = most;
  }

  // The address.
  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    const number = (name, end, other) => {
      const value = given.get(name);
      return /^\d+$/.test(value ?? "") && Number(value) < end ? Number(value) : other;
    };
    const { T, L, H, R } = this.trace;
    const layer = given.get("l") === "best" ? "best" : number("l", L, "all");
    this.state = {
      t: number("t", T, 0),
      layer,
      head: typeof layer === "number" ? number("h", H, "all") : "all",
      unit: number("u", this.data.units.length, 0),
      region: number("r", R, null),
      show: this.trace.heat && ["heat", "regions"].includes(given.get("s")) ? given.get("s") : this.usual,
    };
  }

  write() {
    const { t, layer, head, unit, region, show } = this.state;
    const parts = { t, l: layer, h: head, u: unit, r: region, s: show === this.usual ? null : show };
    const text = Object.entries(parts).filter(([, value]) => value !== null && value !== "all");
    try {
      history.replaceState(null, "", `#${new URLSearchParams(text)}`);
    } catch {
      // A frame without an address of its own, as in a notebook.
    }
  }
}

(async () => {
  try {
    const trace = await Trace.from(JSON.parse(byId("data").textContent));
    window.viewer = new Viewer(trace);
    window.host = new Host(window.viewer);
  } catch (error) {
    byId("failed").hidden = false;
    byId("failed").className = "error";
    byId("failed").textContent = `This page could not be shown: ${error.message}`;
    throw error;
  }
})();
