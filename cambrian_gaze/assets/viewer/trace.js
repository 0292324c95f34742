"use strict";
// A trace in the browser: who chose which region. No document is touched here, so that Node can run it as well.
// T tokens, L layers, H heads, R regions. A selection is {layer, head}: "all", "best" or a number; head "all" or a number.

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%,()*+-;.=:?@^_`{|}~";

// Bytes of base 85: four in five characters, the first the highest.
function bytesOf(text) {
  const values = new Uint8Array(128), groups = Math.ceil(text.length / 5), bytes = new Uint8Array(4 * groups);
  for (let d = 0; d < 85; d++) values[DIGITS.charCodeAt(d)] = d;
  for (let g = 0; g < groups; g++) {
    let number = 0;
    for (let at = 5 * g; at < 5 * g + 5; at++) {
      number = number * 85 + (at < text.length ? values[text.charCodeAt(at)] : 84);
    }
    for (let b = 0; b < 4; b++) bytes[4 * g + b] = number >>> (24 - 8 * b);
  }
  return bytes.subarray(0, 4 * groups - (5 * groups - text.length));
}

async function inflate(text) {
  const bytes = bytesOf(text);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const WORD = 12;

class Trace {
  static async from(data) {
    const { heat } = data, floats = async (text) => new Float32Array((await inflate(text)).buffer);
    return new Trace(data, await inflate(data.regions), await inflate(data.attended), heat && {
      layers: heat.layers, byHead: heat.by_head, cells: await inflate(heat.cells), most: await floats(heat.most),
      roles: await floats(heat.roles), heads: await inflate(heat.heads),
    });
  }

  // `heat`: attention weights, null where there are none; see `page_heat` in viz/heat.py.
  constructor(data, regions, attended, heat = null) {
    this.heat = heat;
    this.data = data;
    [this.T, this.L, this.H, this.K] = data.shape;
    this.R = data.places.length;
    this.packing = data.packing;
    const wide = data.packing === "list16";
    this.rows = wide ? new Uint16Array(regions.buffer) : regions;
    this.row = data.packing === "mask" ? Math.ceil(this.R / 8) : this.K;
    this.none = wide ? 0xffff : 0xff;
    this.attended = new Uint32Array(attended.buffer);
    this.cache = new Map();
    this.whole = false;
  }

  // [first, end) of the tokens that make up a token's word: it begins where a space or a control token ends the one
  // before. Languages without spaces have one word a line; there tokens stay alone beyond WORD of them.
  word(t) {
    const { tokens, special } = this.data;
    const begins = (n) => n === 0 || special[n] || special[n - 1] || /^\s/.test(tokens[n]) || /\s$/.test(tokens[n - 1]);
    let first = t, end = t + 1;
    while (!begins(first) && t - first < WORD) first--;
    while (end < this.T && !begins(end) && end - first <= WORD) end++;
    return end - first > WORD ? [t, t + 1] : [first, end];
  }

  // The tokens that are looked at together with a token.
  span(t) { return this.whole ? this.word(t) : [t, t + 1]; }

  // Regions that a head chose for a token; null where it attended to all of them and chose nothing.
  chosen(t, l, h) {
    const start = ((t * this.L + l) * this.H + h) * this.row;
    const found = [];
    if (this.packing === "mask") {
      for (let r = 0; r < this.R; r++) if (this.rows[start + (r >> 3)] & (1 << (r & 7))) found.push(r);
      return found.length === this.R ? null : found;
    }
    for (let k = 0; k < this.row; k++) {
      const r = this.rows[start + k];
      if (r === this.none - 1) return null;
      if (r !== this.none) found.push(r);
    }
    return found;
  }

  heads(selection, t) {
    let { layer, head } = selection;
    if (layer === "best") return this.best(t) ? [this.best(t)] : [];
    const layers = layer === "all" ? [...Array(this.L).keys()] : [layer];
    const heads = layer === "all" || head === "all" ? [...Array(this.H).keys()] : [head];
    return layers.flatMap((l) => heads.map((h) => [l, h]));
  }

  // {share: Float64Array [R], choosing, dense}: the share of the selected heads that choose which chose each region.
  // Of a whole word, the mean over its tokens.
  look(t, selection) {
    const [first, end] = this.span(t);
    if (end - first === 1) return this.lookOf(t, selection);
    const share = new Float64Array(this.R);
    let choosing = 0, dense = 0;
    for (let n = first; n < end; n++) {
      const one = this.lookOf(n, selection);
      for (let r = 0; r < this.R; r++) share[r] += one.share[r] / (end - first);
      [choosing, dense] = [Math.max(choosing, one.choosing), Math.max(dense, one.dense)];
    }
    return { share, choosing, dense };
  }

  lookOf(t, selection) {
    const key = `${t} ${selection.layer} ${selection.head}`;
    if (this.cache.has(key)) return this.cache.get(key);
    if (this.cache.size * this.R > 8e6) this.cache.clear();
    const share = new Float64Array(this.R);
    let choosing = 0, dense = 0;
    for (const [l, h] of this.heads(selection, t)) {
      const found = this.chosen(t, l, h);
      if (found === null) dense++;
      else if (found.length) {
        choosing++;
        for (const r of found) share[r]++;
      }
    }
    for (let r = 0; r < this.R; r++) share[r] /= Math.max(1, choosing);
    const told = { share, choosing, dense };
    this.cache.set(key, told);
    return told;
  }

  // Float64Array [L * H]: how much the others chose what a head chose, mean over its regions; NaN where it chose none.
  agreement(t) {
    const key = `agreement ${t}`;
    if (this.cache.has(key)) return this.cache.get(key);
    const { share } = this.lookOf(t, { layer: "all", head: "all" });
    const values = new Float64Array(this.L * this.H);
    for (let l = 0; l < this.L; l++) {
      for (let h = 0; h < this.H; h++) {
        const found = this.chosen(t, l, h);
        values[l * this.H + h] =
          found && found.length ? found.reduce((sum, r) => sum + share[r], 0) / found.length : NaN;
      }
    }
    this.cache.set(key, values);
    return values;
  }

  // [layer, head] with the highest agreement, the first of equals; null where no head chose.
  best(t) {
    let place = -1;
    const values = this.agreement(t);
    values.forEach((value, i) => {
      if (!Number.isNaN(value) && (place < 0 || value > values[place] + 1e-12)) place = i;
    });
    return place < 0 ? null : [Math.floor(place / this.H), place % this.H];
  }

  // Float64Array [T]: share of the selected heads that looked at a region, word by word.
  words(region, selection) {
    return Float64Array.from({ length: this.T }, (_, t) => this.look(t, selection).share[region]);
  }

  // Of a layer the page may hold the mean over layers alone.
  heatLayers(layer) {
    const { layers } = this.heat;
    return typeof layer === "number" && layers === this.L ? [layer] : [...Array(layers).keys()];
  }

  // Float64Array [N]: attention weight on each visual token, mean over heads, over the layers (all, or one), and over
  // the tokens of a word.
  heatOf(t, layer) {
    const [first, end] = this.span(t), { layers, cells, most } = this.heat, chosen = this.heatLayers(layer);
    const key = `heat ${first} ${end} ${chosen}`;
    if (this.cache.has(key)) return this.cache.get(key);
    const N = cells.length / Math.max(1, this.T * layers), values = new Float64Array(N);
    for (let n = first; n < end; n++) {
      for (const l of chosen) {
        const at = n * layers + l, scale = most[at] / 65025 / chosen.length / (end - first);
        for (let i = 0; i < N; i++) values[i] += cells[at * N + i] ** 2 * scale;
      }
    }
    this.cache.set(key, values);
    return values;
  }

  // Attention weight on visual, context and text entries, the same mean.
  rolesOf(t, layer) {
    const [first, end] = this.span(t), layers = typeof layer === "number" ? [layer] : [...Array(this.L).keys()];
    const sums = [0, 0, 0];
    for (let n = first; n < end; n++) {
      for (const l of layers) for (let i = 0; i < 3; i++) sums[i] += this.heat.roles[(n * this.L + l) * 3 + i];
    }
    return sums.map((sum) => sum / (layers.length * (end - first)));
  }

  // Attention weight of a head inside what it looked at.
  headMass(t, l, h) {
    const [first, end] = this.span(t);
    let sum = 0;
    for (let n = first; n < end; n++) sum += this.heat.heads[(n * this.L + l) * this.H + h];
    return sum / 255 / (end - first);
  }

  // Numbers of a region's visual tokens among all N.
  cellsOf(region) {
    const [item, start, stop] = this.data.places[region], [top, left, bottom, right] = this.data.tokens_of[region];
    const found = [];
    for (const unit of this.data.units) {
      if (unit.item !== item || unit.frame < start || unit.frame >= stop) continue;
      const columns = unit.edges[0].length - 1;
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) found.push(unit.first + y * columns + x);
    }
    return found;
  }

  // Float64Array [T]: attention weight inside a region, word by word.
  heatWords(region, layer) {
    const cells = this.cellsOf(region);
    return Float64Array.from({ length: this.T }, (_, t) => {
      const heat = this.heatOf(t, layer);
      return cells.reduce((sum, n) => sum + heat[n], 0);
    });
  }

  // Mean visual, context and text entries over the selected heads.
  entries(t, selection) {
    const heads = this.heads(selection, t);
    const sums = [0, 0, 0];
    for (const [l, h] of heads) {
      for (let i = 0; i < 3; i++) sums[i] += this.attended[((t * this.L + l) * this.H + h) * 3 + i];
    }
    return sums.map((sum) => sum / Math.max(1, heads.length));
  }

  // The regions chosen most, heaviest first, those of share 0 left out.
  top(t, selection, count) {
    const { share } = this.look(t, selection);
    const order = [...share.keys()].filter((r) => share[r] > 0).sort((a, b) => share[b] - share[a] || a - b);
    return order.slice(0, count);
  }
}

if (typeof module !== "undefined") module.exports = { Trace };
