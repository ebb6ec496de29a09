// Answers of both models, unsteered and steered by latents.

function steering() {
  const latents = document.getElementById("latents").value.split(/[\s,;]+/).filter(Boolean);
  const wrong = latents.find((word) => !/^\d+$/.test(word));
  if (!latents.length) throw new RequestError("Enter the number of at least one latent.");
  if (wrong) throw new RequestError(`${visibleText(wrong)} is not a latent number; enter numbers separated by commas.`);
  const field = (id, name) => {
    const value = document.getElementById(id).valueAsNumber;
    if (Number.isNaN(value)) throw new RequestError(`${name} is not a number.`);
    return value;
  };
  return { latents: latents.map(Number), how: document.getElementById("how").value, dose: field("dose", "Dose"), max_new_tokens: field("new-tokens", "Maximum tokens") };
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
  const everywhere = `${one ? "Its direction is" : "Their directions are"} added at every token that the dictionary reads, ${one ? "at its mean value" : "each at its mean value"}.`;
  const somewhere = `${one ? "It changes" : "They change"} the activations on ${whole(found.fires_on)} of the ${whole(found.n_read)} tokens of the prompt that the dictionary reads, and on tokens of the answer on which ${one ? "it fires" : "they fire"} during generation.`;
  const where = `${settings.how === "part" ? somewhere : everywhere} Answers are cut after ${whole(settings.max_new_tokens)} tokens.`;
  const sides = [
    ["reference", "added"],
    ["intervened", settings.how === "part" ? "removed" : "subtracted"],
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
    element("article", { class: "answer", "data-side": side, "data-steered": "no" }, [element("h3", { tabindex: "-1", text: `${side}, unsteered` }), ...answerText(unsteered)]),
    element("article", { class: "answer", "data-side": side, "data-steered": "yes" }, [element("h3", { tabindex: "-1" }, [`${side}, steered `, element("small", { text: how })]), ...(same ? [element("p", { class: "muted", text: "Identical to the unsteered answer." })] : answerText(steered))]),
  ];
}

// An answer, with a button to read it with both models.
function answerText(text) {
  if (!text) return [element("p", { class: "muted", text: "The answer is empty." })];
  const read = element("button", { type: "button", class: "link", text: "read it", onclick: () => readAnswer(text) });
  return [element("p", { class: "answer-text" }, element("bdi", { text: spelled(text) })), read];
}

// Preserves line breaks; other invisible characters are spelled out.
const spelled = (text) => text.split("\n").map(visibleText).join("\n");

// Enters latents in the steering form and focuses its field, the next thing to edit.
function steerWith(latents) {
  const field = document.getElementById("latents");
  field.value = latents.join(", ");
  field.focus();
  field.scrollIntoView({ block: "center" });
}

function renderNamed() {
  const { behaviors } = live.facts;
  const buttons = behaviors.filter(({ latents }) => latents.length).map(({ name, latents }) => element("button", { type: "button", class: "chip", onclick: () => steerWith(latents) }, [`the ${whole(latents.length)} named latents of `, element("bdi", { text: visibleText(name) })]));
  document.getElementById("named").replaceChildren(...buttons);
}
