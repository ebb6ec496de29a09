// What a latent has to do with each behavior: its share, what the checks of it alone found, and where on the prompts it carries it.

function latentBehaviors(latent, chunk, inside) {
  const panels = (data.header.behaviors ?? []).flatMap((behavior, index) => (behavior.explanation ? [latentBehavior(behavior, index, latent, chunk, inside)] : []));
  // What the marks mean, once, below the first of them.
  panels.find((found) => found.querySelector(".among"))?.append(element("p", { class: "caption", text: AMONG }));
  return panels;
}

// What a behavior's attribution holds of a latent: its share, its entry if it was checked, and any other column of its own.
function attributedTo(behavior, index, latent, chunk, inside) {
  const named = behavior.explanation.latents.find((entry) => entry.latent === latent);
  const of = (name) => {
    const value = chunk.arrays[`behavior_${index}_${name}`]?.[inside];
    return value === undefined || Number.isNaN(value) ? null : value;
  };
  const share = named?.attribution ?? { value: valueOf(ATTRIBUTED + behavior.name, latent), low: of("share_held_out_low"), high: of("share_held_out_high") };
  return { named, share, of };
}

// Both checks as [what was done, what came of it, verb]; sufficiency is undefined between two models that share no space.
const checksOf = ({ necessity, sufficiency }) => [["Taken out of the intervened model", necessity, "undone"], ["Put into the reference's activations", sufficiency, "brought"]].filter(([, check]) => check !== null);

function latentBehavior(behavior, index, latent, chunk, inside) {
  const { latents } = behavior.explanation;
  const { named, share, of } = attributedTo(behavior, index, latent, chunk, inside);
  const bounds = share.value === null ? null : interval(share.low, share.high, percent);
  const rank = of("rank");
  const rows = [
    ["attributed, held-out", percent(share.value), bounds],
    ["where it was found", percent(of("share_find")), "on the other half of the prompts"],
    ["rank", rank === null ? "none" : whole(rank + 1), rank === null ? "it does not push the way of the shift" : "the strongest is 1"],
  ];
  if (named) rows.push(["evidence", named.evidence, LEVELS_EXPLAINED[named.evidence]]);
  const checks = named
    ? element("div", { class: "checks" }, checksOf(named).map(([title, check, verb]) => checkOf(`${title}, alone`, check, verb)))
    : element("p", { class: "caption", text: `Not among the ${whole(latents.length)} latents that were taken out and put in one by one.` });
  return panel(`Behavior ${visibleText(behavior.name)}`, [standIn(behavior), pairsList(rows), checks], "latent-behavior");
}

function checkOf(title, check, verb) {
  const beside = check.random.length ? `random latents at most ${percent(check.random_largest)} in ${whole(check.n_random)} ${check.n_random === 1 ? "draw" : "draws"}, p ${errorRate(check.p_value)}` : "no random latents beside it";
  return element("div", { class: "check" }, [
    element("h4", { text: title }),
    element("p", {}, [`${estimateText(check.share)} ${verb}: `, element("strong", { class: "verdict", text: check.passed ? "passed" : "not passed" }), element("small", { text: `; ${beside}` })]),
    amongRandom(check.share, check.random),
  ]);
}

const AMONG = "● this latent with its interval, ❘ a random one of the norm of the largest of those checked; dotted: zero. Passed: the interval lies above 1 % of the shift, and chance does not reach it.";

// The prompts on which it carries the most; for named latents only. Of several behaviors the first is open.
function carriedSections(latent, chunk) {
  const found = Object.entries(chunk.header.carried?.[latent] ?? {}).filter(([, prompts]) => prompts.length);
  return found.map(([index, prompts], place) => carriedSection(data.header.behaviors[index], prompts, place === 0));
}

function carriedSection(behavior, prompts, open) {
  const { unit } = behavior.explanation;
  const largest = Math.max(1e-12, ...prompts.flatMap(({ tokens }) => tokens.map(([, , value]) => Math.abs(value ?? 0))));
  const explained = `Held-out prompts on which it carries the most of the shift. Below each token where it fires: how much of the shift is attributed to it there, in ${unit}; gray tokens are there to be read along; … stands for tokens on which no named latent fires.`;
  return element("details", { class: "carried", open }, [
    element("summary", {}, ["On the prompts of ", element("bdi", { text: visibleText(behavior.name) })]),
    element("p", { class: "caption", text: explained }),
    ...prompts.map((prompt) => carriedPrompt(behavior, prompt, largest)),
  ]);
}

function carriedPrompt(behavior, prompt, largest) {
  const format = metricFormat(behavior);
  const [reference, intervened] = prompt.values.map((value) => format(value) + metricUnit(behavior));
  const answered = prompt.reference_answer !== undefined;
  const quoted = (name, text, value) => element("p", {}, [element("small", { text: `${name} (${value}) ` }), element("bdi", { text: visibleText(text) })]);
  const answers = answered ? [quoted("reference", prompt.reference_answer, reference), quoted("intervened", prompt.intervened_answer, intervened)] : [];
  const rows = prompt.rows > 1 ? `; the strongest of ${whole(prompt.rows)} continuations, of them all ` : ": ";
  const left = prompt.left_out ? element("small", { text: `${whole(prompt.left_out)} tokens more are in tokens.parquet.` }) : null;
  return element("article", { class: "carried-prompt" }, [
    element("p", { class: "prompt" }, element("bdi", { text: visibleText(prompt.prompt) })),
    ...answers,
    element("p", { class: "muted", text: `${answered ? "" : `reference ${reference}, intervened ${intervened}; `}attributed on this prompt${rows}${significant(prompt.sum)} ${behavior.explanation.unit}` }),
    element("p", { class: "carried-tokens", dir: "ltr" }, prompt.tokens.flatMap(([position, token, value], at) => [position > (at ? prompt.tokens[at - 1][0] + 1 : 0) ? element("span", { class: "ellipsis", text: "…" }) : null, carriedToken(position, token, value, largest)])),
    left,
  ]);
}

function carriedToken(position, token, value, largest) {
  const shown = value === null ? "" : significant(value, 2);
  const strength = value === null ? 0 : Math.abs(value) / largest;
  return element("span", { class: `carried-token ${value === null ? "beside" : "fires"}`, title: `token ${whole(position)}`, "data-value": value }, [
    element("bdi", { dir: "ltr", "--v": strength.toFixed(4) }, tokenNodes(token)),
    element("small", { text: shown }),
  ]);
}
