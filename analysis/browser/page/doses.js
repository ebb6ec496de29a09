// Effect and cost of steering, and causal checks in generated answers.

// Steering one model by a constant direction at several doses, compared with the difference of means and a random direction.
function doses({ explanation }) {
  const { doses: rows, levers } = explanation;
  const models = [["reference", "Reference, steered in the direction of the shift", "produced"], ["intervened", "Intervened model, steered back", "undone"]];
  const charts = models.map(([model, title, verb]) => doseChart(rows.filter((row) => row.model === model), title, verb));
  const cells = rows.map(({ model, direction, dose, share, kl, perplexity, perplexity_changed: changed }) => [
    [`${model}, ${direction}`, element("small", { text: ` dose ${significant(dose)}` })],
    estimate(share),
    estimate(kl, nats),
    `${fixed(perplexity)} to ${fixed(changed)}`,
  ]);
  const steered = "Below, one constant direction is added at every token of one model. The cost is the KL of the next-token distribution on unrelated text.";
  const heads = ["model, direction", "share of the shift", "KL, nats", "perplexity"];
  return element("div", { class: "doses" }, [
    element("h3", { text: "Steering" }),
    ...levers.map(({ name, text }) => element("p", {}, [element("strong", { text: name }), ": ", ...sentenceNodes(text)])),
    ...(rows.length ? [element("p", { class: "caption", text: steered }), ...charts, costChart(rows, models), numbersTable("Doses", heads, cells)] : []),
  ]);
}

const nats = (value) => (value === null || value === undefined ? NONE : fixed(value, 4));

// Doses on a logarithmic scale.
function doseScale(rows) {
  const known = [...new Set(rows.map(({ dose }) => dose))].sort((a, b) => a - b);
  const [least, most] = [Math.log(known[0]), Math.log(known[known.length - 1])];
  const place = (dose) => (most > least ? (Math.log(dose) - least) / (most - least) : 0.5);
  return { known, x: known.map(place), ticks: known.map((dose) => [place(dose), significant(dose)]) };
}

function overDoses(known, rows, name, of) {
  const at = known.map((dose) => rows.find((row) => row.dose === dose)?.[of] ?? { value: null, low: null, high: null });
  return { name, values: at.map(({ value }) => value), lows: at.map(({ low }) => low), highs: at.map(({ high }) => high) };
}

function doseChart(rows, title, verb) {
  if (!rows.length) return null;
  const { known, x, ticks } = doseScale(rows);
  const directions = [...new Set(rows.map(({ direction }) => direction))];
  const series = directions.map((direction) => overDoses(known, rows.filter((row) => row.direction === direction), direction, "share"));
  const label = `${title}, share of the shift ${verb}, over the dose: ${series.map(({ name, values }) => `${name} ${values.map((value, at) => (value === null ? null : `${percent(value)} at ${significant(known[at])}`)).filter(Boolean).join(", ")}`).join("; ")}`;
  return element("figure", { class: "dose-response" }, [
    element("figcaption", {}, [element("strong", { text: title }), element("small", { text: `share of the shift ${verb}, over the dose (a multiple of the direction): ${seriesKey(directions)}` })]),
    lineChart({ label, x, ticks, series: series.map((one) => ({ ...one, name: shortDirection(one.name) })), low: 0 }),
  ]);
}

const shortDirection = (name) => ({ "named latents": "latents", "difference of means": "means" })[name] ?? name;
const seriesKey = (names) => names.map((name, at) => `${SERIES_MARKS[Math.min(at, SERIES_MARKS.length - 1)]} ${name}`).join(", ");

function costChart(rows, models) {
  const own = rows.filter(({ direction }) => direction === "named latents");
  if (!own.length) return null;
  const { known, x, ticks } = doseScale(own);
  const series = models.map(([model]) => overDoses(known, own.filter((row) => row.model === model), model, "kl")).filter(({ values }) => values.some((value) => value !== null));
  const label = `Cost in nats over the dose: ${series.map(({ name, values }) => `${name} ${values.map(nats).join(", ")}`).join("; ")}`;
  const limit = data.header.cost;
  return element("figure", { class: "dose-cost" }, [
    element("figcaption", {}, [element("strong", { text: "Cost" }), element("small", { text: `KL on unrelated text, in nats, for the direction of the named latents; dashed: the limit of the requirements, ${significant(limit)}: ${seriesKey(series.map(({ name }) => name))}` })]),
    lineChart({ label, x, ticks, series, low: 0, high: limit, limits: [limit], format: nats, axisFormat: (value) => significant(value, 2) }),
  ]);
}

// Causal checks of the named latents, and of more of the ranking, in generated answers: the behavior itself.
function answersCurve({ explanation }) {
  const { answers } = explanation;
  if (!answers) return null;
  const checks = checksOf(answers);
  return element("div", { class: "answers" }, [
    element("h3", { text: "In generated answers" }),
    element("p", { class: "caption", text: `All ${whole(answers.n_named)} named latents together, and more of the ranking, on ${whole(answers.n_prompts)} prompts. This measures the behavior itself, not the stand-in metric. A claim about answers rests on these checks alone.` }),
    ...checks.map(([title, check, verb]) => checkOf(title, check, verb)),
    togetherChart(answers.curve, { name: "In generated answers, strongest first", named: answers.n_named }),
  ]);
}
