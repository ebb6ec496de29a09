// What a person decided of each latent: a verdict, a label of their own, a note. Kept in this browser, and in files.
//
// A file of decisions is JSON with exactly these fields:
//   schema_version  1
//   kind            "crosscoder decisions"
//   run             digest of the run whose latents these are (identity.py); a file of another run is refused
//   compared        the two models, for people to read
//   exported        when the file was written: UTC, as in 2026-11-26T09:30:00.000Z
//   decisions       one entry a latent, each with exactly these fields:
//     latent        its number, counted from 0
//     verdict       "starred", "rejected", or null: undecided
//     label         a name of one's own, one line of at most 80 characters; "" for none
//     note          at most 4,000 characters; "" for none
//     time          when the entry last changed, written as above; of two entries of a latent the later one stands
// An entry that was emptied stays, with nothing in it: so emptying it is newer than what stood in it.
// In the browser each entry is an item of its own, so that two tabs do not write over each other's latents.

const DECISIONS_VERSION = 1;
const DECISIONS_KIND = "crosscoder decisions";
const LABEL_LENGTH = 80;
const NOTE_LENGTH = 4000;
const FILE_BYTES = 64 * 2 ** 20;
const DAY = 24 * 60 * 60 * 1000;

// In the order in which a table sorts them. A latent is one of the others and noted, or noted only and so undecided.
const DECISIONS = ["starred", "rejected", "noted", "undecided"];
const DECISIONS_EXPLAINED = {
  starred: "worth telling: the summary holds it in full",
  rejected: "looked at, and not worth telling",
  noted: "has a note or a label of your own, whatever was decided",
  undecided: "neither starred nor rejected",
};
const DECISION_MARKS = { starred: "★", rejected: "✕", noted: "✎" };

const decisions = { entries: new Map(), storage: null, problem: null, unreadable: 0, atRisk: new Set() };

const NOTHING = { verdict: null, label: "", note: "", time: null };
const entryOf = (latent) => decisions.entries.get(latent) ?? { latent, ...NOTHING };
const isNoted = ({ label, note }) => Boolean(label || note);
const isEmpty = (entry) => entry.verdict === null && !isNoted(entry);
const wordsOf = (latent) => {
  const { label, note } = entryOf(latent);
  return `${label}\n${note}`.toLowerCase();
};

function decisionCategory(n) {
  const undecided = DECISIONS.indexOf("undecided");
  return category(DECISIONS, new Uint8Array(n).fill(undecided), new Uint16Array(n).fill(1 << undecided));
}

// Keeps the entry, unless the one that is here is as new; whether it was taken over.
function takeEntry(entry) {
  const { latent } = entry;
  const own = decisions.entries.get(latent);
  if (own && own.time >= entry.time) return false;
  decisions.entries.set(latent, entry);
  const { codes, masks } = data.categories.decision;
  const held = [entry.verdict ?? "undecided", ...(isNoted(entry) ? ["noted"] : [])].map((name) => DECISIONS.indexOf(name));
  codes[latent] = entry.verdict === null ? Math.min(...held) : held[0];
  masks[latent] = held.reduce((mask, code) => mask | (1 << code), 0);
  return true;
}

function decisionCounts() {
  const counts = Object.fromEntries(DECISIONS.map((name) => [name, 0]));
  for (const entry of decisions.entries.values()) {
    if (entry.verdict !== null) counts[entry.verdict]++;
    if (isNoted(entry)) counts.noted++;
  }
  counts.undecided = data.n - counts.starred - counts.rejected;
  return counts;
}

// Changes a latent's entry. Its time is after that of the entry before, even if that was written by a clock ahead of ours.
function decide(latent, change) {
  const before = entryOf(latent);
  const next = { ...before, ...change };
  if (["verdict", "label", "note"].every((name) => next[name] === before[name])) return;
  const earliest = before.time === null ? 0 : Date.parse(before.time) + 1;
  next.time = new Date(Math.max(Date.now(), earliest)).toISOString();
  takeEntry(next);
  storeEntry(next);
  decisionsChanged();
}

// --- in this browser ---------------------------------------------------------------------------------------------------

const itemPrefix = () => `crosscoder/${data.header.run}/`;

function openDecisions() {
  let items = [];
  try {
    const storage = window.localStorage;
    const keys = Array.from({ length: storage.length }, (_, index) => storage.key(index));
    items = keys.filter((key) => key.startsWith(itemPrefix())).map((key) => [key, storage.getItem(key)]);
    decisions.storage = storage;
  } catch (error) {
    decisions.problem = `This browser keeps nothing for this page (${error.name}): decisions last until it is closed, unless you export them.`;
  }
  for (const [key, text] of items) takeItem(key, text);
  addEventListener("storage", ({ key, newValue }) => {
    if (key?.startsWith(itemPrefix()) && newValue !== null && takeItem(key, newValue)) decisionsChanged();
  });
  addEventListener("beforeunload", (event) => {
    if (decisions.atRisk.size) event.preventDefault();
  });
}

// An item that cannot be read is counted and left as it is.
function takeItem(key, text) {
  try {
    const entry = checkedEntry(JSON.parse(text), key);
    if (key !== itemPrefix() + entry.latent) throw new Refused(`${key}: holds latent ${entry.latent}`);
    return takeEntry(entry);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof SyntaxError)) throw error;
    decisions.unreadable++;
    return false;
  }
}

