// The table of latents: only the rows in view exist as elements, so that 65,536 latents scroll like 200.

const OVERSCAN = 6;
const table = { rows: [], key: null, body: null, spacer: null, header: null, count: null, chips: null, layout: null };
const narrow = matchMedia("(max-width: 720px)");

const shownColumns = () => (narrow.matches ? NARROW : state.columns);
const rowHeight = () => (narrow.matches ? 58 : 34);

function latentTable() {
  table.header = element("div", { class: "row head", role: "row" });
  table.spacer = element("div", { class: "spacer", role: "presentation" });
  table.body = element("div", { class: "table-body", tabindex: "0", role: "rowgroup", "aria-label": "latents" }, table.spacer);
  table.body.addEventListener("scroll", () => renderRows());
  table.body.addEventListener("keydown", moveFocus);
  table.layout = element("div", { class: "table", role: "table", "aria-label": "Latents" }, [table.header, table.body]);
  narrow.addEventListener("change", () => renderTable(true));
  return element("section", { class: "latents", "aria-label": "Latents" }, [
    element("h2", { text: "Latents" }),
    toolbar(),
    table.layout,
    partialNote(),
  ]);
}

function partialNote() {
  const detailed = data.detailed.reduce((sum, flag) => sum + flag, 0);
  if (detailed === data.n) return null;
  const text = `Examples and logit tables are in this file for ${whole(detailed)} of ${whole(data.n)} latents: all that changed, then those with the largest shift share. The others have their numbers only; examples.parquet holds the rest.`;
  return element("p", { class: "caption", text });
}

function toolbar() {
  const query = element("input", { type: "search", id: "query", placeholder: "explanation, example text, logit tokens, number", autocomplete: "off", spellcheck: "false" });
  let pause = 0;
  query.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => go({ query: query.value }, true), 120);
  });
  const sort = element("select", { id: "sort", onchange: () => go({ sort: sort.value }) });
  table.chips = element("div", { class: "chips" });
  table.count = element("p", { class: "count-line", role: "status" });
  return element("div", { class: "toolbar" }, [
    element("label", { class: "field wide" }, [element("span", { text: "search" }), query]),
    rangeField(),
    evidenceField(),
    element("label", { class: "field" }, [element("span", { text: "sort by" }), sort]),
    columnMenu(),
    table.chips,
    table.count,
  ]);
}

// Only where anything is more than observed: there is nothing to choose from otherwise.
function evidenceField() {
  const { evidence } = data.categories;
  if (!evidence) return null;
  const buttons = evidence.names.map((level) =>
    element("button", { type: "button", class: "level", "data-kept": "evidence", "data-value": level, "aria-pressed": "false", title: LEVELS_EXPLAINED[level], onclick: () => toggleKept("evidence", level) }, [
      level,
      element("small", { text: whole(data.header.evidence[level] ?? 0) }),
    ]),
  );
  return element("div", { class: "field", role: "group", "aria-label": "evidence" }, [element("span", { text: "evidence" }), element("div", { class: "levels" }, buttons)]);
}

function rangeField() {
  const column = element("select", { id: "range-column", "aria-label": "column to filter" });
  column.append(...numericColumns().map((name) => element("option", { value: name, text: columnOf(name).title })));
  column.value = data.hasNorms ? "relative_norm" : "density";
  const low = element("input", { id: "range-low", type: "number", step: "any", placeholder: "at least", "aria-label": "at least" });
  const high = element("input", { id: "range-high", type: "number", step: "any", placeholder: "at most", "aria-label": "at most" });
  const apply = () => {
    const ranges = new Map(state.ranges);
    if (low.value === "" && high.value === "") ranges.delete(column.value);
    else ranges.set(column.value, [bound(low.value, -Infinity), bound(high.value, Infinity)]);
    go({ ranges });
  };
  low.addEventListener("change", apply);
  high.addEventListener("change", apply);
  column.addEventListener("change", () => showRange(column.value));
  return element("div", { class: "field range", role: "group", "aria-label": "range" }, [column, low, high]);
}

function showRange(name) {
  const [low, high] = state.ranges.get(name) ?? [-Infinity, Infinity];
  document.getElementById("range-low").value = low === -Infinity ? "" : low;
  document.getElementById("range-high").value = high === Infinity ? "" : high;
}

