"use strict";
// Attention weights in the place of choices: the same page, asked for heat. `Viewer` (viewer.js) is the rest of this class.

const share = (value) => (value > 0 && value < 0.0995 ? `${(100 * value).toPrecision(2)}\u00a0%` : percent(value));

class HeatDrawing extends Drawing {
  get heated() { return this.state.show === "heat" && this.trace.heat !== null; }

  draw() {
    byId("shows").hidden = this.trace.heat === null || !this.trace.T;
    for (const radio of document.querySelectorAll('input[name="show"]')) radio.checked = radio.value === this.state.show;
    const notice = byId("failed");
    if (notice.className === "notice") notice.hidden = this.quiet || this.heated;
    byId("scale").hidden = !this.heated || !this.trace.T;
    super.draw();
    if (this.heated) byId("head").disabled = true;
  }

  // The weights on the visual tokens of a picture, over the picture in grey.
  drawHeat(svg, unit) {
    const heat = this.trace.heatOf(this.token, this.state.layer), [xs, ys] = unit.edges, columns = xs.length - 1;
    const most = heat.reduce((a, b) => Math.max(a, b), 0);
    for (let row = 0; row + 1 < ys.length; row++) {
      for (let column = 0; column < columns; column++) {
        const lit = most ? Math.sqrt(heat[unit.first + row * columns + column] / most) : 0;
        const width = xs[column + 1] - xs[column], height = ys[row + 1] - ys[row];
        if (lit < 0.02 || width <= 0 || height <= 0) continue;
        shape(svg, "rect", { x: xs[column], y: ys[row], width, height, class: "hot", "fill-opacity": (0.9 * lit).toFixed(3) });
      }
    }
    [0, most / 4, most].forEach((value, place) => { byId("scale").children[place + 1].textContent = share(value); });
  }

  whoseHeat() {
    const { L, H } = this.trace, { layer } = this.state;
    return this.trace.heatLayers(layer).length === 1 && typeof layer === "number"
      ? `mean over the ${H} heads of layer ${layer}` : `mean over the ${H} heads of all ${L} layers`;
  }

  drawTold(look) {
    if (!this.heated) return super.drawTold(look);
    const { trace, data } = this, t = this.token, { layer } = this.state, [first, end] = trace.span(t);
    const heat = trace.heatOf(t, layer), [visual, context, text] = trace.rolesOf(t, layer);
    const word = data.tokens.slice(first, end).join("").trim() || "(space or part of a character)";
    const lines = [end - first > 1 ? `Tokens ${first + 1} to ${end} of ${trace.T}, “${word}”, mean over them: `
      : `Token ${t + 1} of ${trace.T}, “${word}”: `];
    lines.push(`${share(visual)} of the attention lay on the picture${data.units.length > 1 ? "s" : ""}, `,
      `${share(context)} on context tokens, ${share(text)} on text. `);
    const hottest = heat.indexOf(heat.reduce((a, b) => Math.max(a, b), 0));
    if (heat[hottest] > 0) {
      const unit = data.units.findLast((one) => one.first <= hottest), columns = unit.edges[0].length - 1;
      const row = Math.floor((hottest - unit.first) / columns), column = (hottest - unit.first) % columns;
      const where = data.units.length > 1 ? `${unit.name}, ` : "";
      lines.push(`Most on one visual token: ${share(heat[hottest])} (${where}row ${row + 1}, column ${column + 1}). `);
    }
    if (this.region !== null) {
      const inside = trace.cellsOf(this.region).reduce((sum, n) => sum + heat[n], 0);
      lines.push(`Inside ${this.regionText(this.region)}: ${share(inside)}.`);
    }
    byId("told").textContent = lines.join("");
    this.drawAlternatives(t);
    const alone = typeof layer === "number" && trace.heat.layers !== trace.L;
    byId("meaning").textContent = `Heat: share of attention weight on each visual token, ${this.whoseHeat()}. What a head `
      + "did not look at counts as nothing. Text and context have the rest."
      + (alone ? " This page holds the mean over layers alone; the trace may have each layer's." : "");
  }

  drawWords() {
    super.drawWords();
    if (!this.heated || this.region === null) return;
    const strength = this.trace.heatWords(this.region, this.state.layer);
    const most = Math.max(1e-12, ...strength);
    [...byId("words").children].forEach((word, t) => {
      word.style.setProperty("--w", (strength[t] / most).toFixed(3));
      word.title = `${share(strength[t])} of the attention`;
    });
  }

  // Weight of a token on each picture or frame.
  weights(t) {
    if (!this.heated) {
      const { share } = this.trace.look(t, this.selection);
      return this.regionsOf.map((regions) => regions.reduce((sum, r) => sum + share[r], 0));
    }
    const heat = this.trace.heatOf(t, this.state.layer);
    return this.data.units.map(({ first, edges: [xs, ys] }) =>
      heat.subarray(first, first + (xs.length - 1) * (ys.length - 1)).reduce((a, b) => a + b, 0)
    );
  }

  // Float64Array [L * H] of values that the map shows, the value that fills a cell, and what they mean.
  mapped(t) {
    if (!this.heated) return super.mapped(t);
    const { L, H, heat } = this.trace;
    const values = Float64Array.from({ length: L * H }, (_, i) => this.trace.headMass(t, Math.floor(i / H), i % H));
    const most = values.reduce((a, b) => Math.max(a, b), 0);
    const where = heat.byHead ? "inside the regions that it looked at" : "on the pictures (its layer's mean)";
    return { values, most: most || 1, best: null, legend: "Rows are layers, columns heads. The fuller, the more of its "
      + `attention a head gave ${where} (fullest: ${share(most)}). A click picks the layer.` };
  }
}
