// Tables of the latents that fire on the text, with what each writes into the models.

// Rows of a table at first, and rows added by each click on "more".
const FIRST_ROWS = 12;
const MORE_ROWS = 25;

const ORDERS = {
  change: "difference between the models",
  strength: "larger contribution to either model",
};

const strengthOf = ({ reference, intervened }) => Math.max(reference, intervened);
const byOrder = () => (live.order === "change" ? (one, other) => other.change - one.change : (one, other) => strengthOf(other) - strengthOf(one));

// One firing as an object.
function firing(fired, entry) {
  return {
    latent: fired.latent[entry],
    at: fired.token[entry],
    value: fired.value[entry],
    reference: fired.reference[entry],
    intervened: fired.intervened[entry],
    change: fired.change?.[entry] ?? null,
  };
}

function allFirings() {
  const { fired } = live.reading;
  return fired.latent.map((_, entry) => firing(fired, entry));
}

const rowsOn = (at) => live.firings.filter((row) => row.at === at);
const firingsOf = (latent) => new Map(live.firings.filter((row) => row.latent === latent).map((row) => [row.at, row]));

// One row per latent: its firing that comes first in the selected order.
function rowsOfText() {
  const best = new Map();
  const compare = byOrder();
  for (const row of live.firings) {
    const before = best.get(row.latent);
    if (!before) best.set(row.latent, { ...row, fires: 1 });
    else best.set(row.latent, { ...(compare(row, before) < 0 ? row : before), fires: before.fires + 1 });
  }
  return [...best.values()].sort(compare);
}

function renderText() {
  const rows = rowsOfText();
  const title = element("h3", { id: "of-text-title", text: `All ${whole(rows.length)} latents that fire on the text` });
  const head = element("div", { class: "examples-head" }, [title, live.reading.fired.change ? orderSelect() : null]);
  document.getElementById("of-text").replaceChildren(head, latentTable("Latents that fire on the text", rows, { ofText: true, count: live.rows.text, more: () => expand("text") }));
}

function orderSelect() {
  const options = Object.entries(ORDERS).map(([name, text]) => element("option", { value: name, text, selected: name === live.order }));
  const select = element("select", { id: "order" }, options);
  select.addEventListener("change", () => {
    live.order = select.value;
    renderToken();
    renderText();
    document.getElementById("order").focus();
  });
  return element("label", { class: "toggle", for: "order" }, ["by ", select]);
}

// Focuses the first added row, because the button that had the focus may be gone.
function expand(which) {
  const before = live.rows[which];
  live.rows[which] += MORE_ROWS;
  if (which === "text") renderText();
  else renderToken();
  document.querySelectorAll(`#of-${which} .latent-button`)[before]?.focus();
}

function latentTable(label, rows, { ofText = false, count, more }) {
  const changes = rows.some(({ change }) => change !== null);
  const heads = [["latent", ""], ...(ofText ? [["tokens", "numeric"], ["largest on", ""]] : []), ["value", "numeric"], ["ref.", "numeric"], ["int.", "numeric"], ...(changes ? [["differs", "numeric"]] : [])];
  const full = { "ref.": "what it writes into the reference", "int.": "what it writes into the intervened model", differs: "norm of its contribution to intervened − reference", value: "latent value", tokens: "tokens of the text on which it fires" };
  const shown = rows.slice(0, count);
  const table = element("table", { class: "fired", "aria-label": label }, [
    element("thead", {}, element("tr", {}, heads.map(([text, style]) => element("th", { scope: "col", class: style, title: full[text], text })))),
    element("tbody", {}, shown.map((row) => latentRow(row, ofText, changes))),
  ]);
  const rest = rows.length - shown.length;
  return element("div", {}, [table, rest > 0 ? element("button", { type: "button", class: "more", text: rest > MORE_ROWS ? `${MORE_ROWS} more of ${whole(rest)}` : `${whole(rest)} more`, onclick: more }) : null]);
}

function latentRow(row, ofText, changes) {
  const record = live.reading.latents[row.latent];
  const title = record.explanation ? visibleText(record.explanation) : null;
  const button = element("button", { type: "button", class: "latent-button", "data-latent": row.latent, "aria-pressed": String(row.latent === live.latent), title, onclick: () => showLatent(row.latent) }, [labelMark(record.label), String(row.latent), element("span", { class: "visually-hidden", text: ` ${record.label}` })]);
  // Most latents are observed only; show the level if it is higher.
  const evidence = record.evidence === "observed" ? null : element("small", { text: ` ${record.evidence}` });
  const where = element("button", { type: "button", class: "where-button", title: `token ${row.at}`, onclick: () => visitToken(row.at, row.latent) }, element("bdi", { class: "token" }, tokenNodes(live.reading.tokens[row.at], true)));
  const numbers = [row.value, row.reference, row.intervened, ...(changes ? [row.change] : [])];
  return element("tr", {}, [
    element("th", { scope: "row" }, [button, evidence]),
    ...(ofText ? [element("td", { class: "numeric", text: whole(row.fires) }), element("td", { class: "where-cell" }, where)] : []),
    ...numbers.map((value) => element("td", { class: "numeric", text: significant(value) })),
  ]);
}

function visitToken(at, latent) {
  showLatent(latent);
  showToken(at);
  document.querySelector(`#strip [data-at="${at}"]`).scrollIntoView({ block: "nearest" });
}

// Selects a latent: colors the tokens by it and describes it above them.
function showLatent(latent) {
  live.latent = latent;
  for (const button of document.querySelectorAll(".latent-button")) button.setAttribute("aria-pressed", String(Number(button.dataset.latent) === latent));
  renderShown();
  paintStrip();
}

function showNoLatent() {
  document.getElementById("shown").replaceChildren(element("p", { class: "muted", text: "No latent fires on this text." }));
  document.getElementById("legend").replaceChildren();
}

function renderShown() {
  const { latent } = live;
  const record = live.reading.latents[latent];
  const n = firingsOf(latent).size;
  const steer = live.facts.no_steering ? null : element("button", { type: "button", class: "link", text: "steer with it", onclick: () => steerWith([latent]) });
  document.getElementById("shown").replaceChildren(
    element("p", { class: "shown-name" }, [
      element("strong", { text: `Latent ${latent} ` }),
      labelName(record.label),
      element("small", { text: ` evidence: ${record.evidence}; fires on ${whole(n)} of the ${whole(live.reading.read.filter(Boolean).length)} tokens that the dictionary reads` }),
    ]),
    record.explanation ? element("p", { class: "explained" }, element("bdi", { text: visibleText(record.explanation) })) : null,
    element("p", { class: "shown-links" }, [element("a", { href: `/index.html#latent=${latent}`, target: "_blank", rel: "noopener", text: "its page" }), steer]),
  );
}
