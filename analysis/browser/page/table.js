// The table of latents. Only visible rows exist as elements, so 65,536 latents scroll as fast as 200.

const OVERSCAN = 6;
const PRINTED = 60;
const table = { rows: [], key: null, stale: false, body: null, spacer: null, header: null, count: null, chips: null, layout: null, printed: null, printing: false };
const narrow = matchMedia("(max-width: 720px)");

// Two lines per row and the most important columns only: on narrow screens and on paper.
const isCompact = () => narrow.matches || table.printing;
const shownColumns = () => (isCompact() ? NARROW : state.columns);
const rowHeight = () => (isCompact() ? 58 : 34);

function latentTable() {
  table.header = element("div", { class: "row head", role: "row" });
  table.spacer = element("div", { class: "spacer", role: "presentation" });
  table.body = element("div", { class: "table-body", tabindex: "0", role: "rowgroup", "aria-label": "latents" }, table.spacer);
  table.body.addEventListener("scroll", () => renderRows());
  table.body.addEventListener("keydown", moveFocus);
  table.layout = element("div", { class: "table", role: "table", "aria-label": "Latents" }, [table.header, table.body]);
  table.printed = element("p", { class: "caption only-printed" });
  narrow.addEventListener("change", () => renderTable(true));
  // The print media query changes only after the layout for printing, which is too late.
  addEventListener("beforeprint", () => printTable(true));
  addEventListener("afterprint", () => printTable(false));
  return element("section", { class: "latents", "aria-label": "Latents" }, [
    element("h2", { text: "Latents" }),
    toolbar(),
    triageBar(),
    table.layout,
    table.printed,
  ]);
}

// Paper does not scroll: print the first rows and a line with the total.
function printTable(printing) {
  table.printing = printing;
  renderHeader();
  renderRows(true);
}

// Renders the table for the current state; rows are selected again only when a filter, the order or the search changed.
function renderTable(force = false) {
  searchFor(state.query.trim().toLowerCase(), () => renderTable());
  const key = `${writeState({ latent: null })} ${search.done}`;
  if (key !== table.key || force || (table.stale && state.latent === null)) {
    table.stale = false;
    const moved = table.key !== null && table.key.split(" ")[0] !== key.split(" ")[0];
    table.key = key;
    table.rows = selectLatents();
    if (!table.body) return;
    if (moved) table.body.scrollTop = 0;
    // The scatter does not depend on order or columns.
    const scatterKey = `${writeState({ latent: null, sort: DEFAULT_SORT, columns: data.standard })} ${search.done}`;
    if (scatterKey !== table.scatterKey || force) drawScatter(table.rows);
    table.scatterKey = scatterKey;
    renderHeader();
    renderToolbar();
    renderTriage();
  }
  if (table.body) renderRows(true);
}

function renderHeader() {
  const names = shownColumns();
  const tracks = names.map((name) => (name === "decision" && anyLabel() ? LABELED_WIDTH : columnOf(name).width));
  table.layout.classList.toggle("compact", isCompact());
  table.layout.style.setProperty("--tracks", isCompact() ? "40px minmax(0, 1fr) 84px 76px" : tracks.join(" "));
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
      const next = active ? (down ? name : `-${name}`) : ["latent", "label", "decision"].includes(name) ? name : `-${name}`;
      const button = element("button", { type: "button", text: title, title: column.about, "data-sort": name, onclick: () => go({ sort: next }) });
      return element("span", { role: "columnheader", class: `cell ${numeric}`, "aria-sort": direction }, [button, data.columns[name] ? rangeButton(name) : null]);
    }),
  );
}

function renderRows(force = false) {
  const height = rowHeight();
  const printed = Math.min(table.rows.length, PRINTED);
  // First, because with few rows it determines the visible height.
  table.spacer.style.height = table.printing ? "auto" : `${table.rows.length * height}px`;
  table.printed.textContent = printed < table.rows.length ? `The first ${whole(printed)} of ${whole(table.rows.length)} latents in this order.` : "";
  const top = Math.floor(table.body.scrollTop / height) - OVERSCAN;
  const bottom = Math.ceil((table.body.scrollTop + table.body.clientHeight) / height) + OVERSCAN;
  const [first, last] = table.printing ? [0, printed] : [Math.max(0, top), Math.min(table.rows.length, bottom)];
  const view = `${first} ${last}`;
  if (!force && table.view === view) return;
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
  if (isCompact()) cells.push(compactGist(latent));
  const row = element("div", { class: "row", role: "row", "data-index": index, "data-latent": latent, "aria-rowindex": index + 2, onclick: () => go({ latent }) }, cells);
  row.style.top = `${index * height}px`;
  return row;
}

function tableCell(name, latent) {
  if (name === "label") return element("span", { role: "cell", class: "cell" }, labelName(labelOf(latent)));
  if (name === "decision") return decisionCell(latent);
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

function compactGist(latent) {
  const points = tokenList("points", latent);
  const arrow = points.length ? [element("span", { class: "muted", text: "→", title: "points at" })] : [];
  return element("span", { role: "cell", class: "cell gist second" }, [...decisionNodes(latent), ...tokenList("peaks", latent).slice(0, 2), ...arrow, ...points]);
}

function moveFocus(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const current = document.activeElement.closest(".row");
  const start = current ? Number(current.dataset.index) + step : Math.ceil(table.body.scrollTop / rowHeight());
  focusRow(clampedRow(start));
}

const clampedRow = (index) => Math.min(table.rows.length - 1, Math.max(0, index));

// Scrolls the table just far enough to show this row, and focuses it.
function focusRow(index) {
  const height = rowHeight();
  if (index * height < table.body.scrollTop) table.body.scrollTop = index * height;
  if ((index + 1) * height > table.body.scrollTop + table.body.clientHeight) table.body.scrollTop = (index + 1) * height - table.body.clientHeight;
  renderRows();
  table.spacer.querySelector(`[data-index="${index}"] a`)?.focus({ preventScroll: true });
}

function revealRow(latent) {
  const index = table.rows.indexOf(latent);
  if (index >= 0) focusRow(index);
}
