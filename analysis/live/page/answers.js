// Both models' answers, as they are and with latents as a lever.

function steering() {
  const latents = document.getElementById("latents").value.split(/[\s,;]+/).filter(Boolean);
  const wrong = latents.find((word) => !/^\d+$/.test(word));
  if (!latents.length) throw new AskError("Give the number of at least one latent.");
  if (wrong) throw new AskError(`${visibleText(wrong)} is not the number of a latent; give numbers, with commas between.`);
  const field = (id, name) => {
    const value = document.getElementById(id).valueAsNumber;
    if (Number.isNaN(value)) throw new AskError(`${name} is not a number.`);
    return value;
  };
  return { latents: latents.map(Number), how: document.getElementById("how").value, dose: field("dose", "Dose"), max_new_tokens: field("new-tokens", "Tokens, at most") };
}

async function answer() {
  const settings = steering();
  const prompt = typed({ answer: false });
  const found = await ask("steer", { ...prompt, ...settings });
  renderAnswers(found, settings);
}

function renderAnswers(found, settings) {
  const place = document.getElementById("answers");
  const one = settings.latents.length === 1;
  const names = one ? `latent ${settings.latents[0]}` : `${settings.latents.length} latents`;
  const everywhere = `${one ? "It is" : "They are"} added at every token that the dictionary reads, ${one ? "as if it" : "as if each"} had its mean value there.`;
  const somewhere = `${one ? "It changes" : "They change"} something on ${whole(found.fires_on)} of the ${whole(found.n_read)} tokens of the prompt that are read, and on those of an answer where ${one ? "it fires" : "they fire"} as it is written.`;
  const where = `${settings.how === "part" ? somewhere : everywhere} Answers are cut after ${whole(settings.max_new_tokens)} tokens.`;
  const sides = [
    ["reference", settings.how === "part" ? "put in" : "added"],
    ["intervened", settings.how === "part" ? "taken out" : "subtracted"],
  ];
  place.replaceChildren(
    element("p", { class: "caption", text: where }),
    element("div", { class: "answer-grid" }, sides.flatMap(([side, verb]) => answerCells(side, found[side], `${names} ${verb}, dose ${significant(settings.dose)}`))),
  );
  place.querySelector("h3").focus({ preventScroll: true });
  place.scrollIntoView({ block: "nearest" });
}

function answerCells(side, { unsteered, steered }, how) {
  const same = unsteered === steered;
  return [
    element("article", { class: "answer", "data-side": side, "data-steered": "no" }, [element("h3", { tabindex: "-1", text: `${side}, as it is` }), ...answerText(unsteered)]),
    element("article", { class: "answer", "data-side": side, "data-steered": "yes" }, [element("h3", { tabindex: "-1" }, [`${side}, steered `, element("small", { text: how })]), ...(same ? [element("p", { class: "muted", text: "Word for word the same." })] : answerText(steered))]),
  ];
}

// An answer, and a way to have it read by both models.
function answerText(text) {
  if (!text) return [element("p", { class: "muted", text: "An empty answer." })];
  const read = element("button", { type: "button", class: "link", text: "read it", onclick: () => readAnswer(text) });
  return [element("p", { class: "answer-text" }, element("bdi", { text: spelled(text) })), read];
}

// Lines of an answer stay lines; what cannot be seen otherwise is spelled out.
const spelled = (text) => text.split("\n").map(visibleText).join("\n");

// Latents into the field of levers; the focus follows, since that is what comes next.
function pull(latents) {
  const field = document.getElementById("latents");
  field.value = latents.join(", ");
  field.focus();
  field.scrollIntoView({ block: "center" });
}

function renderNamed() {
  const { behaviors } = live.facts;
  const buttons = behaviors.filter(({ latents }) => latents.length).map(({ name, latents }) => element("button", { type: "button", class: "chip", onclick: () => pull(latents) }, [`the ${whole(latents.length)} named latents of `, element("bdi", { text: visibleText(name) })]));
  document.getElementById("named").replaceChildren(...buttons);
}
