// Latents that fire on the text, with what each writes into the models.

// Rows of a table at first, and as many more whenever more are asked for.
const FIRST_ROWS = 12;
const MORE_ROWS = 25;

const ORDERS = {
  change: "what differs between the models",
  strength: "what is written into either",
};

const strengthOf = ({ reference, intervened }) => Math.max(reference, intervened);
const byOrder = () => (live.order === "change" ? (one, other) => other.change - one.change : (one, other) => strengthOf(other) - strengthOf(one));

// One entry of what fired, as an object.
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

// Each latent once, on the token where it is largest in the order asked for.
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

// The focus goes to the first row that came in, since the button that it was on may be gone.
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
  const full = { "ref.": "what it writes into the reference", "int.": "what it writes into the intervened model", differs: "norm of what it adds to intervened − reference", value: "latent value", tokens: "tokens of the text on which it fires" };
  const shown = rows.slice(0, count);
  const table = element("table", { class: "fired", "aria-label": label }, [
    element("thead", {}, element("tr", {}, heads.map(([text, style]) => element("th", { scope: "col", class: style, title: full[text], text })))),
    element("tbody", {}, shown.map((row) => latentRow(row, ofText, changes))),
  ]);
  const rest = rows.length - shown.length;
  return element("div", {}, [table, rest > 0 ? element("button", { type: "button", class: "more", text: rest > MORE_ROWS ? `${MORE_ROWS} more of ${whole(rest)}` : `${whole(rest)} more`, onclick: more }) : null]);
}

function latentRow(row, ofText, changes) {
  const told = live.reading.latents[row.latent];
  const title = told.explanation ? visibleText(told.explanation) : null;
  const button = element("button", { type: "button", class: "latent-button", "data-latent": row.latent, "aria-pressed": String(row.latent === live.latent), title, onclick: () => showLatent(row.latent) }, [labelMark(told.label), String(row.latent), element("span", { class: "said", text: ` ${told.label}` })]);
  // What was merely observed is the rule; more than that is worth a word.
  const evidence = told.evidence === "observed" ? null : element("small", { text: ` ${told.evidence}` });
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

// Brings a latent into view: the tokens are colored by it, and the line above says what it is.
function showLatent(latent) {
  live.latent = latent;
  for (const button of document.querySelectorAll(".latent-button")) button.setAttribute("aria-pressed", String(Number(button.dataset.latent) === latent));
  renderShown();
  paintStrip();
}

function showNothing() {
  document.getElementById("shown").replaceChildren(element("p", { class: "muted", text: "No latent fires on this text." }));
  document.getElementById("legend").replaceChildren();
}

function renderShown() {
  const { latent } = live;
  const told = live.reading.latents[latent];
  const n = firingsOf(latent).size;
  const steer = live.facts.no_steering ? null : element("button", { type: "button", class: "link", text: "use it as a lever", onclick: () => pull([latent]) });
  document.getElementById("shown").replaceChildren(
    element("p", { class: "shown-name" }, [
      element("strong", { text: `Latent ${latent} ` }),
      labelName(told.label),
      element("small", { text: ` evidence: ${told.evidence}; fires on ${whole(n)} of ${whole(live.reading.read.filter(Boolean).length)} tokens that are read` }),
    ]),
    told.explanation ? element("p", { class: "explained" }, element("bdi", { text: visibleText(told.explanation) })) : null,
    element("p", { class: "shown-links" }, [element("a", { href: `/index.html#latent=${latent}`, target: "_blank", rel: "noopener", text: "its page" }), steer]),
  );
}
