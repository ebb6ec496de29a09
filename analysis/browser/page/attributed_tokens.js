// A latent's part in each behavior: its attributed share, its causal checks, and the tokens that the share is attributed to.

function latentBehaviors(latent, chunk, inside) {
  const panels = (data.header.behaviors ?? []).flatMap((behavior, index) => (behavior.explanation ? [latentBehavior(behavior, index, latent, chunk, inside)] : []));
  // Explain the marks once, below the first chart.
  panels.find((found) => found.querySelector(".random-draws"))?.append(element("p", { class: "caption", text: RANDOM_DRAWS_CAPTION }));
  return panels;
}

// A latent's attribution in a behavior: its share, its entry if it is a named latent, and access to the other columns.
function attributedTo(behavior, index, latent, chunk, inside) {
  const named = behavior.explanation.latents.find((entry) => entry.latent === latent);
  const of = (name) => {
    const value = chunk.arrays[`behavior_${index}_${name}`]?.[inside];
    return value === undefined || Number.isNaN(value) ? null : value;
  };
  const share = named?.attribution ?? { value: valueOf(ATTRIBUTED + behavior.name, latent), low: of("share_held_out_low"), high: of("share_held_out_high") };
  return { named, share, of };
}

// Both causal checks as [title, check, verb]; sufficiency is undefined between two models that share no space.
const checksOf = ({ necessity, sufficiency }) => [["Removed from the intervened model", necessity, "undone"], ["Added to the reference's activations", sufficiency, "produced"]].filter(([, check]) => check !== null);

function latentBehavior(behavior, index, latent, chunk, inside) {
  const { latents } = behavior.explanation;
  const { named, share, of } = attributedTo(behavior, index, latent, chunk, inside);
  const bounds = share.value === null ? null : interval(share.low, share.high, percent);
  const rank = of("rank");
  const rows = [
    ["attributed share", percent(share.value), bounds],
    ["on the other half", percent(of("share_find")), "the prompts that latents were found on"],
    ["rank", rank === null ? "none" : whole(rank + 1), rank === null ? "it does not push in the direction of the shift" : "the strongest is 1"],
  ];
  if (named) rows.push(["evidence", named.evidence, LEVELS_EXPLAINED[named.evidence]]);
  const checks = named
    ? element("div", { class: "checks" }, checksOf(named).map(([title, check, verb]) => checkOf(`${title}, alone`, check, verb)))
    : element("p", { class: "caption", text: `Not among the ${whole(latents.length)} named latents, which were removed and added one by one.` });
  return panel(`Behavior ${visibleText(behavior.name)}`, [standInNote(behavior), pairsList(rows), checks], "latent-behavior");
}

function checkOf(title, check, verb) {
  const comparison = check.random.length
    ? `${check.at_norm === null ? "" : `${percent(check.at_norm)} at the norm of random latents; `}random latents ${percent(check.random_mean)} on average and at most ${percent(check.random_largest)} in ${whole(check.n_random)} ${check.n_random === 1 ? "draw" : "draws"}, corrected p ${check.p_adjusted === null ? NONE : errorRate(check.p_adjusted)}`
    : check.why_not?.text ?? "not compared with random latents";
  return element("div", { class: "check" }, [
    element("h4", { text: title }),
    element("p", {}, [`${estimateText(check.share)} ${verb}: `, element("strong", { class: "verdict", text: checkVerdict(check) }), element("small", { text: `; ${comparison}` })]),
    randomDrawsChart(check.share, check.random),
  ]);
}

const RANDOM_DRAWS_CAPTION = "● this latent with its interval; ❘ random latents, all at one norm; dotted: zero. Passed: the interval lies above 1 % of the shift, what it does beyond random latents of the same norm has an interval above 0, and p, corrected for all latents and checks, is small enough.";

// The prompts on which the latent carries most of the shift; for named latents only. The first behavior is open.
function attributedSections(latent, chunk) {
  const found = Object.entries(chunk.header.attributed_tokens?.[latent] ?? {}).filter(([, prompts]) => prompts.length);
  return found.map(([index, prompts], place) => attributedSection(data.header.behaviors[index], prompts, place === 0));
}

function attributedSection(behavior, prompts, open) {
  const { unit } = behavior.explanation;
  const largest = Math.max(1e-12, ...prompts.flatMap(({ tokens }) => tokens.map(([, , value]) => Math.abs(value ?? 0))));
  const explained = `Held-out prompts on which the latent carries most of the shift. Below each token on which it fires: the shift attributed to it there, in ${unit}. Gray tokens are context; … replaces tokens on which no named latent fires.`;
  return element("details", { class: "attributed", open }, [
    element("summary", {}, ["Attribution on the prompts of ", element("bdi", { text: visibleText(behavior.name) })]),
    element("p", { class: "caption", text: explained }),
    ...prompts.map((prompt) => attributedPrompt(behavior, prompt, largest)),
  ]);
}

function attributedPrompt(behavior, prompt, largest) {
  const format = metricFormat(behavior);
  const [reference, intervened] = prompt.values.map((value) => format(value) + metricUnit(behavior));
  const answered = prompt.reference_answer !== undefined;
  const quoted = (name, text, value) => element("p", {}, [element("small", { text: `${name} (${value}) ` }), element("bdi", { text: visibleText(text) })]);
  const answers = answered ? [quoted("reference", prompt.reference_answer, reference), quoted("intervened", prompt.intervened_answer, intervened)] : [];
  const rows = prompt.rows > 1 ? ` (sum over ${whole(prompt.rows)} continuations; the strongest is shown): ` : ": ";
  const more = prompt.left_out ? element("small", { text: `${whole(prompt.left_out)} more tokens are in tokens.parquet.` }) : null;
  return element("article", { class: "attributed-prompt" }, [
    element("p", { class: "prompt" }, element("bdi", { text: visibleText(prompt.prompt) })),
    ...answers,
    element("p", { class: "muted", text: `${answered ? "" : `reference ${reference}, intervened ${intervened}; `}attributed on this prompt${rows}${significant(prompt.sum)} ${behavior.explanation.unit}` }),
    element("p", { class: "attributed-tokens", dir: "ltr" }, prompt.tokens.flatMap(([position, token, value], at) => [position > (at ? prompt.tokens[at - 1][0] + 1 : 0) ? element("span", { class: "ellipsis", text: "…" }) : null, attributedToken(position, token, value, largest)])),
    more,
  ]);
}

function attributedToken(position, token, value, largest) {
  const shown = value === null ? "" : significant(value, 2);
  const strength = value === null ? 0 : Math.abs(value) / largest;
  return element("span", { class: `attributed-token ${value === null ? "context" : "fires"}`, title: `token ${whole(position)}`, "data-value": value }, [
    element("bdi", { dir: "ltr", "--v": strength.toFixed(4) }, tokenNodes(token)),
    element("small", { text: shown }),
  ]);
}
