// The state of the page, stored in the address after the #, so that a view can be linked to and survives a reload.

const DEFAULT_SORT = "-shift_share";
const state = { latent: null, sort: DEFAULT_SORT, filters: new Map(), query: "", ranges: new Map(), columns: [] };

function readState(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  // `latent` is also the name of a column, whose bound has the form LOW..HIGH; f is a short name for links written by hand.
  const latent = [...words.getAll("latent"), ...words.getAll("f")].find((text) => /^\d+$/.test(text));
  state.latent = latent === undefined ? null : Number(latent);
  const sort = words.get("sort") ?? DEFAULT_SORT;
  const column = sort.replace(/^-/, "");
  state.sort = data.categories[column] || data.columns[column] ? sort : DEFAULT_SORT;
  state.filters = new Map();
  for (const [name, { names }] of Object.entries(data.categories)) {
    const selected = (words.get(name) ?? "").split(",").filter((value) => names.includes(value));
    if (selected.length) state.filters.set(name, new Set(selected));
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

// Columns named after a text source or a behavior may contain a comma, the separator of the list.
const toListed = (name) => name.replaceAll("%", "%25").replaceAll(",", "%2C");
const fromListed = (text) => text.replaceAll("%2C", ",").replaceAll("%25", "%");

function bound(text, fallback) {
  const value = Number(text);
  return text === "" || Number.isNaN(value) ? fallback : value;
}

function writeState(change = {}) {
  const next = { ...state, ...change };
  const words = new URLSearchParams();
  if (next.latent !== null) words.set("latent", next.latent);
  if (next.sort !== DEFAULT_SORT) words.set("sort", next.sort);
  for (const [name, selected] of next.filters) words.set(name, data.categories[name].names.filter((value) => selected.has(value)).join(","));
  if (next.query) words.set("q", next.query);
  if (next.columns.join() !== data.standard.join()) words.set("columns", next.columns.map(toListed).join(","));
  for (const [name, [low, high]] of next.ranges) {
    words.append(name, `${low === -Infinity ? "" : low}..${high === Infinity ? "" : high}`);
  }
  return `#${words.toString().replaceAll("%2C", ",")}`;
}

// Changes the state. The Back button undoes the change, or (replace) skips it, as for each letter typed into the search. The
// page is up to date when this returns, so the next key or click acts on the new state.
function go(change, replace = false) {
  follow();
  const hash = writeState(change);
  if (hash === location.hash || (hash === "#" && location.hash === "")) return;
  if (replace) location.replace(hash);
  else location.hash = hash;
  follow();
}

const isSelected = (name, value) => Boolean(state.filters.get(name)?.has(value));

// Adds a label (or evidence level, or decision) to the filter, or removes it.
function toggleFilter(name, value) {
  const values = new Set(state.filters.get(name));
  if (!values.delete(value)) values.add(value);
  const filters = new Map(state.filters);
  if (values.size) filters.set(name, values);
  else filters.delete(name);
  go({ filters });
}

// A link to a latent from a part of the page that is rendered once, before later filters; it keeps the current filters.
function latentLink(latent, text = `latent ${latent}`) {
  const follow = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ latent });
  };
  return element("a", { href: `#latent=${latent}`, onclick: follow, text });
}

// Latents that pass every filter, in the selected order.
function selectLatents() {
  const wanted = [...state.filters].map(([name, selected]) => [data.categories[name].masks, [...selected].reduce((mask, value) => mask | (1 << data.categories[name].names.indexOf(value)), 0)]);
  const ranges = [...state.ranges].map(([name, range]) => [data.columns[name], ...storedRange(data.columns[name], range)]);
  const query = state.query.trim().toLowerCase();
  const name = state.sort.replace(/^-/, "");
  const order = latentsBy(data.categories[name]?.codes ?? data.columns[name], state.sort.startsWith("-"));
  const chosen = [];
  for (const latent of order) {
    if (query && search.found && !search.found[latent] && !decisionText(latent).includes(query)) continue;
    if (!wanted.every(([masks, mask]) => masks[latent] & mask)) continue;
    if (!ranges.every(([column, low, high]) => column[latent] >= low && column[latent] <= high && !isAbsent(column, latent))) continue;
    chosen.push(latent);
  }
  return chosen;
}

// Bounds in the precision of the column: 0.9 in single precision is slightly less than the 0.9 that was typed.
const storedRange = (column, range) => (column instanceof Float32Array ? range.map(Math.fround) : range);
