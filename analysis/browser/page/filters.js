// The toolbar above the table: search, filters, sorting, columns, and the active filters.

function toolbar() {
  const query = element("input", { type: "search", id: "query", placeholder: "explanation, example text, logit tokens, number", autocomplete: "off", spellcheck: "false" });
  let pause = 0;
  const apply = () => {
    clearTimeout(pause);
    go({ query: query.value }, true);
  };
  query.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(apply, 120);
  });
  // Leaving the field ends the pause early.
  query.addEventListener("change", apply);
  const sort = element("select", { id: "sort", onchange: () => go({ sort: sort.value }) });
  table.chips = element("div", { class: "chips" });
  table.count = element("p", { class: "count-line", role: "status" });
  return element("div", { class: "toolbar" }, [
    element("label", { class: "field wide" }, [element("span", { text: "search" }), query]),
    rangeField(),
    evidenceField(),
    candidateField(),
    decisionField(),
    element("label", { class: "field" }, [element("span", { text: "sort by" }), sort]),
    columnMenu(),
    table.chips,
    table.count,
  ]);
}

// Only if some latent has more evidence than observed; otherwise the filter has one value.
function evidenceField() {
  return data.categories.evidence ? filterField("evidence", LEVELS_EXPLAINED) : null;
}

// Only if the other trainings or q-values removed a label.
function candidateField() {
  if (!data.categories.candidate) return null;
  return filterField("candidate", LABELS_EXPLAINED, "label by this training alone", CLAIMING);
}

const decisionField = () => filterField("decision", DECISIONS_EXPLAINED);

function filterField(name, meanings, title = name, values = data.categories[name].names) {
  const buttons = values.map((value) =>
    element("button", { type: "button", class: "level", "data-filter": name, "data-value": value, "aria-pressed": "false", title: meanings[value], onclick: () => toggleFilter(name, value) }, [
      value,
      element("small"),
    ]),
  );
  return element("div", { class: "field", role: "group", "aria-label": title }, [element("span", { text: title }), element("div", { class: "levels" }, buttons)]);
}

function renderFilters() {
  const counts = { evidence: data.header.evidence, decision: decisionCounts(), candidate: candidateCounts() };
  for (const button of document.querySelectorAll("[data-filter]")) {
    const { filter, value } = button.dataset;
    button.setAttribute("aria-pressed", String(isSelected(filter, value)));
    if (counts[filter]) button.querySelector("small").textContent = whole(counts[filter][value] ?? 0);
  }
}

function candidateCounts() {
  const { names, codes } = data.categories.candidate ?? { names: [], codes: [] };
  const counts = {};
  for (const code of codes) counts[names[code]] = (counts[names[code]] ?? 0) + 1;
  return counts;
}

function columnMenu() {
  const boxes = numericColumns().map((name) => {
    const box = element("input", { type: "checkbox", value: name });
    box.addEventListener("change", () => {
      const others = state.columns.filter((other) => other !== name && !isGist(other));
      go({ columns: [...others, ...(box.checked ? [name] : []), ...Object.keys(GISTS)] }, true);
    });
    return element("label", { title: columnOf(name).about }, [box, columnOf(name).title]);
  });
  // Certainty columns without numbers are listed as missing, not omitted.
  const missing = CERTAINTY_COLUMNS.filter((name) => !measured(name)).map((name) =>
    element("label", { class: "missing", title: columnOf(name).about }, [element("input", { type: "checkbox", disabled: true }), `${columnOf(name).title}: ${NONE}`]),
  );
  return element("details", { class: "columns" }, [element("summary", { text: "columns" }), element("div", {}, [...boxes, ...missing])]);
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
  renderFilters();
  showRange(document.getElementById("range-column").value);
  table.chips.replaceChildren(...chips());
  table.count.textContent = `${whole(table.rows.length)} of ${whole(data.n)} latents${searchProgress()}`;
  table.layout.setAttribute("aria-rowcount", String(table.rows.length + 1));
}

function chips() {
  const chip = (content, name, remove) => element("button", { type: "button", class: "chip", title: `remove filter: ${name}`, onclick: remove }, [content, element("span", { class: "cross", text: "×", "aria-hidden": "true" })]);
  const made = [...state.filters].flatMap(([name, selected]) =>
    [...selected].map((value) => chip(name === "label" ? labelName(value) : `${name}: ${value}`, value, () => toggleFilter(name, value))),
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
