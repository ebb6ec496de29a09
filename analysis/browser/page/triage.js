// What a person decides, where it is shown and changed: on a latent's page, in the table, and for the run as a whole.

const triage = { counts: null, kept: null, result: null, timer: 0, waiting: false };

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
  // What came from another tab meanwhile.
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

// The latent that a key is about: the one that is open, or the row of the table that has the focus.
function latentInHand() {
  if (state.latent !== null) return state.latent < data.n ? state.latent : null;
  const row = document.activeElement?.closest?.(".row[data-latent]");
  return row ? Number(row.dataset.latent) : null;
}

const NONE_IN_HAND = "No latent is open and no row has the focus: the arrow keys move through the table.";

function decideInHand(verdict) {
  const latent = latentInHand();
  if (latent === null) announce(NONE_IN_HAND);
  else setVerdict(latent, verdict);
}

function writeInHand(id) {
  const latent = latentInHand();
  if (latent === null) {
    announce(NONE_IN_HAND);
    return;
  }
  focusing.next = id;
  if (state.latent === null) go({ latent });
  // One that is still loading gets the focus once it is there.
  else if (Number(document.getElementById("latent").dataset.latent) === latent) focusNext();
}

// --- the table -----------------------------------------------------------------------------------------------------------

// How wide the column is where there are labels to read.
const LABELED = "124px";
const anyLabel = () => [...decisions.entries.values()].some(({ label }) => label);

function decisionCell(latent) {
  return element("span", { role: "cell", class: "cell decided", title: visibleText(entryOf(latent).label) }, decisionWords(latent));
}

function decisionWords(latent) {
  const entry = entryOf(latent);
  if (isEmpty(entry)) return [];
  const noted = element("span", { role: "img", "aria-label": "has a note", title: visibleText(entry.note), text: DECISION_MARKS.noted });
  const shown = entry.label || entry.verdict || "";
  const mark = entry.verdict && element("span", { role: "img", "aria-label": entry.verdict, text: DECISION_MARKS[entry.verdict] });
  return [mark, shown ? element("bdi", { text: visibleText(shown) }) : null, entry.note ? noted : null];
}

// Everything that shows decisions, once for all that changed together. On a latent's page the rows stay those that the
// reader steps through; the table follows when it is shown again.
function decisionsChanged() {
  if (triage.waiting) return;
  triage.waiting = true;
  setTimeout(() => {
    triage.waiting = false;
    const chosenBy = state.kept.has("decision") || state.sort.replace(/^-/, "") === "decision" || state.query !== "";
    table.stale ||= chosenBy;
    renderTriage();
    renderToolbar();
    renderHeader();
    if (state.latent === null) renderTable();
    const panelNode = document.querySelector(".decision");
    if (panelNode) showDecision(panelNode, entryOf(Number(panelNode.dataset.latent)));
  });
}

// A field in use stays as it is, but for the one that is just left.
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
  triage.kept = element("p", { class: "caption kept-where" });
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
      actionButton("export decisions", () => exportDecisions(`decisions-${short}.json`), "as JSON, to keep them or to pass them on"),
      actionButton("import decisions…", () => file.click(), "takes over what is newer in a file that was exported here or by someone else from this run"),
      file,
      actionButton("copy summary", () => summary().then((text) => copyText(text, "The summary")).catch(fail), "of the run and of what you decided, as Markdown"),
      actionButton("save summary", () => summary().then((text) => download(`audit-${short}.md`, "text/markdown", text)).catch(fail), "the same as a file"),
    ]),
    triage.kept,
    triage.result,
  ]);
}

function renderTriage() {
  if (!triage.counts) return;
  const { starred, rejected, noted } = decisionCounts();
  triage.counts.textContent = `Decided: ${whole(starred + rejected)} of ${whole(data.n)} latents, ${whole(starred)} starred and ${whole(rejected)} rejected; ${whole(noted)} with a note or a label of your own.`;
  const unreadable = decisions.unreadable ? ` ${whole(decisions.unreadable)} kept entries could not be read and are left as they are.` : "";
  triage.kept.textContent = (decisions.problem ?? "Kept in this browser, for this run.") + unreadable;
  triage.kept.classList.toggle("warned", Boolean(decisions.problem || unreadable));
}

function exportDecisions(name) {
  download(name, "application/json", decisionsFile());
  decisions.atRisk.clear();
}

async function importDecisions(file) {
  const name = shortened(file.name);
  triage.result.textContent = "";
  try {
    if (file.size > FILE_BYTES) throw new Refused(`${name}: ${whole(file.size / 2 ** 20)} MiB; a file of decisions has at most ${FILE_BYTES / 2 ** 20} MiB.`);
    const { taken, kept } = mergeDecisions(await file.text(), name);
    triage.result.textContent = `${name}: ${whole(taken)} taken over, ${whole(kept)} as new or newer here.`;
    triage.result.classList.remove("warned");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    triage.result.textContent = `Nothing was imported. ${error.message}`;
    triage.result.classList.add("warned");
  }
}

// --- out of the page -----------------------------------------------------------------------------------------------------

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// Where a page from disk may not write to the clipboard, the text is shown and selected instead.
async function copyText(text, what) {
  let why = "this browser lets no page from disk use the clipboard";
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      announce(`${what}: copied.`);
      return;
    } catch (error) {
      why = `this browser did not let the page use the clipboard (${error.name})`;
    }
  }
  const area = element("textarea", { class: "to-copy", readonly: true, rows: 14, "aria-label": what });
  area.value = text;
  openDialog(what, [element("p", { text: `Not copied: ${why}. The text is selected; press Ctrl+C, or ⌘C on a Mac.` }), area]);
  area.select();
}

// In one place, read out and seen for a while.
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
