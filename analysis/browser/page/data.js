// Packs of typed arrays in inert script elements; the format is described in payload.py.

const CACHED_CHUNKS = 12;
const ARRAYS = { Float64Array, Float32Array, Int32Array, Uint32Array, Uint8Array };

const data = { header: null, columns: Object.create(null), labels: null, categories: Object.create(null), detailed: null, peaks: null, points: null, n: 0, standard: [], hasNorms: false };
const chunks = new Map();

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

async function unpack(id) {
  const stored = new Blob([fromBase64(document.getElementById(id).textContent)]);
  const stream = stored.stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, [type, offset, count]] of Object.entries(header.arrays)) {
    arrays[name] = new ARRAYS[type](buffer, 8 + length + offset, count);
  }
  return { header, arrays };
}

async function loadOverview() {
  const { header, arrays } = await unpack("overview-data");
  data.header = header;
  data.n = header.n_latents;
  data.labels = arrays.labels;
  data.categories.label = category(header.labels, arrays.labels);
  data.categories.decision = decisionCategory(data.n);
  if (arrays.evidence) data.categories.evidence = category(header.levels, arrays.evidence);
  data.detailed = arrays.detailed;
  data.peaks = arrays.peaks;
  data.points = arrays.points;
  for (const [name, array] of Object.entries(arrays)) {
    if (name.startsWith("column:")) data.columns[name.slice(7)] = array;
  }
}

// A property with a few values: each latent's `codes` are what it is sorted by, its `masks` have one bit for each value that it has.
function category(names, codes, masks = Uint16Array.from(codes, (code) => 1 << code)) {
  return { names, codes, masks };
}

function loadChunk(index) {
  if (!chunks.has(index)) {
    if (chunks.size >= CACHED_CHUNKS) chunks.delete(chunks.keys().next().value);
    chunks.set(index, unpack(`chunk-${index}`));
  }
  return chunks.get(index);
}

const labelOf = (latent) => data.header.labels[data.labels[latent]];
const categoryOf = (name, latent) => data.categories[name].names[data.categories[name].codes[latent]];
const tokenText = (index) => data.header.tokens.texts[index];
const tokenId = (index) => data.header.tokens.ids[index];

// A column's value, or null where it was not measured. Integers have -1 for that, but no measured -1.
function valueOf(name, latent) {
  const column = data.columns[name];
  if (!column) return null;
  const value = column[latent];
  if (column instanceof Int32Array) return value === -1 ? null : value;
  return Number.isNaN(value) ? null : value;
}

// Tokens of a latent from `peaks` or `points`; both hold the same number a latent, padded with -1.
function gistTokens(name, latent) {
  const size = data.header.gist_tokens;
  return Array.from(data[name].subarray(latent * size, (latent + 1) * size)).filter((token) => token >= 0);
}

function examplesOf(chunk, latent) {
  const arrays = chunk.arrays;
  const examples = [];
  let offset = 0;
  for (let row = 0; row < arrays.example_latent.length; row++) {
    const length = arrays.example_length[row];
    if (arrays.example_latent[row] === latent) {
      const part = (name) => arrays[name].subarray(offset, offset + length);
      const quantile = arrays.example_quantile[row];
      examples.push({
        rank: arrays.example_rank[row],
        quantile: Number.isNaN(quantile) ? null : quantile,
        document: arrays.example_document[row],
        source: chunk.header.sources[arrays.example_source[row]],
        start: arrays.example_start[row],
        position: arrays.example_position[row],
        peak: arrays.example_peak[row],
        tokens: part("example_tokens"),
        flags: part("example_flags"),
        values: part("example_values"),
        reference: part("example_reference"),
        intervened: part("example_intervened"),
      });
    }
    offset += length;
  }
  return examples;
}

function logitsOf(chunk, latent) {
  const arrays = chunk.arrays;
  const tables = [0, 1, 2].map(() => [[], []]);
  for (let row = 0; row < arrays.logit_latent.length; row++) {
    if (arrays.logit_latent[row] !== latent) continue;
    tables[arrays.logit_model[row]][arrays.logit_side[row]].push([arrays.logit_token[row], arrays.logit_value[row]]);
  }
  return tables;
}