function columnMenu() {
  const boxes = numericColumns().map((name) => {
    const box = element("input", { type: "checkbox", value: name });
    box.addEventListener("change", () => {
      const kept = state.columns.filter((other) => other !== name && !isGist(other));
      go({ columns: [...kept, ...(box.checked ? [name] : []), ...Object.keys(GISTS)] }, true);
    });
    return element("label", { title: columnOf(name).about }, [box, columnOf(name).title]);
  });
  // A column that would tell how sure a label is and holds nothing is named as missing, not left out.
  const missing = CERTAINTY_COLUMNS.filter((name) => !measured(name)).map((name) =>
    element("label", { class: "missing", title: columnOf(name).about }, [element("input", { type: "checkbox", disabled: true }), `${columnOf(name).title}: ${NONE}`]),
  );
  return element("details", { class: "columns" }, [element("summary", { text: "columns" }), element("div", {}, [...boxes, ...missing])]);
}

// Brings everything into line with the state; rows are chosen anew only when a filter, the order or the index changed.
function renderTable(anew = false) {
  const key = `${writeState({ latent: null })} ${state.query ? search.indexed : ""}`;
  if (state.query && search.indexed < data.n) indexTexts(() => renderTable());
  if (key !== table.key || anew) {
    const moved = table.key !== null && table.key.split(" ")[0] !== key.split(" ")[0];
    table.key = key;
    table.rows = selectLatents();
    if (!table.body) return;
    if (moved) table.body.scrollTop = 0;
    drawScatter(table.rows);
    renderHeader();
    renderToolbar();
  }
  if (table.body) renderRows(true);
}

function renderHeader() {
  const names = shownColumns();
  const tracks = names.map((name) => columnOf(name).width);
  table.layout.style.setProperty("--tracks", narrow.matches ? "40px minmax(0, 1fr) 84px 76px" : tracks.join(" "));
  const sorted = state.sort.replace(/^-/, "");
  const down = state.sort.startsWith("-");
  table.header.replaceChildren(
    ...names.map((name) => {
      const column = columnOf(name);
      const active = name === sorted;
      const direction = active ? (down ? "descending" : "ascending") : "none";
      const numeric = column.format && name !== "relative_norm" ? "numeric" : "";
      const title = `${column.title}${active ? (down ? " ↓" : " ↑") : ""}`;
      if (column.text) return element("span", { role: "columnheader", class: "cell", text: title, title: column.about });
      const next = active ? (down ? name : `-${name}`) : name === "latent" || name === "label" ? name : `-${name}`;
      const button = element("button", { type: "button", text: title, title: column.about, "data-sort": name, onclick: () => go({ sort: next }) });
      return element("span", { role: "columnheader", class: `cell ${numeric}`, "aria-sort": direction }, button);
    }),
  );
}

function renderToolbar() {
  const query = document.getElementById("query");
  if (document.activeElement !== query) query.value = state.query;
  const sort = document.getElementById("sort");
  const names = [...Object.keys(data.categories), ...numericColumns()];
  sort.replaceChildren(
    ...names.flatMap((name) => [
      element("option", { value: `-${name}`, text: `${columnOf(name).title} ↓` }),
      element("option", { value: name, text: `${columnOf(name).title} ↑` }),
    ]),
  );
  sort.value = state.sort;
  for (const box of document.querySelectorAll(".columns input")) box.checked = state.columns.includes(box.value);
  for (const button of document.querySelectorAll("[data-kept]")) button.setAttribute("aria-pressed", String(isKept(button.dataset.kept, button.dataset.value)));
  showRange(document.getElementById("range-column").value);
  table.chips.replaceChildren(...chips());
  const searching = state.query && search.indexed < data.n ? `; searching, ${percent(search.indexed / data.n)} done` : "";
  table.count.textContent = `${whole(table.rows.length)} of ${whole(data.n)} latents${searching}`;
  table.layout.setAttribute("aria-rowcount", String(table.rows.length + 1));
}

