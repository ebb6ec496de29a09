// Keyboard shortcuts and the dialog that lists them. Shortcuts are inactive while a field has the focus.

const KEYS = [
  { key: "j", action: "next latent in table order; in the table, next row", run: () => stepLatent(1) },
  { key: "k", action: "previous latent or row", run: () => stepLatent(-1) },
  { key: "s", action: "star the open latent, or the focused row", run: () => decideSelected("starred") },
  { key: "x", action: "reject it", run: () => decideSelected("rejected") },
  { key: "c", action: "clear the decision; the note and your label stay", run: () => decideSelected("undecided") },
  { key: "l", action: "write your own label", run: () => editSelected("own-label") },
  { key: "n", action: "write a note", run: () => editSelected("note") },
  { key: "/", action: "search", run: () => startSearch() },
  { key: "?", action: "show this list", run: () => openHelp() },
];

const STANDARD_KEYS = [
  ["Escape", "leave a field; return from a latent to the table; clear the selection in the scatter plot; close this list"],
  ["↑ ↓", "previous or next row of the table"],
  ["Enter", "open the latent of the focused row"],
  ["← →", "previous or next token of an example"],
  ["Tab", "next link, button or field"],
];

// Users of speech input, and users who hit keys by accident, can switch single-character shortcuts off.
const KEYS_OFF = "crosscoder/keys off";
const keys = { off: false };

function readKeys() {
  keys.off = decisions.storage?.getItem(KEYS_OFF) === "yes";
}

function switchKeys(off) {
  keys.off = off;
  storeItem(KEYS_OFF, off ? "yes" : "no");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.("input, select, textarea")) {
    if (event.key !== "Escape") return;
    // Some browsers clear a search field on Escape.
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
  // Some browsers search the page on these keys, and a field that gets the focus now would receive the letter.
  event.preventDefault();
  // Letters typed while a field is still loading are meant for that field.
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
  const rows = [...KEYS.map(({ key, action }) => [key, action]), ...STANDARD_KEYS];
  openDialog("Keyboard shortcuts", [
    element("dl", { class: "key-list" }, rows.flatMap(([key, action]) => [element("dt", {}, element("kbd", { text: key })), element("dd", { text: action })])),
    element("label", { class: "toggle" }, [box, "enable single-character shortcuts"]),
  ]);
}
