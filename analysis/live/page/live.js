// The live page: reads a text with both models and the dictionary, and steers answers by latents.

const live = { facts: null, reading: null, firings: [], latent: null, at: 0, order: "change", rows: { token: 0, text: 0 } };

const kind = () => document.querySelector("input[name=kind]:checked").value;

// The text in the form of a line of a text source. A chat may end with an answer, unless the models are to generate one.
function typed({ answer: withAnswer }) {
  const words = document.getElementById("words").value;
  if (kind() === "text") return { text: words };
  const answer = document.getElementById("answer").value;
  const messages = [{ role: "user", content: words }];
  if (withAnswer && answer.trim()) messages.push({ role: "assistant", content: answer });
  return { messages };
}

async function read() {
  live.reading = await ask("text", typed({ answer: true }));
  live.firings = allFirings();
  live.rows.text = FIRST_ROWS;
  live.order = live.reading.fired.change ? live.order : "strength";
  document.getElementById("reading").hidden = false;
  const first = rowsOfText()[0];
  renderStrip();
  live.latent = first ? (live.firings.some(({ latent }) => latent === live.latent) ? live.latent : first.latent) : null;
  renderText();
  showToken(openingToken());
  if (live.latent === null) showNoLatent();
  else showLatent(live.latent);
  document.getElementById("reading-title").focus({ preventScroll: true });
  document.getElementById("reading").scrollIntoView({ block: "start" });
}

function readAnswer(text) {
  if (kind() === "text") document.getElementById("words").value += ` ${text}`;
  else document.getElementById("answer").value = text;
  document.getElementById("ask").requestSubmit();
}

function followKind() {
  const chat = kind() === "chat";
  document.getElementById("words-name").textContent = chat ? "User message" : "Text; an answer continues it";
  document.getElementById("answer").hidden = document.getElementById("answer-name").hidden = !chat;
}

function renderMasthead() {
  const { facts } = live;
  const side = (name) => element("span", { class: "side" }, [element("small", { text: name }), element("bdi", { text: visibleText(facts[name]) })]);
  const bar = element("div", { class: "bar" }, [
    element("span", { class: "home", text: "crosscoder live" }),
    element("span", {}, ["hookpoint ", element("code", { text: facts.hookpoint })]),
    element("a", { href: "/index.html", text: `page of all ${whole(facts.n_latents)} latents` }),
  ]);
  const arrow = element("span", { class: "arrow", role: "img", "aria-label": "changed into", text: " → " });
  document.getElementById("masthead").replaceChildren(bar, element("h1", {}, [side("reference"), arrow, side("intervened")]));
}

function renderFacts() {
  const { facts } = live;
  renderMasthead();
  renderNamed();
  const context = document.getElementById("context");
  context.hidden = facts.context === null;
  if (facts.context !== null) context.replaceChildren("Context that the intervened model reads before every text: ", element("bdi", { text: visibleText(facts.context) }));
  document.getElementById("no-chat").hidden = facts.chat;
  if (!facts.chat) {
    document.querySelector("input[value=text]").checked = true;
    document.querySelector("input[value=chat]").disabled = true;
  }
  const without = document.getElementById("no-steering");
  without.hidden = !facts.no_steering;
  without.textContent = facts.no_steering ? `Steering is not available for this run: ${facts.no_steering}.` : "";
  for (const id of ["steer", "dose-caption", "named"]) document.getElementById(id).hidden = Boolean(facts.no_steering);
  const { limits } = facts;
  Object.assign(document.getElementById("dose"), { min: -limits.dose, max: limits.dose });
  document.getElementById("new-tokens").max = limits.new_tokens;
}

function submits(id, what, work) {
  const form = document.getElementById(id);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileAsking(what, work);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

async function start() {
  live.facts = await ask("run");
  renderFacts();
  followKind();
  for (const radio of document.querySelectorAll("input[name=kind]")) radio.addEventListener("change", followKind);
  submits("ask", "Both models are reading", read);
  submits("steer", "Both models are answering, unsteered and steered", answer);
  document.getElementById("strip").addEventListener("keydown", onStripKey);
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => showError(error.message));
