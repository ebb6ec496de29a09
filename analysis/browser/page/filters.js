// What stands above the table: search, filters, order and columns, and what of them is in force.

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
  // Who leaves the field sooner has typed all of it.
  query.addEventListener("change", apply);
  const sort = element("select", { id: "sort", onchange: () => go({ sort: sort.value }) });
  table.chips = element("div", { class: "chips" });
  table.count = element("p", { class: "count-line", role: "status" });
  return element("div", { class: "toolbar" }, [
    element("label", { class: "field wide" }, [element("span", { text: "search" }), query]),
    rangeField(),
    evidenceField(),
    decisionField(),
    element("label", { class: "field" }, [element("span", { text: "sort by" }), sort]),
    columnMenu(),
    table.chips,
    table.count,
  ]);
}

// Only where anything is more than observed: there is nothing to choose from otherwise.
function evidenceField() {
  return data.categories.evidence ? keptField("evidence", LEVELS_EXPLAINED) : null;
}

const decisionField = () => keptField("decision", DECISIONS_EXPLAINED);

function keptField(name, explained) {
  const buttons = data.categories[name].names.map((value) =>
    element("button", { type: "button", class: "level", "data-kept": name, "data-value": value, "aria-pressed": "false", title: explained[value], onclick: () => toggleKept(name, value) }, [
      value,
      element("small"),
    ]),
  );
  return element("div", { class: "field", role: "group", "aria-label": name }, [element("span", { text: name }), element("div", { class: "levels" }, buttons)]);
}

function renderKept() {
  const counts = { evidence: data.header.evidence, decision: decisionCounts() };
  for (const button of document.querySelectorAll("[data-kept]")) {
    const { kept, value } = button.dataset;
    button.setAttribute("aria-pressed", String(isKept(kept, value)));
    if (counts[kept]) button.querySelector("small").textContent = whole(counts[kept][value] ?? 0);
  }
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
  renderKept();
  showRange(document.getElementById("range-column").value);
  table.chips.replaceChildren(...chips());
  table.count.textContent = `${whole(table.rows.length)} of ${whole(data.n)} latents${searchProgress()}`;
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
