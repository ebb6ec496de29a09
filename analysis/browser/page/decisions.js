// A person's decisions on latents: verdict, own label, note. Stored in this browser and in exported files.
//
// A decisions file is JSON with exactly these fields:
//   schema_version  1
//   kind            "crosscoder decisions"
//   run             digest of the run whose latents these are (identity.py); a file of another run is refused
//   compared        the two models, for people to read
//   exported        when the file was written, in UTC, such as 2026-11-26T09:30:00.000Z
//   decisions       at most one entry per latent, each with exactly these fields:
//     latent        its number, counted from 0
//     verdict       "starred", "rejected", or null for undecided
//     label         the person's own label, one line of at most 80 characters; "" for none
//     note          at most 4,000 characters; "" for none
//     time          when the entry last changed, in the format of `exported`; of two entries for a latent the later one stays
// A cleared entry is stored empty, so that clearing counts as newer than the decision it removes.
// In the browser each entry is a separate item, so that two tabs do not overwrite each other's latents.

const DECISIONS_VERSION = 1;
const DECISIONS_KIND = "crosscoder decisions";
const LABEL_LENGTH = 80;
const NOTE_LENGTH = 4000;
const FILE_BYTES = 64 * 2 ** 20;
const DAY = 24 * 60 * 60 * 1000;

// In sort order. "noted" combines with each of the others.
const DECISIONS = ["starred", "rejected", "noted", "undecided"];
const DECISIONS_EXPLAINED = {
  starred: "worth reporting: the summary shows it in full",
  rejected: "examined, and not worth reporting",
  noted: "has a note or your own label, whatever the decision",
  undecided: "neither starred nor rejected",
};
const DECISION_MARKS = { starred: "★", rejected: "✕", noted: "✎" };

const decisions = { entries: new Map(), storage: null, problem: null, unreadable: 0, atRisk: new Set() };

const NOTHING = { verdict: null, label: "", note: "", time: null };
const entryOf = (latent) => decisions.entries.get(latent) ?? { latent, ...NOTHING };
const isNoted = ({ label, note }) => Boolean(label || note);
const isEmpty = (entry) => entry.verdict === null && !isNoted(entry);
const decisionText = (latent) => {
  const { label, note } = entryOf(latent);
  return `${label}\n${note}`.toLowerCase();
};

function decisionCategory(n) {
  const undecided = DECISIONS.indexOf("undecided");
  return category(DECISIONS, new Uint8Array(n).fill(undecided), new Uint16Array(n).fill(1 << undecided));
}

// Stores the entry unless the present one is as new or newer; returns whether it was stored.
function mergeEntry(entry) {
  const { latent } = entry;
  const own = decisions.entries.get(latent);
  if (own && own.time >= entry.time) return false;
  decisions.entries.set(latent, entry);
  const { codes, masks } = data.categories.decision;
  const values = [entry.verdict ?? "undecided", ...(isNoted(entry) ? ["noted"] : [])].map((name) => DECISIONS.indexOf(name));
  codes[latent] = entry.verdict === null ? Math.min(...values) : values[0];
  masks[latent] = values.reduce((mask, code) => mask | (1 << code), 0);
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

// Changes a latent's entry. The new time is later than the old one, even if a clock ahead of ours wrote the old one.
function decide(latent, change) {
  const before = entryOf(latent);
  const next = { ...before, ...change };
  if (["verdict", "label", "note"].every((name) => next[name] === before[name])) return;
  const earliest = before.time === null ? 0 : Date.parse(before.time) + 1;
  next.time = new Date(Math.max(Date.now(), earliest)).toISOString();
  mergeEntry(next);
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
    decisions.problem = `This browser stores nothing for this page (${error.name}). Decisions are lost when it is closed, unless you export them.`;
  }
  for (const [key, text] of items) readItem(key, text);
  addEventListener("storage", ({ key, newValue }) => {
    if (key?.startsWith(itemPrefix()) && newValue !== null && readItem(key, newValue)) decisionsChanged();
  });
  addEventListener("beforeunload", (event) => {
    if (decisions.atRisk.size) event.preventDefault();
  });
}

