// Shows and edits a person's decisions: on a latent's page, in the table, and for the whole run.

const triage = { counts: null, storage: null, result: null, timer: 0, waiting: false };

// --- a latent ------------------------------------------------------------------------------------------------------------

function decisionPanel(latent) {
  const entry = entryOf(latent);
  const verdicts = [["starred", "star", "s"], ["rejected", "reject", "x"], ["undecided", "undecided", "c"]].map(([verdict, text, key]) =>
    element("button", { type: "button", class: "level", "data-verdict": verdict, title: `${DECISIONS_EXPLAINED[verdict]} (key ${key})`, onclick: () => setVerdict(latent, verdict) }, [
      DECISION_MARKS[verdict] ? element("span", { "aria-hidden": "true", text: DECISION_MARKS[verdict] }) : null,
      text,
    ]),
  );
  const label = element("input", { id: "own-label", type: "text", dir: "auto", maxlength: LABEL_LENGTH, autocomplete: "off", title: "key l" });
  const note = element("textarea", { id: "note", dir: "auto", rows: 2, maxlength: NOTE_LENGTH, title: "key n" });
  label.value = entry.label;
  note.value = entry.note;
  label.addEventListener("input", () => decide(latent, { label: oneLine(label.value) }));
  note.addEventListener("input", () => decide(latent, { note: note.value.slice(0, NOTE_LENGTH) }));
  // Show changes that another tab made meanwhile.
  for (const field of [label, note]) field.addEventListener("blur", () => showDecision(panelNode, entryOf(latent), field));
  const copy = async () => copyText(await latentMarkdown(latent), `Latent ${latent} as Markdown`);
  const panelNode = element("section", { class: "decision", "data-latent": latent, "aria-label": "Your decision" }, [
    element("div", { class: "field", role: "group", "aria-label": "your decision" }, [element("span", { text: "your decision" }), element("div", { class: "levels" }, verdicts)]),
    element("label", { class: "field own-label" }, [element("span", { text: "your label" }), label]),
    element("label", { class: "field wide" }, [element("span", { text: "your note" }), note]),
    element("div", { class: "levels actions" }, [
      actionButton("copy as Markdown", () => copy().catch(fail)),
      actionButton("copy link", () => copyText(location.href, "The link to this view")),
    ]),
  ]);
  showVerdict(panelNode, entry);
  return panelNode;
}

const actionButton = (text, onclick, title = null) => element("button", { type: "button", class: "level", title, onclick, text });

function showVerdict(panelNode, entry) {
  panelNode.classList.toggle("undecided", isEmpty(entry));
  for (const button of panelNode.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === (entry.verdict ?? "undecided")));
  }
}

function setVerdict(latent, verdict) {
  decide(latent, { verdict: verdict === "undecided" ? null : verdict });
  announce(`Latent ${latent} is ${verdict}.`);
}

// The latent that a shortcut acts on: the open one, or the focused row of the table.
function selectedLatent() {
  if (state.latent !== null) return state.latent < data.n ? state.latent : null;
  const row = document.activeElement?.closest?.(".row[data-latent]");
  return row ? Number(row.dataset.latent) : null;
}

const NOTHING_SELECTED = "No latent is open and no row is focused. Use the arrow keys to move through the table.";

function decideSelected(verdict) {
  const latent = selectedLatent();
  if (latent === null) announce(NOTHING_SELECTED);
  else setVerdict(latent, verdict);
}

function editSelected(id) {
  const latent = selectedLatent();
  if (latent === null) {
    announce(NOTHING_SELECTED);
    return;
  }
  focusing.next = id;
  if (state.latent === null) go({ latent });
  // While the latent is loading, `focusing.next` waits until its page is rendered.
  else if (Number(document.getElementById("latent").dataset.latent) === latent) focusNext();
}

// --- the table -----------------------------------------------------------------------------------------------------------

// Width of the column if any latent has a label.
const LABELED_WIDTH = "124px";
const anyLabel = () => [...decisions.entries.values()].some(({ label }) => label);

function decisionCell(latent) {
  return element("span", { role: "cell", class: "cell decided", title: visibleText(entryOf(latent).label) }, decisionNodes(latent));
}

function decisionNodes(latent) {
  const entry = entryOf(latent);
  if (isEmpty(entry)) return [];
  const noted = element("span", { role: "img", "aria-label": "has a note", title: visibleText(entry.note), text: DECISION_MARKS.noted });
  const shown = entry.label || entry.verdict || "";
  const mark = entry.verdict && element("span", { role: "img", "aria-label": entry.verdict, text: DECISION_MARKS[entry.verdict] });
  return [mark, shown ? element("bdi", { text: visibleText(shown) }) : null, entry.note ? noted : null];
}

