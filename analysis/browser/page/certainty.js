// Certainty of the counts: intervals, results of the controls, and sensitivity to the limits of the rule.

const visuallyHidden = (text) => element("span", { class: "visually-hidden", text });

// The count's interval, and the number expected under the nulls tried. Under a column header, text that repeats it is visually hidden; screen readers still read it.
function countCertainty(label) {
  const { low = null, high = null, expected_false: expected = null, expected_false_high: most = null } = data.header.summary.counts?.[label] ?? {};
  const unknown = low === null || high === null;
  return [
    element("span", { class: `interval ${unknown ? "missing" : ""}` }, [visuallyHidden(`${confidence()} interval `), unknown ? NONE : interval(low, high, whole)]),
    element("span", { class: `expected-false ${expected === null ? "missing" : ""}` }, expected === null ? [visuallyHidden("expected under the nulls tried: "), NONE] : [significant(expected), visuallyHidden(" expected under the nulls tried"), most === null ? null : element("small", { text: ` at most ${fixed(most, 1)}` })]),
  ];
}

// How many latents this training alone would give the label, if more than have it.
function candidateNote(label, count) {
  const candidates = data.header.summary.counts?.[label]?.candidates ?? null;
  if (candidates === null || candidates <= count || !CLAIMING.includes(label)) return null;
  return element("small", { class: "muted", text: ` of ${whole(candidates)}`, title: `${whole(candidates)} by this training alone` });
}

const CLAIMING = ["new", "lost", "replaced", "rotated", "rescaled", "reweighted"];

function confidence() {
  const share = data.header.summary.rule?.confidence;
  return share ? `${significant(100 * share)} %` : "confidence";
}

// The evidence behind the labels, shown before the counts.
function certaintyText() {
  const { evidence } = data.header;
  const levels = Object.entries(evidence).map(([level, count]) => `${level} ${whole(count)}`).join(", ");
  const checked = data.header.behaviors?.some(({ explanation }) => explanation);
  const causal = checked ? " Associated and causal refer to a behavior below." : " Causal checks: not measured.";
  const counted = data.hasNorms
    ? " The interval shows how a count would vary with other documents of the same kind; the other trainings show how it varies with the training. Expected under nulls: the number of latents with the same label and as large an effect in the null pair that has most (it differs as much, but in no feature), before the other trainings are asked."
    : "";
  return `Evidence for the labels: ${levels}. Observed means that a difference was seen in activations; its effect was not tested.${causal}${counted}`;
}

function certaintySection() {
  return element("section", { class: "certain", "aria-labelledby": "certain" }, [
    element("h2", { id: "certain", text: "Certainty" }),
    element("div", { class: "certain-grid" }, [controlList(), limitList()]),
  ]);
}

function controlList() {
  const rows = data.header.control_results.flatMap(({ name, text, meaning }) => [
    element("dt", {}, element("bdi", { text: visibleText(name) })),
    element("dd", {}, [
      element("small", { text: meaning }),
      element("span", { class: `found ${text === null ? "missing" : ""}`, text: text ?? NONE }),
    ]),
  ]);
  return element("div", {}, [element("h3", { text: "Controls" }), element("dl", { class: "control-results" }, rows)]);
}

function limitList() {
  const { limits } = data.header;
  const heading = element("h3", { text: "Sensitivity to each limit" });
  if (!limits.length) return element("div", {}, [heading, element("p", { class: "missing", text: NONE })]);
  const nulls = limits.some((curve) => curve.in_nulls) ? "dashed: the same in the null pairs" : `in the null pairs: ${NONE}`;
  const caption = `Number of new and lost latents as one limit varies from 0 while the others stay fixed; ${nulls}. The vertical line is the configured limit.`;
  const figures = limits.map((curve) =>
    element("figure", {}, [
      element("figcaption", {}, [
        element("span", { class: "limit-name" }, [`${curve.limit.replaceAll("_", " ")} ${significant(curve.configured)} `, element("small", { text: curve.meaning })]),
        element("span", { class: "found", text: curve.text }),
      ]),
      drawn(curve.drawing),
    ]),
  );
  return element("div", {}, [heading, element("p", { class: "caption", text: caption }), element("div", { class: "limits" }, figures)]);
}

// Inserts SVG that the builder of the page drew; it contains no text from a model or a data set.
function drawn(markup) {
  return document.adoptNode(new DOMParser().parseFromString(markup, "text/html").body.firstElementChild);
}

const CERTAINTY_COLUMNS = ["q_value", "seed_stability", "label_stability", "difference_cosine"];

function latentCertainty(latent) {
  const { controls = null } = data.header.summary;
  const of = (name) => valueOf(name, latent);
  const note = (name, text) => (of(name) === null ? null : text);
  const nulls = controls?.nulls?.length ? "the larger of a false-discovery rate of sampling noise and the fraction expected under the null pairs tried, among claims at least this strong" : "from sampling noise alone: no null pair was trained";
  const seeds = `share of the other trainings (${whole(controls?.seeds)}) that find it again`;
  const alone = data.categories.candidate && categoryOf("candidate", latent) !== labelOf(latent) ? categoryOf("candidate", latent) : null;
  const reliability = controls?.difference_heard ? "of its change of direction with a direction of the diff-SAE" : "the diff-SAE is not reliable";
  const direction = of("difference_latent") === null ? "" : ` (diff-SAE latent ${whole(of("difference_latent"))})`;
  return panel("Certainty", [
    pairsList([
      ["q-value", columnOf("q_value").format(of("q_value")), note("q_value", nulls)],
      ["seed stability", columnOf("seed_stability").format(of("seed_stability")), note("seed_stability", seeds)],
      of("label_stability") === null ? null : ["same label", columnOf("label_stability").format(of("label_stability")), "share of the other trainings that find it again with the same label; a label that claims a change needs all of them"],
      alone === null ? null : ["by this training alone", alone, "the label before q-values and before the other trainings were asked"],
      ["cosine to the diff-SAE", columnOf("difference_cosine").format(of("difference_cosine")), note("difference_cosine", `${reliability}${direction}`)],
    ]),
  ], "how-sure");
}

const REQUIREMENTS =
  "Comparative XAI (arXiv 2602.02304) requires that an explanation of a change be comparable, valid, actionable and monitored. The requirements in these four families, their measures and their thresholds are this project's interpretation.";

// The requirements on an explanation of a change, with the verdicts of the report.
function desiderataSection() {
  const { desiderata } = data.header;
  if (!desiderata) return null;
  const rows = desiderata.map(({ name, measure, shown, threshold, verdict }) =>
    element("tr", {}, [
      element("th", { scope: "row" }, [name, element("small", {}, sentenceNodes(measure))]),
      element("td", { "data-head": "value" }, element("div", {}, sentenceNodes(shown))),
      element("td", { "data-head": "threshold" }, element("div", {}, sentenceNodes(threshold))),
      element("td", { "data-head": "verdict", class: `verdict ${verdict === "pass" || verdict === "fail" ? "" : "missing"}` }, element("div", { text: verdict })),
    ]),
  );
  return element("section", { class: "desiderata", "aria-labelledby": "desiderata" }, [
    element("h2", { id: "desiderata", text: "Requirements" }),
    element("p", { class: "caption", text: REQUIREMENTS }),
    element("table", { class: "stacked" }, [
      element("thead", {}, element("tr", {}, ["requirement", "value", "threshold", "verdict"].map((text) => element("th", { scope: "col", text })))),
      element("tbody", {}, rows),
    ]),
  ]);
}
