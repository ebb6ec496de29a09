// Packs of typed arrays, in inert script elements or in files next to the page; payload.py describes the format.

const CACHED_CHUNKS = 12;
const ARRAYS = { Float64Array, Float32Array, Int32Array, Uint32Array, Uint8Array };

const data = { header: null, columns: Object.create(null), labels: null, categories: Object.create(null), peaks: null, points: null, n: 0, standard: [], hasNorms: false };
const chunks = new Map();

// A pack that is missing or damaged. Reported where the pack is needed; the rest of the page keeps working.
class PackError extends Error {}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  return bytes;
}

const packName = (index) => (data.header.files ? `${data.header.files.folder}/${data.header.files.names[index]}.js` : `pack ${index} of this file`);

function storedPack(index) {
  const { files } = data.header;
  if (files) return filePack(files, files.names[index]);
  return Promise.resolve(document.getElementById(`chunk-${index}`)?.textContent ?? "");
}

// Called by the script of a pack. A page opened from disk may not fetch files next to it, but it may load scripts.
const received = new Map();
globalThis.crosscoderPack = (name, text) => received.set(name, text);

function filePack({ folder, nonce }, name) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: `${folder}/${name}.js`, nonce });
    // The load event fires right after the script has run.
    script.addEventListener("load", () => {
      script.remove();
      resolve(received.get(name) ?? "");
      received.delete(name);
    });
    script.addEventListener("error", () => {
      script.remove();
      reject(new PackError(`${folder}/${name}.js is missing or not readable. It belongs next to index.html: copy the whole folder, or run crosscoder browse again.`));
    });
    document.head.append(script);
  });
}

async function unpack(text, name) {
  const buffer = await unzipped(text).catch(() => {
    throw new PackError(`${name} is damaged. Run crosscoder browse again.`);
  });
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, [type, offset, count]] of Object.entries(header.arrays)) {
    arrays[name] = new ARRAYS[type](buffer, 8 + length + offset, count);
  }
  return { header, arrays };
}

async function unzipped(text) {
  const stream = new Blob([fromBase64(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).arrayBuffer();
}

async function loadOverview() {
  const { header, arrays } = await unpack(document.getElementById("overview-data").textContent, "index.html");
  data.header = header;
  data.n = header.n_latents;
  data.labels = arrays.labels;
  data.categories.label = category(header.labels, arrays.labels);
  if (arrays.candidates) data.categories.candidate = category(header.labels, arrays.candidates);
  data.categories.decision = decisionCategory(data.n);
  if (arrays.evidence) data.categories.evidence = category(header.levels, arrays.evidence);
  data.peaks = arrays.peaks;
  data.points = arrays.points;
  for (const [name, array] of Object.entries(arrays)) {
    if (name.startsWith("column:")) data.columns[name.slice(7)] = array;
  }
}

// A property with few values: `codes` are the sort keys of the latents; `masks` have one bit per value that a latent has.
function category(names, codes, masks = Uint16Array.from(codes, (code) => 1 << code)) {
  return { names, codes, masks };
}

function loadChunk(index) {
  if (!chunks.has(index)) {
    if (chunks.size >= CACHED_CHUNKS) chunks.delete(chunks.keys().next().value);
    const chunk = storedPack(index).then((text) => unpack(text, packName(index)));
    // The next visit tries again: the file may have been restored.
    chunk.catch(() => chunks.delete(index));
    chunks.set(index, chunk);
  }
  return chunks.get(index);
}

// Number of latents with each label.
function labelCounts() {
  const counts = new Array(data.header.labels.length).fill(0);
  for (const code of data.labels) counts[code]++;
  return counts;
}

const labelOf = (latent) => data.header.labels[data.labels[latent]];
const categoryOf = (name, latent) => data.categories[name].names[data.categories[name].codes[latent]];
const tokenText = (index) => data.header.tokens.texts[index];
const tokenId = (index) => data.header.tokens.ids[index];

// Integer columns mark missing values by -1, which is never a measured value.
const isAbsent = (column, latent) => (column instanceof Int32Array ? column[latent] === -1 : Number.isNaN(column[latent]));

// Value of a column, or null if it was not measured.
function valueOf(name, latent) {
  const column = data.columns[name];
  return !column || isAbsent(column, latent) ? null : column[latent];
}

// Tokens of a latent from `peaks` or `points`; both have a fixed number of slots per latent, padded with -1.
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

// The logit tables of a latent, by model and side: [token, value, whether the list reads as tokens] each.
function logitsOf(chunk, latent) {
  const arrays = chunk.arrays;
  const tables = [0, 1, 2].map(() => [[], []]);
  for (let row = 0; row < arrays.logit_latent.length; row++) {
    if (arrays.logit_latent[row] !== latent) continue;
    tables[arrays.logit_model[row]][arrays.logit_side[row]].push([arrays.logit_token[row], arrays.logit_value[row], arrays.logit_readable[row] === 1]);
  }
  return tables;
}