// Updates everything that shows decisions, once per batch of changes. While a latent is open, the order that j and k step
// through stays; the table is filtered again when it is shown.
function decisionsChanged() {
  if (triage.waiting) return;
  triage.waiting = true;
  setTimeout(() => {
    triage.waiting = false;
    const affectsRows = state.filters.has("decision") || state.sort.replace(/^-/, "") === "decision" || state.query !== "";
    table.stale ||= affectsRows;
    renderTriage();
    renderToolbar();
    renderHeader();
    if (state.latent === null) renderTable();
    const panelNode = document.querySelector(".decision");
    if (panelNode) showDecision(panelNode, entryOf(Number(panelNode.dataset.latent)));
  });
}

// Leaves a focused field alone, except the field that is just losing the focus.
function showDecision(panelNode, entry, left = null) {
  showVerdict(panelNode, entry);
  for (const [selector, text] of [["#own-label", entry.label], ["#note", entry.note]]) {
    const field = panelNode.querySelector(selector);
    if ((field !== document.activeElement || field === left) && field.value !== text) field.value = text;
  }
}

// --- the run -------------------------------------------------------------------------------------------------------------

function triageBar() {
  triage.counts = element("p", { class: "decided-counts" });
  triage.storage = element("p", { class: "caption storage-note" });
  triage.result = element("p", { class: "import-result", role: "alert" });
  const file = element("input", { type: "file", id: "decisions-file", accept: ".json,application/json", hidden: true, "aria-label": "file of decisions" });
  file.addEventListener("change", () => {
    if (file.files.length) importDecisions(file.files[0]).catch(fail);
    file.value = "";
  });
  const short = data.header.run.slice(0, 8);
  const summary = () => auditMarkdown();
  return element("section", { class: "triage", "aria-label": "Your decisions" }, [
    triage.counts,
    element("div", { class: "levels" }, [
      actionButton("export decisions", () => exportDecisions(`decisions-${short}.json`), "as JSON, for backup or for other people"),
      actionButton("import decisions…", () => file.click(), "merges a file exported from this run, here or elsewhere; of two entries for one latent the later one stays"),
      file,
      actionButton("copy summary", () => summary().then((text) => copyText(text, "The summary")).catch(fail), "the run and your decisions, as Markdown"),
      actionButton("save summary", () => summary().then((text) => download(`audit-${short}.md`, "text/markdown", text)).catch(fail), "the same, as a file"),
    ]),
    triage.storage,
    triage.result,
  ]);
}

function renderTriage() {
  if (!triage.counts) return;
  const { starred, rejected, noted } = decisionCounts();
  triage.counts.textContent = `Decided: ${whole(starred + rejected)} of ${whole(data.n)} latents, ${whole(starred)} starred and ${whole(rejected)} rejected; ${whole(noted)} with a note or your own label.`;
  const unreadable = decisions.unreadable ? ` ${whole(decisions.unreadable)} stored entries could not be read and are left unchanged.` : "";
  triage.storage.textContent = (decisions.problem ?? "Stored in this browser, for this run.") + unreadable;
  triage.storage.classList.toggle("warned", Boolean(decisions.problem || unreadable));
}

function exportDecisions(name) {
  download(name, "application/json", decisionsFile());
  decisions.atRisk.clear();
}

async function importDecisions(file) {
  const name = shortened(file.name);
  triage.result.textContent = "";
  try {
    if (file.size > FILE_BYTES) throw new Refused(`${name}: ${whole(file.size / 2 ** 20)} MiB; a decisions file has at most ${FILE_BYTES / 2 ** 20} MiB.`);
    const { imported, skipped } = mergeDecisions(await file.text(), name);
    triage.result.textContent = `${name}: ${whole(imported)} imported, ${whole(skipped)} skipped because the entry here is as new or newer.`;
    triage.result.classList.remove("warned");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    triage.result.textContent = `Nothing was imported. ${error.message}`;
    triage.result.classList.add("warned");
  }
}

// --- export and dialogs --------------------------------------------------------------------------------------------------

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// Copies a text; if the page may not write to the clipboard, shows the text selected instead.
async function copyText(text, name) {
  let reason = "this browser does not let a page opened from disk use the clipboard";
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      announce(`${name}: copied.`);
      return;
    } catch (error) {
      reason = `this browser did not let the page use the clipboard (${error.name})`;
    }
  }
  const area = element("textarea", { class: "to-copy", readonly: true, rows: 14, "aria-label": name });
  area.value = text;
  openDialog(name, [element("p", { text: `Not copied: ${reason}. The text is selected; press Ctrl+C, or ⌘C on a Mac.` }), area]);
  area.select();
}

// Shows a status message for a few seconds; screen readers announce it.
function announce(text) {
  const line = document.getElementById("status");
  line.textContent = text;
  clearTimeout(triage.timer);
  triage.timer = setTimeout(() => (line.textContent = ""), 8000);
}

function openDialog(title, children) {
  const close = element("button", { type: "button", class: "level", text: "close", onclick: () => dialog.close() });
  const dialog = element("dialog", { "aria-labelledby": "dialog-title" }, [
    element("div", { class: "dialog-head" }, [element("h2", { id: "dialog-title", text: title }), close]),
    ...children,
  ]);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