function chips() {
  const chip = (content, name, remove) => element("button", { type: "button", class: "chip", title: `remove filter: ${name}`, onclick: remove }, [content, element("span", { class: "cross", text: "×", "aria-hidden": "true" })]);
  const made = [...state.kept].flatMap(([name, kept]) =>
    [...kept].map((value) => chip(name === "label" ? labelName(value) : `${name}: ${value}`, value, () => toggleKept(name, value))),
  );
  for (const [name, [low, high]] of state.ranges) {
    const from = low === -Infinity ? "" : `${significant(low)} ≤ `;
    const to = high === Infinity ? "" : ` ≤ ${significant(high)}`;
    const ranges = new Map(state.ranges);
    ranges.delete(name);
    made.push(chip(`${from}${columnOf(name).title}${to}`, columnOf(name).title, () => go({ ranges })));
  }
  if (state.query) made.push(chip(`“${state.query}”`, "search", () => clearSearch()));
  return made;
}

function clearSearch() {
  document.getElementById("query").value = "";
  go({ query: "" });
}

function renderRows(anew = false) {
  const height = rowHeight();
  // First of all, because the height in view follows from it where there are few rows.
  table.spacer.style.height = `${table.rows.length * height}px`;
  const first = Math.max(0, Math.floor(table.body.scrollTop / height) - OVERSCAN);
  const last = Math.min(table.rows.length, Math.ceil((table.body.scrollTop + table.body.clientHeight) / height) + OVERSCAN);
  const view = `${first} ${last}`;
  if (!anew && table.view === view) return;
  table.view = view;
  table.layout.style.setProperty("--scrollbar", `${table.body.offsetWidth - table.body.clientWidth}px`);
  const focused = document.activeElement?.closest?.(".row")?.dataset.index;
  const rows = [];
  for (let index = first; index < last; index++) rows.push(tableRow(table.rows[index], index, height));
  if (!table.rows.length) rows.push(element("p", { class: "empty", text: "No latent passes these filters." }));
  table.spacer.replaceChildren(...rows);
  if (focused !== undefined) table.spacer.querySelector(`[data-index="${focused}"] a`)?.focus({ preventScroll: true });
}

function tableRow(latent, index, height) {
  const cells = shownColumns().map((name) => tableCell(name, latent));
  if (narrow.matches) cells.push(narrowGist(latent));
  const row = element("div", { class: "row", role: "row", "data-index": index, "data-latent": latent, "aria-rowindex": index + 2, onclick: () => go({ latent }) }, cells);
  row.style.top = `${index * height}px`;
  return row;
}

function tableCell(name, latent) {
  if (name === "label") return element("span", { role: "cell", class: "cell" }, labelName(labelOf(latent)));
  if (data.categories[name]) return element("span", { role: "cell", class: "cell", text: categoryOf(name, latent) });
  if (isGist(name)) return element("span", { role: "cell", class: "cell gist" }, tokenList(name, latent));
  const text = columnOf(name).format(valueOf(name, latent));
  if (name === "latent") {
    return element("span", { role: "cell", class: "cell numeric" }, element("a", { href: writeState({ latent }), text: String(latent) }));
  }
  if (text === NONE) return element("span", { role: "cell", class: "cell numeric missing", text });
  if (name === "relative_norm") return element("span", { role: "cell", class: "cell" }, normBar(valueOf(name, latent), text));
  return element("span", { role: "cell", class: "cell numeric", text });
}

function normBar(value, text) {
  if (value === null) return NONE;
  return element("span", { class: "norm-bar" }, [element("span", { class: "norm-track", "--at": value, "aria-hidden": "true" }), text]);
}

function tokenList(name, latent) {
  return gistTokens(name, latent).map((token) => tokenElement(token, "gist-token"));
}

function narrowGist(latent) {
  const points = tokenList("points", latent);
  const arrow = points.length ? [element("span", { class: "muted", text: "→", title: "points at" })] : [];
  return element("span", { role: "cell", class: "cell gist second" }, [...tokenList("peaks", latent).slice(0, 2), ...arrow, ...points]);
}

function moveFocus(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const current = document.activeElement.closest(".row");
  const height = rowHeight();
  const start = current ? Number(current.dataset.index) + step : Math.ceil(table.body.scrollTop / height);
  const index = Math.min(table.rows.length - 1, Math.max(0, start));
  if (index * height < table.body.scrollTop) table.body.scrollTop = index * height;
  if ((index + 1) * height > table.body.scrollTop + table.body.clientHeight) table.body.scrollTop = (index + 1) * height - table.body.clientHeight;
  renderRows();
  table.spacer.querySelector(`[data-index="${index}"] a`)?.focus({ preventScroll: true });
}
