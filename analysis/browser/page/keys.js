// Keys: what each does, and the list of them that a reader opens. None of them does anything while a field is in use.

const KEYS = [
  { key: "j", does: "the next latent in the table's order; in the table the next row", run: () => stepLatent(1) },
  { key: "k", does: "the previous one", run: () => stepLatent(-1) },
  { key: "s", does: "star the latent that is open, or the row that has the focus", run: () => decideInHand("starred") },
  { key: "x", does: "reject it", run: () => decideInHand("rejected") },
  { key: "c", does: "clear that: undecided again; its note and label stay", run: () => decideInHand("undecided") },
  { key: "l", does: "write a label of your own", run: () => writeInHand("own-label") },
  { key: "n", does: "write a note", run: () => writeInHand("note") },
  { key: "/", does: "search", run: () => startSearch() },
  { key: "?", does: "this list", run: () => openHelp() },
];

const ALWAYS = [
  ["Escape", "out of a field; from a latent back to the table; out of the scatter's selection; out of this list"],
  ["↑ ↓", "from row to row, in the table"],
  ["Enter", "opens the latent of the row"],
  ["← →", "from token to token, in an example"],
  ["Tab", "to the next link, button or field"],
];

// Whoever speaks to a computer, or strays onto keys, can do without keys of one letter.
const KEYS_OFF = "crosscoder/keys off";
const keys = { off: false };

function readKeys() {
  keys.off = decisions.storage?.getItem(KEYS_OFF) === "yes";
}

function switchKeys(off) {
  keys.off = off;
  keepItem(KEYS_OFF, off ? "yes" : "no");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.("input, select, textarea")) {
    if (event.key !== "Escape") return;
    // Some browsers would empty a search field.
    event.preventDefault();
    event.target.blur();
    return;
  }
  follow();
  if (event.key === "Escape") {
    focusing.next = null;
    if (state.latent !== null) go({ latent: null });
    else endBrush();
    return;
  }
  const known = KEYS.find(({ key }) => key === event.key);
  if (!known || keys.off) return;
  // Some browsers search the page at these keys; and a field that gets the focus now would receive the letter.
  event.preventDefault();
  // What is typed for a field that is still loading is no command.
  if (focusing.next === null) known.run();
}

function stepLatent(offset) {
  const row = document.activeElement?.closest?.(".row[data-index]");
  if (state.latent === null && row) {
    focusRow(clampedRow(Number(row.dataset.index) + offset));
    return;
  }
  const index = table.rows.indexOf(state.latent);
  const next = state.latent === null ? table.rows[0] : table.rows[index + offset];
  if (next !== undefined) go({ latent: next });
}

function startSearch() {
  focusing.next = "query";
  if (state.latent === null) focusNext();
  else go({ latent: null });
}

function openHelp() {
  const box = element("input", { type: "checkbox", id: "keys-on" });
  box.checked = !keys.off;
  box.addEventListener("change", () => switchKeys(!box.checked));
  const rows = [...KEYS.map(({ key, does }) => [key, does]), ...ALWAYS];
  openDialog("Keys", [
    element("dl", { class: "key-list" }, rows.flatMap(([key, does]) => [element("dt", {}, element("kbd", { text: key })), element("dd", { text: does })])),
    element("label", { class: "toggle" }, [box, "keys of one letter or sign do something"]),
  ]);
}
