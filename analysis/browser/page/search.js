// Search. The overview (explanations, tokens that a latent peaks on and points at) is searched at once; examples and logit
// tables follow pack by pack, and the table updates as matches are found. Tokens are compared one by one, never joined into
// texts: 65,536 latents with 20 examples of 40 tokens would be 250 MB of text.

const search = { query: "", found: null, done: 0, unread: 0, lower: null, cached: new Map(), cachedTokens: 0 };
const CACHED_TOKENS = 2 ** 24; // 64 MiB of token numbers: in small runs the next query need not unpack again
const AHEAD = 3; // packs loaded ahead while one is compared
const REFRESH = 250; // milliseconds between updates of the table

// After Knuth, Morris and Pratt (1977): the state is the number of query letters that the text so far ends with, −1 once found.
function matcher(query) {
  const fallback = new Uint16Array(query.length);
  const step = (from, letter) => {
    let state = from;
    while (state && letter !== query[state]) state = fallback[state - 1];
    return letter === query[state] ? state + 1 : state;
  };
  for (let at = 1; at < query.length; at++) fallback[at] = step(fallback[at - 1], query[at]);
  const advance = (from, text) => {
    let state = from;
    for (let at = 0; at < text.length; at++) {
      state = step(state, text[at]);
      if (state === query.length) return -1;
    }
    return state;
  };
  // Most tokens are reached in state 0, so one table lookup suffices for them.
  const fromStart = Int32Array.from(search.lower, (text) => advance(0, text));
  return { fromStart, after: (state, token) => (state ? advance(state, search.lower[token]) : fromStart[token]) };
}

// Starts a search for a new query; calls `refresh` when there may be new matches.
function searchFor(query, refresh) {
  if (query === search.query) return;
  Object.assign(search, { query, found: null, done: 0, unread: 0 });
  if (!query) return;
  search.lower ??= data.header.tokens.texts.map((text) => text.toLowerCase());
  search.explanations ??= data.header.explanations.map((text, latent) => `${text}\n${data.header.written?.[latent] ?? ""}`.toLowerCase());
  const found = new Uint8Array(data.n);
  const { fromStart, after } = matcher(query);
  const size = data.header.gist_tokens;
  for (let latent = 0; latent < data.n; latent++) found[latent] = search.explanations[latent].includes(query) || String(latent) === query;
  for (const tokens of [data.peaks, data.points]) {
    for (let at = 0; at < tokens.length; at++) if (tokens[at] >= 0 && fromStart[tokens[at]] < 0) found[Math.floor(at / size)] = 1;
  }
  search.found = found;
  searchPacks(query, found, after, refresh).catch(fail);
}

async function searchPacks(query, found, after, refresh) {
  const size = data.header.chunk_latents;
  const count = Math.ceil(data.n / size);
  const coming = [];
  let shown = performance.now();
  for (let index = 0; index < count; index++) {
    while (coming.length <= AHEAD && index + coming.length < count) coming.push(packTokens(index + coming.length));
    const tokens = await coming.shift();
    if (search.query !== query) return;
    if (tokens) comparePack(tokens, found, after);
    else search.unread++;
    search.done = Math.min(data.n, (index + 1) * size);
    if (performance.now() - shown > REFRESH) {
      refresh();
      await new Promise((resolve) => setTimeout(resolve));
      shown = performance.now();
    }
  }
  refresh();
}

function comparePack({ latents, lengths, tokens, logitLatents, logitTokens, logitReadable }, found, after) {
  let begin = 0;
  for (let row = 0; row < latents.length; row++) {
    const end = begin + lengths[row];
    let state = 0;
    for (let at = begin; at < end && state >= 0 && !found[latents[row]]; at++) state = after(state, tokens[at]);
    if (state < 0) found[latents[row]] = 1;
    begin = end;
  }
  for (let row = 0; row < logitLatents.length; row++) if (logitReadable[row] && after(0, logitTokens[row]) < 0) found[logitLatents[row]] = 1;
}

// The tokens of a pack, copied so that the rest can be freed; null if the pack cannot be read, which the latent's page reports.
async function packTokens(index) {
  const cached = search.cached.get(index);
  if (cached) return cached;
  try {
    const { arrays } = await unpack(await storedPack(index), packName(index));
    const copy = (name) => arrays[name].slice();
    const tokens = { latents: copy("example_latent"), lengths: copy("example_length"), tokens: copy("example_tokens"), logitLatents: copy("logit_latent"), logitTokens: copy("logit_token"), logitReadable: copy("logit_readable") };
    const amount = tokens.tokens.length + tokens.logitTokens.length;
    if (search.cachedTokens + amount <= CACHED_TOKENS) {
      search.cached.set(index, tokens);
      search.cachedTokens += amount;
    }
    return tokens;
  } catch (error) {
    if (error instanceof PackError) return null;
    throw error;
  }
}

function searchProgress() {
  if (!search.query) return "";
  const unread = search.unread ? `; ${whole(search.unread)} of ${whole(Math.ceil(data.n / data.header.chunk_latents))} files could not be read` : "";
  return (search.done < data.n ? `; searching, ${percent(search.done / data.n)} done` : "") + unread;
}
