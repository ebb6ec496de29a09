// The tokens of the text, each shown twice, colored by what the selected latent writes into each model.

const LEAST_KL = 0.05;

function renderStrip() {
  const { reading } = live;
  const strip = document.getElementById("strip");
  const buttons = reading.tokens.map((text, at) => tokenButton(reading, text, at));
  const gutter = ["reference", "intervened", ...(reading.kl ? ["KL, nats"] : [])].map((text) => element("span", { text }));
  strip.replaceChildren(
    element("div", { class: "gutter", "aria-hidden": "true" }, gutter),
    element("div", { class: "tokens", role: "group", "aria-label": "Tokens; use the arrow keys to move through them", dir: "ltr" }, buttons),
  );
}

function tokenButton(reading, text, at) {
  const classes = ["pair"];
  if (reading.special[at]) classes.push("special");
  else if (reading.template[at]) classes.push("template");
  const kl = reading.kl?.[at];
  const button = element("button", { type: "button", class: classes.join(" "), "data-at": at, tabindex: "-1" }, [
    element("bdi", { class: "upper", dir: "ltr" }, tokenNodes(text)),
    element("bdi", { class: "lower", dir: "ltr", "aria-hidden": "true" }, tokenNodes(text)),
    reading.kl ? element("small", { text: kl >= LEAST_KL ? significant(kl, 2) : "" }) : null,
  ]);
  button.addEventListener("click", () => showToken(at));
  return button;
}

// Colors the tokens by the selected latent, on one scale for both rows. No latent is selected if none fires.
function paintStrip() {
  const found = firingsOf(live.latent);
  const largest = Math.max(1e-12, ...[...found.values()].flatMap(({ reference, intervened }) => [reference, intervened]));
  for (const button of tokenButtons()) {
    const at = Number(button.dataset.at);
    const fired = found.get(at);
    button.classList.toggle("fires", Boolean(fired));
    button.dataset.value = fired?.value ?? 0;
    for (const [row, side] of [[".upper", "reference"], [".lower", "intervened"]]) {
      button.querySelector(row).style.setProperty("--v", ((fired?.[side] ?? 0) / largest).toFixed(4));
    }
    const kl = live.reading.kl ? `; KL of the next token ${significant(live.reading.kl[at], 2)} nats` : "";
    const fires = fired ? `latent ${live.latent}: reference ${significant(fired.reference)}, intervened ${significant(fired.intervened)}` : `latent ${live.latent} does not fire`;
    button.title = live.reading.read[at] ? fires + kl : `not read by the dictionary${kl}`;
  }
  renderLegend(largest);
}

function renderLegend(largest) {
  const scale = element("span", { class: "scale" }, [element("span", { text: "0" }), element("span", { class: "gradient", "aria-hidden": "true" }), element("span", { text: significant(largest) })]);
  const keys = element("span", { class: "keys" }, [
    element("span", { class: "key key-fires", text: "fires; thicker for larger values" }),
    element("span", { class: "key key-template", text: "template token" }),
    element("span", { class: "key key-special", text: "special token" }),
  ]);
  const rows = "Upper row: what the latent writes into the reference; lower row: into the intervened model (latent value × decoder norm, in units of the model's activations).";
  const kl = live.reading.kl ? ` Below: KL(intervened ‖ reference) of the next token, in nats, if at least ${LEAST_KL}.` : "";
  document.getElementById("legend").replaceChildren(element("span", { text: rows + kl }), scale, keys);
}

const tokenButtons = () => [...document.querySelectorAll("#strip .pair")];

// The token with the largest KL of the next token; the last token if the models share no vocabulary.
function openingToken() {
  const { kl, tokens } = live.reading;
  return kl ? kl.indexOf(Math.max(...kl)) : tokens.length - 1;
}

function showToken(at) {
  live.at = at;
  live.rows.token = FIRST_ROWS;
  for (const button of tokenButtons()) {
    const here = Number(button.dataset.at) === at;
    button.classList.toggle("current", here);
    button.tabIndex = here ? 0 : -1;
    if (here) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  renderToken();
}

function onStripKey(event) {
  const last = live.reading.tokens.length - 1;
  const next = { ArrowRight: live.at + 1, ArrowLeft: live.at - 1, Home: 0, End: last }[event.key];
  if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  showToken(Math.min(last, Math.max(0, next)));
  document.querySelector(`#strip [data-at="${live.at}"]`).focus();
}

// Next-token predictions after the selected token, and the latents that fire on it.
function renderToken() {
  const { reading, at } = live;
  const title = element("h3", { id: "of-token-title" }, [`Token ${whole(at)} `, element("bdi", { class: "token" }, tokenNodes(reading.tokens[at], true)), element("small", { text: ` id ${reading.ids[at]}` })]);
  const rows = rowsOn(at).sort(byOrder());
  const empty = reading.read[at] ? "No latent fires on this token." : "The dictionary does not read this token: it skips special tokens, the first token of a text, and tokens without a counterpart in the other model.";
  document.getElementById("of-token").replaceChildren(
    title,
    predictions(),
    rows.length ? latentTable(`Latents that fire on token ${at}`, rows, { count: live.rows.token, more: () => expand("token") }) : element("p", { class: "muted", text: empty }),
  );
}

function predictions() {
  const { reading, at } = live;
  const columns = ["reference", "intervened"].map((side) => {
    const expected = reading.predictions[side][at];
    const list = expected.map(([text, share]) => element("li", {}, [element("bdi", { class: "token" }, tokenNodes(text, true)), element("span", { class: "numeric", text: percent(share) })]));
    return element("div", {}, [element("h4", { text: side }), list.length ? element("ol", { class: "logit-list" }, list) : element("p", { class: "muted", text: "this model has no token that ends here" })]);
  });
  const kl = reading.kl ? `KL(intervened ‖ reference) ${significant(reading.kl[at])} nats` : "KL is undefined between two vocabularies";
  return element("div", { class: "expected" }, [element("p", { class: "caption", text: `Most likely next tokens; ${kl}.` }), element("div", { class: "expected-columns" }, columns)]);
}