// An unreadable item is counted and left unchanged.
function readItem(key, text) {
  try {
    const entry = checkedEntry(JSON.parse(text), key);
    if (key !== itemPrefix() + entry.latent) throw new Refused(`${key}: holds latent ${entry.latent}`);
    return mergeEntry(entry);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof SyntaxError)) throw error;
    decisions.unreadable++;
    return false;
  }
}

function storeEntry(entry) {
  if (storeItem(itemPrefix() + entry.latent, JSON.stringify(entry))) decisions.atRisk.delete(entry.latent);
  else decisions.atRisk.add(entry.latent);
}

// Returns whether the browser stored the item; if not, the page shows a warning.
function storeItem(key, text) {
  if (!decisions.storage) return false;
  try {
    decisions.storage.setItem(key, text);
    return true;
  } catch (error) {
    decisions.problem = `This browser could not store the last change (${error.name}). Export the decisions before you close the page.`;
    return false;
  }
}

// --- in files ----------------------------------------------------------------------------------------------------------

// An error in a file that the user can correct: a one-line message.
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

// Imports the newer entries of a file. The whole file is checked before any entry is stored.
function mergeDecisions(text, name) {
  const entries = checkedFile(text, name);
  const imported = entries.filter((entry) => mergeEntry(entry));
  for (const entry of imported) storeEntry(entry);
  decisionsChanged();
  return { imported: imported.length, skipped: entries.length - imported.length };
}

function checkedFile(text, name) {
  const file = parsedFile(text, name);
  const quoted = (value) => shortened(JSON.stringify(value) ?? "missing");
  if (!isRecord(file) || file.kind !== DECISIONS_KIND) {
    throw new Refused(`${name}: not a decisions file; its kind is ${quoted(file?.kind)}, not “${DECISIONS_KIND}”.`);
  }
  if (file.schema_version !== DECISIONS_VERSION) {
    throw new Refused(`${name}: schema_version is ${quoted(file.schema_version)}; this page reads version ${DECISIONS_VERSION}.`);
  }
  checkFields(file, ["schema_version", "kind", "run", "compared", "exported", "decisions"], name);
  if (file.run !== data.header.run) {
    throw new Refused(`${name}: decisions on another run (${quoted(file.compared)}, run ${quoted(file.run)}); this page shows run ${data.header.run}. Import the file into the page of its own run.`);
  }
  if (typeof file.compared !== "string") throw new Refused(`${name}: compared is ${quoted(file.compared)}, not text.`);
  checkTime(file.exported, `${name}: exported`);
  if (!Array.isArray(file.decisions)) throw new Refused(`${name}: decisions is ${quoted(file.decisions)}, not a list.`);
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
    throw new Refused(`${where} is ${shortened(JSON.stringify(time) ?? "missing")}, not a time such as 2026-11-26T09:30:00.000Z.`);
  }
  // It would override every later decision.
  if (parsed > Date.now() + DAY) throw new Refused(`${where} is ${time}, more than a day ahead of this machine's clock.`);
}

// Returns the entry; throws Refused if a field is missing, unknown or invalid.
function checkedEntry(entry, where) {
  if (!isRecord(entry)) throw new Refused(`${where}: not an entry.`);
  checkFields(entry, ["latent", "verdict", "label", "note", "time"], where);
  const { latent, verdict, label, note, time } = entry;
  const quoted = (value) => shortened(JSON.stringify(value));
  if (!Number.isInteger(latent) || latent < 0 || latent >= data.n) throw new Refused(`${where}: latent is ${quoted(latent)}; the dictionary has latents 0 to ${data.n - 1}.`);
  if (![null, "starred", "rejected"].includes(verdict)) throw new Refused(`${where}: verdict is ${quoted(verdict)}, not “starred”, “rejected” or null.`);
  if (typeof label !== "string" || label !== oneLine(label)) throw new Refused(`${where}: label is ${quoted(label)}, not one line of at most ${LABEL_LENGTH} characters.`);
  if (typeof note !== "string" || note.length > NOTE_LENGTH) throw new Refused(`${where}: note is ${quoted(note)}, not text of at most ${whole(NOTE_LENGTH)} characters.`);
  checkTime(time, `${where}: time`);
  return { latent, verdict, label, note, time };
}

// A label in stored form.
const oneLine = (text) => text.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ").slice(0, LABEL_LENGTH);
