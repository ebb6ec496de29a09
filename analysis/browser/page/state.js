// What is shown, kept in the address after the #, so that a view can be linked to and survives a reload.

const DEFAULT_SORT = "-shift_share";
const state = { latent: null, sort: DEFAULT_SORT, kept: new Map(), query: "", ranges: new Map(), columns: [] };

function readState(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  // A bound on the column of the same name is no number; f is a short name for links written by hand.
  const latent = [...words.getAll("latent"), ...words.getAll("f")].find((text) => /^\d+$/.test(text));
  state.latent = latent === undefined ? null : Number(latent);
  const sort = words.get("sort") ?? DEFAULT_SORT;
  const column = sort.replace(/^-/, "");
  state.sort = data.categories[column] || data.columns[column] ? sort : DEFAULT_SORT;
  state.kept = new Map();
  for (const [name, { names }] of Object.entries(data.categories)) {
    const kept = (words.get(name) ?? "").split(",").filter((value) => names.includes(value));
    if (kept.length) state.kept.set(name, new Set(kept));
  }
  state.query = words.get("q") ?? "";
  const columns = (words.get("columns") ?? "").split(",").map(fromListed).filter((name) => data.categories[name] || isGist(name) || data.columns[name]);
  state.columns = columns.length ? columns : data.standard;
  state.ranges = new Map();
  for (const [name, text] of words) {
    const match = data.columns[name] && /^(-?[\d.e+-]*)\.\.(-?[\d.e+-]*)$/.exec(text);
    if (match) state.ranges.set(name, [bound(match[1], -Infinity), bound(match[2], Infinity)]);
  }
}

// A column is named after a source of text, or a behavior, and so may hold the comma of the list.
const toListed = (name) => name.replaceAll("%", "%25").replaceAll(",", "%2C");
const fromListed = (text) => text.replaceAll("%2C", ",").replaceAll("%25", "%");

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
  if (next.columns.join() !== data.standard.join()) words.set("columns", next.columns.map(toListed).join(","));
  for (const [name, [low, high]] of next.ranges) {
    words.append(name, `${low === -Infinity ? "" : low}..${high === Infinity ? "" : high}`);
  }
  return `#${words.toString().replaceAll("%2C", ",")}`;
}

// A step that the Back button undoes, or (replace) one that it skips, such as a letter typed into the search. The page has
// followed when this returns, so that the next key or click finds it as the step left it.
function go(change, replace = false) {
  follow();
  const hash = writeState(change);
  if (hash === location.hash || (hash === "#" && location.hash === "")) return;
  if (replace) location.replace(hash);
  else location.hash = hash;
  follow();
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

// Latents that pass every filter, in the order asked for.
function selectLatents() {
  const wanted = [...state.kept].map(([name, kept]) => [data.categories[name].masks, [...kept].reduce((mask, value) => mask | (1 << data.categories[name].names.indexOf(value)), 0)]);
  const ranges = [...state.ranges].map(([name, range]) => [data.columns[name], ...storedRange(data.columns[name], range)]);
  const query = state.query.trim().toLowerCase();
  const name = state.sort.replace(/^-/, "");
  const order = latentsBy(data.categories[name]?.codes ?? data.columns[name], state.sort.startsWith("-"));
  const chosen = [];
  for (const latent of order) {
    if (query && search.found && !search.found[latent] && !wordsOf(latent).includes(query)) continue;
    if (!wanted.every(([masks, kept]) => masks[latent] & kept)) continue;
    if (!ranges.every(([column, low, high]) => column[latent] >= low && column[latent] <= high && !isAbsent(column, latent))) continue;
    chosen.push(latent);
  }
  return chosen;
}

// Bounds as the column stores its numbers: 0.9 as single precision is a little less than the 0.9 that is typed.
const storedRange = (column, range) => (column instanceof Float32Array ? range.map(Math.fround) : range);
