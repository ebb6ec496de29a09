// What is shown, kept in the address after the #, so that a view can be linked to and survives a reload.

const DEFAULT_SORT = "-shift_share";
const state = { latent: null, sort: DEFAULT_SORT, kept: new Map(), query: "", ranges: new Map(), columns: [] };

function readState(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const latent = words.get("latent");
  state.latent = latent !== null && /^\d+$/.test(latent) ? Number(latent) : null;
  const sort = words.get("sort") ?? DEFAULT_SORT;
  const column = sort.replace(/^-/, "");
  state.sort = data.categories[column] || data.columns[column] ? sort : DEFAULT_SORT;
  state.kept = new Map();
  for (const [name, { names }] of Object.entries(data.categories)) {
    const kept = (words.get(name) ?? "").split(",").filter((value) => names.includes(value));
    if (kept.length) state.kept.set(name, new Set(kept));
  }
  state.query = words.get("q") ?? "";
  const columns = (words.get("columns") ?? "").split(",").filter((name) => data.categories[name] || isGist(name) || data.columns[name]);
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
  for (const [name, kept] of next.kept) words.set(name, data.categories[name].names.filter((value) => kept.has(value)).join(","));
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

const isKept = (name, value) => Boolean(state.kept.get(name)?.has(value));

// Keeps latents of one more label (or level of evidence), or no longer.
function toggleKept(name, value) {
  const values = new Set(state.kept.get(name));
  if (!values.delete(value)) values.add(value);
  const kept = new Map(state.kept);
  if (values.size) kept.set(name, values);
  else kept.delete(name);
  go({ kept });
}

// To a latent, from a part of the page that is made once and does not follow the filters.
function latentLink(latent, text = `latent ${latent}`) {
  const follow = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ latent });
  };
  return element("a", { href: `#latent=${latent}`, onclick: follow, text });
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
      search.texts[latent] = `${data.header.explanations[latent]}\n${data.header.written?.[latent] ?? ""}\n${texts.join("\n")}`.toLowerCase();
    });
    search.indexed = Math.min(data.n, (index + 1) * size);
    if (index % 8 === 7) refresh();
    await new Promise((resolve) => setTimeout(resolve));
  }
  refresh();
}

// Latents that pass every filter, in the order asked for.
function selectLatents() {
  const wanted = [...state.kept].map(([name, kept]) => [data.categories[name].codes, new Set([...kept].map((value) => data.categories[name].names.indexOf(value)))]);
  const query = state.query.trim().toLowerCase();
  const ranges = [...state.ranges].map(([name, [low, high]]) => [data.columns[name], low, high]);
  const chosen = [];
  for (let latent = 0; latent < data.n; latent++) {
    if (!wanted.every(([codes, kept]) => kept.has(codes[latent]))) continue;
    if (!ranges.every(([column, low, high]) => column[latent] >= low && column[latent] <= high)) continue;
    if (query && !(String(latent) === query || (search.texts[latent] ?? "").includes(query))) continue;
    chosen.push(latent);
  }
  const descending = state.sort.startsWith("-");
  const name = state.sort.replace(/^-/, "");
  const column = data.categories[name]?.codes ?? data.columns[name];
  const absent = (value) => Number.isNaN(value) || (column instanceof Int32Array && value === -1);
  chosen.sort((a, b) => {
    const [left, right] = [column[a], column[b]];
    if (absent(left) || absent(right)) return absent(left) - absent(right) || a - b;
    return (descending ? right - left : left - right) || a - b;
  });
  return chosen;
}