function storeEntry(entry) {
  if (keepItem(itemPrefix() + entry.latent, JSON.stringify(entry))) decisions.atRisk.delete(entry.latent);
  else decisions.atRisk.add(entry.latent);
}

// Whether this browser took it; if not, the page says so.
function keepItem(key, text) {
  if (!decisions.storage) return false;
  try {
    decisions.storage.setItem(key, text);
    return true;
  } catch (error) {
    decisions.problem = `This browser could not keep the last change (${error.name}): export the decisions before you close the page.`;
    return false;
  }
}

// --- in files ----------------------------------------------------------------------------------------------------------

// What a user can mend in a file: one line.
class Refused extends Error {}

const comparedNames = () => `${modelName("reference")} → ${modelName("intervened")}`;

function decisionsFile() {
  const file = {
    schema_version: DECISIONS_VERSION,
    kind: DECISIONS_KIND,
    run: data.header.run,
    compared: comparedNames(),
    exported: new Date().toISOString(),
    decisions: [...decisions.entries.values()].sort((a, b) => a.latent - b.latent),
  };
  return `${JSON.stringify(file, null, 2)}\n`;
}

// Takes over what is newer in a file. The file is read as a whole before anything of it is kept.
function mergeDecisions(text, name) {
  const entries = checkedFile(text, name);
  const taken = entries.filter((entry) => takeEntry(entry));
  for (const entry of taken) storeEntry(entry);
  decisionsChanged();
  return { taken: taken.length, kept: entries.length - taken.length };
}

function checkedFile(text, name) {
  const file = parsedFile(text, name);
  const told = (value) => shortened(JSON.stringify(value) ?? "nothing");
  if (!isRecord(file) || file.kind !== DECISIONS_KIND) {
    throw new Refused(`${name}: not a file of decisions; its kind is ${told(file?.kind)}, not “${DECISIONS_KIND}”.`);
  }
  if (file.schema_version !== DECISIONS_VERSION) {
    throw new Refused(`${name}: schema_version ${told(file.schema_version)}, this page reads ${DECISIONS_VERSION}.`);
  }
  checkFields(file, ["schema_version", "kind", "run", "compared", "exported", "decisions"], name);
  if (file.run !== data.header.run) {
    throw new Refused(`${name}: decisions of another run (${told(file.compared)}, run ${told(file.run)}); this page is of run ${data.header.run}. Load them into the page of that run.`);
  }
  if (typeof file.compared !== "string") throw new Refused(`${name}: compared is ${told(file.compared)}, not a text.`);
  checkTime(file.exported, `${name}: exported`);
  if (!Array.isArray(file.decisions)) throw new Refused(`${name}: decisions is ${told(file.decisions)}, not a list.`);
  const entries = file.decisions.map((entry, index) => checkedEntry(entry, `${name}: decisions[${index}]`));
  const seen = new Set();
  for (const { latent } of entries) {
    if (seen.has(latent)) throw new Refused(`${name}: latent ${latent} has more than one entry.`);
    seen.add(latent);
  }
  return entries;
}

function parsedFile(text, name) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Refused(`${name}: not JSON (${shortened(error.message)}).`);
  }
}

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const shortened = (text) => visibleText(text.length > 60 ? `${text.slice(0, 60)}…` : text);

function checkFields(record, names, where) {
  const missing = names.find((name) => !Object.hasOwn(record, name));
  if (missing !== undefined) throw new Refused(`${where}: no field ${missing}.`);
  const unknown = Object.keys(record).find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Refused(`${where}: unknown field ${shortened(unknown)}; known are ${names.join(", ")}.`);
}

function checkTime(time, where) {
  const parsed = typeof time === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(time) ? Date.parse(time) : NaN;
  if (Number.isNaN(parsed) || new Date(parsed).toISOString() !== time) {
    throw new Refused(`${where} is ${shortened(JSON.stringify(time) ?? "nothing")}, not a time such as 2026-11-26T09:30:00.000Z.`);
  }
  // It would stand against every later decision.
  if (parsed > Date.now() + DAY) throw new Refused(`${where} is ${time}, more than a day ahead of this machine's clock.`);
}

// The entry with its known fields only, or a complaint.
function checkedEntry(entry, where) {
  if (!isRecord(entry)) throw new Refused(`${where}: not an entry.`);
  checkFields(entry, ["latent", "verdict", "label", "note", "time"], where);
  const { latent, verdict, label, note, time } = entry;
  const told = (value) => shortened(JSON.stringify(value));
  if (!Number.isInteger(latent) || latent < 0 || latent >= data.n) throw new Refused(`${where}: latent is ${told(latent)}; the dictionary has latents 0 to ${data.n - 1}.`);
  if (![null, "starred", "rejected"].includes(verdict)) throw new Refused(`${where}: verdict is ${told(verdict)}, not “starred”, “rejected” or null.`);
  if (typeof label !== "string" || label !== oneLine(label)) throw new Refused(`${where}: label is ${told(label)}, not one line of at most ${LABEL_LENGTH} characters.`);
  if (typeof note !== "string" || note.length > NOTE_LENGTH) throw new Refused(`${where}: note is ${told(note)}, not a text of at most ${whole(NOTE_LENGTH)} characters.`);
  checkTime(time, `${where}: time`);
  return { latent, verdict, label, note, time };
}

// A label as it is kept.
const oneLine = (text) => text.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ").slice(0, LABEL_LENGTH);
