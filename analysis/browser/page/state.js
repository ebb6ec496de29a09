// What is shown, kept in the address after the #, so that a view can be linked to and survives a reload.

const DEFAULT_SORT = "-shift_share";
const state = { latent: null, sort: DEFAULT_SORT, labels: new Set(), query: "", ranges: new Map(), columns: [] };

function readState(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const latent = words.get("latent");
  state.latent = latent !== null && /^\d+$/.test(latent) ? Number(latent) : null;
  const sort = words.get("sort") ?? DEFAULT_SORT;
  const column = sort.replace(/^-/, "");
  state.sort = column === "label" || data.columns[column] ? sort : DEFAULT_SORT;
  state.labels = new Set((words.get("label") ?? "").split(",").filter((label) => data.header.labels.includes(label)));
  state.query = words.get("q") ?? "";
  const columns = (words.get("columns") ?? "").split(",").filter((name) => name === "label" || isGist(name) || data.columns[name]);
  state.columns = columns.length ? columns : data.standard;
  state.ranges = new Map();
  for (const [name, text] of words) {
    const match = data.columns[name] && /^(-?[\d.e+-]*)\.\.(-?[\d.e+-]*)$/.exec(text);
    if (match) state.ranges.set(name, [bound(match[1], -Infinity), bound(match[2], Infinity)]);
  }
}

function bound(text, otherwise) {
  const value = Number(text);
  return text === "" || Number.isNaN(value) ? otherwise : value;
}

function writeState(change = {}) {
  const next = { ...state, ...change };
  const words = new URLSearchParams();
  if (next.latent !== null) words.set("latent", next.latent);
  if (next.sort !== DEFAULT_SORT) words.set("sort", next.sort);
  if (next.labels.size) words.set("label", data.header.labels.filter((label) => next.labels.has(label)).join(","));
  if (next.query) words.set("q", next.query);
  if (next.columns.join() !== data.standard.join()) words.set("columns", next.columns.join(","));
  for (const [name, [low, high]] of next.ranges) {
    words.set(name, `${low === -Infinity ? "" : low}..${high === Infinity ? "" : high}`);
  }
  return `#${words.toString().replaceAll("%2C", ",")}`;
}

// A step that the Back button undoes, or (replace) one that it skips, such as a letter typed into the search.
function go(change, replace = false) {
  const hash = writeState(change);
  if (hash === location.hash || (hash === "#" && location.hash === "")) return;
  if (replace) location.replace(hash);
  else location.hash = hash;
}

function toggleLabel(label) {
  const labels = new Set(state.labels);
  if (!labels.delete(label)) labels.add(label);
  go({ labels });
}

const search = { texts: [], indexed: 0, running: false };

// The text of every latent, chunk by chunk; `refresh` is called as the index grows.
async function indexTexts(refresh) {
  if (search.running) return;
  search.running = true;
  const size = data.header.chunk_latents;
  for (let index = 0; index * size < data.n; index++) {
    const chunk = await unpack(`chunk-${index}`);
    const { example_latent, example_length, example_tokens, logit_latent, logit_token } = chunk.arrays;
    const parts = Array.from({ length: Math.min(size, data.n - index * size) }, () => []);
    let offset = 0;
    for (let row = 0; row < example_latent.length; row++) {
      const end = offset + example_length[row];
      parts[example_latent[row] - index * size].push(Array.from(example_tokens.subarray(offset, end), tokenText).join(""));
      offset = end;
    }
    for (let row = 0; row < logit_latent.length; row++) parts[logit_latent[row] - index * size].push(tokenText(logit_token[row]));
    parts.forEach((texts, part) => {
      const latent = index * size + part;
      search.texts[latent] = `${data.header.explanations[latent]}\n${texts.join("\n")}`.toLowerCase();
    });
    search.indexed = Math.min(data.n, (index + 1) * size);
    if (index % 8 === 7) refresh();
    await new Promise((resolve) => setTimeout(resolve));
  }
  refresh();
}

// Latents that pass every filter, in the order asked for.
function selectLatents() {
  const wanted = new Set([...state.labels].map((label) => data.header.labels.indexOf(label)));
  const query = state.query.trim().toLowerCase();
  const ranges = [...state.ranges].map(([name, [low, high]]) => [data.columns[name], low, high]);
  const chosen = [];
  for (let latent = 0; latent < data.n; latent++) {
    if (wanted.size && !wanted.has(data.labels[latent])) continue;
    if (!ranges.every(([column, low, high]) => column[latent] >= low && column[latent] <= high)) continue;
    if (query && !(String(latent) === query || (search.texts[latent] ?? "").includes(query))) continue;
    chosen.push(latent);
  }
  const descending = state.sort.startsWith("-");
  const name = state.sort.replace(/^-/, "");
  const column = name === "label" ? data.labels : data.columns[name];
  const absent = (value) => Number.isNaN(value) || (column instanceof Int32Array && value === -1);
  chosen.sort((a, b) => {
    const [left, right] = [column[a], column[b]];
    if (absent(left) || absent(right)) return absent(left) - absent(right) || a - b;
    return (descending ? right - left : left - right) || a - b;
  });
  return chosen;
}
