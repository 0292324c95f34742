"use strict";
// From the state of the page to what it shows. `Viewer` (viewer.js) is the rest of this class.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(share * 100)}\u00a0%`;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(parent, tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

class Drawing {
  draw() {
    if (!this.trace.T) return this.drawBare();
    const look = this.trace.look(this.token, this.selection);
    this.drawStage(look);
    this.drawWords();
    this.drawStrip();
    this.drawTold(look);
    this.drawMap();
    byId("layer").value = this.state.layer;
    byId("head").value = this.state.head;
    byId("head").disabled = typeof this.state.layer !== "number";
  }

  // A picture before there is an answer about it.
  drawBare() {
    if (!this.data.units.length) byId("stage").replaceChildren();
    this.drawStage({ share: new Float64Array(this.trace.R), choosing: 0 });
    if (this.data.units.length > 1) this.drawUnit(this.data.units.map(() => 0));
    for (const id of ["told", "meaning", "legend"]) byId(id).textContent = "";
    byId("alternatives").replaceChildren();
    byId("map").width = byId("map").height = 0;
    Object.assign(byId("map").style, { width: 0, height: 0 });
  }

  drawStage({ share, choosing }) {
    const unit = this.data.units[this.state.unit];
    const stage = byId("stage");
    if (!unit) return;
    const [w, h] = unit.size;
    stage.style.aspectRatio = `${w} / ${h}`;
    stage.style.maxWidth = `calc(${matchMedia("(max-width: 820px)").matches ? 42 : 74}vh * ${w / h})`;
    if (stage.firstChild?.getAttribute("src") !== unit.src) {
      stage.replaceChildren(make("img", { src: unit.src, alt: unit.name, draggable: "false" }));
      stage.firstChild.classList.toggle("crisp", Math.max(w, h) <= 256);
      shape(stage, "svg", { viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    }
    const svg = stage.lastChild;
    svg.replaceChildren();
    const most = Math.max(0, ...share);
    const here = this.regionsOf[this.state.unit];
    const px = w / Math.max(1, stage.clientWidth);
    const boxOf = (r) => {
      const [, , , x0, y0, x1, y1] = this.data.places[r];
      return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    };
    const heated = this.heated && this.trace.T > 0;
    stage.classList.toggle("heated", heated);
    if (heated) this.drawHeat(svg, unit);
    else if (this.data.kept) this.drawKept(svg, unit);
    for (const r of here) {
      const lit = choosing && most && !heated ? share[r] / most : 1;
      shape(svg, "rect", { ...boxOf(r), class: "veil", "fill-opacity": (0.66 * (1 - lit)).toFixed(3), "data-region": r });
    }
    const outline = (r, thick, pointed) => {
      const box = boxOf(r), inset = (pointed ? 0.5 : thick / 2 + 0.5) * px;
      const inner = { x: box.x + inset, y: box.y + inset, width: Math.max(0, box.width - 2 * inset),
        height: Math.max(0, box.height - 2 * inset) };
      shape(svg, "rect", { ...inner, class: "under", "stroke-width": thick + 2.5 });
      shape(svg, "rect", { ...inner, class: pointed ? "over pointed" : "over", "stroke-width": thick });
    };
    const ranked = here.filter((r) => share[r] > 0).sort((a, b) => share[b] - share[a]);
    for (const r of ranked.filter((r) => share[r] > 0.5 * most).reverse()) {
      outline(r, share[r] > 0.999 * most && !heated ? 3 : 1.5);
    }
    const size = 13 * px;
    for (const r of ranked.slice(0, heated ? 0 : 3).filter((r) => share[r] >= 0.005)) {
      const box = boxOf(r);
      if (box.width > 3 * size && box.height > 1.6 * size) {
        const text = shape(svg, "text", { x: box.x + 7 * px, y: box.y + size + 5 * px, "font-size": size });
        text.style.fontSize = `${size}px`;
        text.textContent = percent(share[r]);
      }
    }
    if (this.region !== null && here.includes(this.region)) outline(this.region, 2.5, true);
    this.mark(svg, here, boxOf, px);
    if (byId("path").checked && this.trace.T) this.drawPath(svg, px);
  }

  // Visual tokens that were evicted lie in the dark: the share of KV heads that still held each.
  drawKept(svg, unit) {
    const [xs, ys] = unit.edges;
    for (let row = 0; row + 1 < ys.length; row++) {
      for (let column = 0; column + 1 < xs.length; column++) {
        const share = this.data.kept[unit.first + row * (xs.length - 1) + column] / 255;
        shape(svg, "rect", { x: xs[column], y: ys[row], width: xs[column + 1] - xs[column],
          height: ys[row + 1] - ys[row], class: "evicted", "fill-opacity": (0.8 * (1 - share)).toFixed(3) });
      }
    }
  }

  // Regions that the text could not see, and those that alone were left to it.
  mark(svg, here, boxOf, px) {
    const hidden = new Set(this.data.steering.hidden), forced = new Set(this.data.steering.forced);
    this.drawSteering(svg, here, boxOf, px, hidden, forced);
  }

  drawSteering(svg, here, boxOf, px, hidden, forced) {
    for (const r of here) {
      const box = boxOf(r), inset = 3 * px;
      if (hidden.has(r)) {
        shape(svg, "rect", { ...box, class: "gone" });
        for (const [x1, x2] of [[box.x, box.x + box.width], [box.x + box.width, box.x]]) {
          shape(svg, "line", { x1, x2, y1: box.y, y2: box.y + box.height, class: "cross" });
        }
      } else if (forced.has(r)) {
        shape(svg, "rect", { x: box.x + inset, y: box.y + inset, width: Math.max(0, box.width - 2 * inset),
          height: Math.max(0, box.height - 2 * inset), class: "forced" });
      }
    }
  }

  // Middles of the regions looked at most for the last words, on this picture.
  drawPath(svg, px) {
    const unit = this.data.units[this.state.unit], points = [];
    for (let t = Math.max(0, this.token - 9); t <= this.token; t++) {
      const [r] = this.trace.top(t, this.selection, 1);
      if (r === undefined) continue;
      const [item, first, end, x0, y0, x1, y1] = this.data.places[r];
      if (item === unit.item && first <= unit.frame && unit.frame < end) points.push([(x0 + x1) / 2, (y0 + y1) / 2]);
    }
    const line = points.map((point) => point.join(",")).join(" ");
    shape(svg, "polyline", { points: line, class: "trail dark" });
    shape(svg, "polyline", { points: line, class: "trail" });
    points.forEach(([cx, cy], place) => {
      shape(svg, "circle", { cx, cy, r: (place === points.length - 1 ? 7 : 4) * px, class: "dot" });
    });
  }

  drawWords() {
    const strength = this.region === null ? null : this.trace.words(this.region, this.selection);
    const [first, end] = this.trace.span(this.token);
    [...byId("words").children].forEach((word, t) => {
      word.classList.toggle("together", end - first > 1 && first <= t && t < end);
      const chosen = t === this.state.t;
      if ((word.getAttribute("aria-selected") === "true") !== chosen) word.setAttribute("aria-selected", String(chosen));
      word.tabIndex = chosen ? 0 : -1;
      const weight = strength ? strength[t] : 0;
      word.style.setProperty("--w", weight.toFixed(3));
      word.title = strength ? `${percent(weight)} of these heads` : "";
    });
  }

  drawStrip() {
    if (this.data.units.length > 1) this.drawUnit(this.weights(this.token));
  }

  drawUnit(weights) {
    const most = Math.max(1e-9, ...weights);
    [...byId("strip").children].forEach((button, u) => {
      const here = u === this.state.unit;
      button.setAttribute("aria-selected", String(here));
      button.tabIndex = here ? 0 : -1;
      button.querySelector("i").style.width = `${Math.round((100 * weights[u]) / most)}%`;
      if (here) {
        const strip = byId("strip"), left = button.offsetLeft - strip.offsetLeft;
        if (left < strip.scrollLeft || left + button.offsetWidth > strip.scrollLeft + strip.clientWidth) {
          strip.scrollLeft = left - strip.clientWidth / 2;
        }
      }
    });
    byId("scrub").value = this.state.unit;
    byId("scrub").setAttribute("aria-valuetext", this.data.units[this.state.unit].name);
    byId("unit").textContent = this.data.units[this.state.unit].name;
  }

  regionText(r) {
    const [item, first, end, , , , , row, column] = this.data.places[r];
    const many = this.data.units.length > 1;
    const unit = this.data.units[this.unitOf.get(`${item} ${first}`)];
    const frames = end - first > 1 ? `, frames ${first + 1} to ${end}` : "";
    return `region ${r} (${many ? `${unit.name}${frames}, ` : ""}row ${row + 1}, column ${column + 1})`;
  }

  drawTold({ share, choosing, dense }) {
    const t = this.token, told = byId("told");
    const word = this.data.tokens[t].trim() || "(space or part of a character)";
    const top = this.trace.top(t, this.selection, 1)[0];
    const [visual, context, text] = this.trace.entries(t, this.selection).map((n) => Math.round(n).toLocaleString("en"));
    const [first, end] = this.trace.span(t);
    const whole = this.data.tokens.slice(first, end).join("").trim();
    const lines = [end - first > 1 ? `Tokens ${first + 1} to ${end} of ${this.trace.T}, “${whole}”, mean over them: `
      : `Token ${t + 1} of ${this.trace.T}, “${word}”: `];
    if (top !== undefined) {
      const heads = choosing === 1 ? "chosen by this head" : `${percent(share[top])} of ${choosing} heads`;
      lines.push(`most looked at ${this.regionText(top)}, ${heads}. `);
    } else if (this.data.kept) lines.push("these heads attend to what was kept. ");
    else lines.push(dense ? "these heads attend to the whole picture. " : "these heads looked at no region. ");
    lines.push(`Attended: ${visual} visual, ${context} context, ${text} text entries${choosing + dense > 1 ? " a head" : ""}.`);
    if (this.region !== null) {
      const strength = this.trace.words(this.region, this.selection);
      const count = strength.filter((weight) => weight > 0).length;
      lines.push(` Tokens that looked at ${this.regionText(this.region)}: ${count} of ${this.trace.T}.`);
    }
    told.textContent = lines.join("");
    this.drawAlternatives(t);
    this.drawMeaning(t);
  }

  drawAlternatives(t) {
    const box = byId("alternatives");
    box.replaceChildren();
    if (!this.data.logprobs) {
      box.textContent = this.data.missing.logprobs ? `No probabilities: ${this.data.missing.logprobs}.` : "";
      return;
    }
    const rows = this.data.top[t].map(([text, value]) => [text, value, false]);
    const own = rows.find((row) => row[0] === this.data.alone[t]);
    if (own) own[2] = true;
    else rows.push([this.data.alone[t], this.data.logprobs[t], true]);
    for (const [text, value, chosen] of rows) {
      const share = Math.exp(value);
      const fill = make("i");
      fill.style.width = `${(share * 100).toFixed(1)}%`;
      const name = text.trim() ? text.trim().replaceAll("\n", "↵") : JSON.stringify(text);
      box.append(make("span", { class: chosen ? "own" : null }, chosen ? `${name} ✓` : name),
        make("span", { class: "track" }, fill), make("span", { class: "p" }, `${(share * 100).toFixed(1)} %`));
    }
  }

  drawMeaning(t) {
    const { layer, head } = this.state, { L, H } = this.trace;
    const best = layer === "best" ? this.trace.best(t) : null;
    byId("meaning").textContent = this.data.kept
      ? "Eviction: brightness is the share of KV heads, over all layers, that still hold a visual token; the dark ones are gone for good, whatever word comes."
      : layer === "all" ? `All heads: brightness is the share of the ${L * H} heads of all ${L} layers that chose a region; the brightest is as written on it.`
      : layer === "best" ? (best ? `Best head: layer ${best[0]}, head ${best[1]}, the one whose regions most other heads chose too for this token. This page picks it anew for each token; the model does not.` : "Best head: no head chose a region for this token.")
      : head === "all" ? `Layer ${layer}: brightness is the share of its ${H} heads that chose a region.`
      : `One head of ${L * H}: exactly the regions that head ${head} of layer ${layer} chose and attended to.`;
  }

  cell() {
    const room = Math.max(120, byId("mapbox").clientWidth - 26);
    return clamp(Math.floor(room / this.trace.H), 7, 22);
  }

  cellAt(event) {
    const cell = this.cell();
    const l = Math.floor(event.offsetY / cell), h = Math.floor((event.offsetX - 26) / cell);
    return l < this.trace.L && h >= 0 && h < this.trace.H ? [l, h] : [-1, -1];
  }

  // What the map shows: values of [L * H], the one that fills a cell, the best head, and what they mean.
  mapped(t) {
    const values = this.trace.agreement(t), best = this.trace.best(t);
    const legend = "Rows are layers, columns heads. The fuller, the more the other heads chose the same regions for this "
      + "token (fullest: the best head).";
    return { values, most: best ? values[best[0] * this.trace.H + best[1]] : 1, best, legend };
  }

  // Rows are layers, columns heads: agreement with the others, or whether a head chose the region pointed at.
  drawMap() {
    const { L, H } = this.trace, cell = this.cell(), canvas = byId("map"), t = this.token;
    const ratio = window.devicePixelRatio || 1, width = 26 + H * cell + 1, height = L * cell + 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    const draw = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    draw.scale(ratio, ratio);
    draw.font = "10px system-ui, sans-serif";
    draw.textAlign = "right";
    draw.textBaseline = "middle";
    const { values, most, best, legend } = this.mapped(t);
    for (let l = 0; l < L; l++) {
      draw.globalAlpha = 1;
      draw.fillStyle = colour("--quiet");
      if (cell > 11 || l % 4 === 0) draw.fillText(String(l), 21, l * cell + cell / 2 + 1);
      for (let h = 0; h < H; h++) {
        const value = values[l * H + h], x = 26 + h * cell, y = l * cell;
        draw.globalAlpha = 1;
        draw.fillStyle = colour("--line");
        draw.fillRect(x + 1, y + 1, cell - 1, cell - 1);
        draw.fillStyle = colour("--series-2");
        if (this.region !== null && !this.heated) draw.globalAlpha = this.trace.chosen(t, l, h)?.includes(this.region) ? 1 : 0;
        else draw.globalAlpha = Number.isNaN(value) ? 0 : value / most;
        draw.fillRect(x + 1, y + 1, cell - 1, cell - 1);
      }
    }
    draw.globalAlpha = 1;
    const { layer, head } = this.state;
    draw.lineWidth = 2;
    draw.strokeStyle = colour("--text");
    const frame = (l, h, n) => draw.strokeRect(27 + h * cell, l * cell + 1, n * cell - 1.5, cell - 1);
    if (layer === "best" && best) frame(...best, 1);
    else if (typeof layer === "number") frame(layer, head === "all" ? 0 : head, head === "all" ? H : 1);
    byId("legend").textContent = this.region !== null && !this.heated
      ? `Rows are layers, columns heads. Filled: this head chose ${this.regionText(this.region)} for this token.` : legend;
  }
}
