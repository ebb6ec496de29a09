// How sure the counts are: their intervals, what the controls found, and how much they depend on the limits of the rule.

const said = (text) => element("span", { class: "said", text });

// Words that a column's head says are out of sight where there is a head, and in no one's way who hears the page.
function countCertainty(label) {
  const { low = null, high = null, expected_false: expected = null } = data.header.summary.counts?.[label] ?? {};
  const unknown = low === null || high === null;
  return [
    element("span", { class: `interval ${unknown ? "missing" : ""}` }, [said(`${confidence()} interval `), unknown ? NONE : interval(low, high, whole)]),
    element("span", { class: `nothing ${expected === null ? "missing" : ""}` }, expected === null ? [said("expected from nothing: "), NONE] : [fixed(expected, 1), said(" expected from nothing")]),
  ];
}

function confidence() {
  const share = data.header.summary.rule?.confidence;
  return share ? `${significant(100 * share)} %` : "confidence";
}

// What stands behind the labels, in front of the numbers that it is about.
function certaintyText() {
  const { evidence } = data.header;
  const levels = Object.entries(evidence).map(([level, count]) => `${level} ${whole(count)}`).join(", ");
  const checked = data.header.behaviors?.some(({ explanation }) => explanation);
  const causal = checked ? " Associated and causal speak of a behavior below." : " Causal checks: not measured.";
  const counted = data.hasNorms
    ? " The interval says how a count would vary with other documents of the same kind, not with another training; from nothing: how many latents of that label, of as much effect, a pair has that differs as much and in no feature."
    : "";
  return `Evidence level of the labels: ${levels}. Observed means that a difference was seen in activations, not what it does.${causal}${counted}`;
}

function certaintySection() {
  return element("section", { class: "certain", "aria-labelledby": "certain" }, [
    element("h2", { id: "certain", text: "How sure" }),
    element("div", { class: "certain-grid" }, [findingList(), limitList()]),
  ]);
}

function findingList() {
  const rows = data.header.findings.flatMap(({ name, text, meaning }) => [
    element("dt", {}, element("bdi", { text: visibleText(name) })),
    element("dd", {}, [
      element("small", { text: meaning }),
      element("span", { class: `found ${text === null ? "missing" : ""}`, text: text ?? NONE }),
    ]),
  ]);
  return element("div", {}, [element("h3", { text: "What the controls found" }), element("dl", { class: "findings" }, rows)]);
}

function limitList() {
  const { limits } = data.header;
  const heading = element("h3", { text: "How much the count depends on each limit" });
  if (!limits.length) return element("div", {}, [heading, element("p", { class: "missing", text: NONE })]);
  const nulls = limits.some((curve) => curve.in_nulls) ? "dashed: the same in the nulls" : `in the nulls: ${NONE}`;
  const caption = `New and lost latents as one limit moves from 0 and the others stay; ${nulls}. The upright line is the configured limit.`;
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

// Markup that the page's own writer drew; nothing in it comes from a model or a data set.
function drawn(markup) {
  return document.adoptNode(new DOMParser().parseFromString(markup, "text/html").body.firstElementChild);
}

const CERTAINTY_COLUMNS = ["q_value", "seed_stability", "difference_cosine"];

function latentCertainty(latent) {
  const { controls = null } = data.header.summary;
  const of = (name) => valueOf(name, latent);
  const note = (name, text) => (of(name) === null ? null : text);
  const nulls = controls?.nulls?.length ? "the expected share of false labels among those at least this strong" : "of chance alone: no null was trained";
  const seeds = `found again in this share of ${controls?.seeds === 1 ? "the other seed" : "the other seeds"}`;
  const believed = controls?.difference_heard ? "how far it changes along a direction of the diff-SAE" : "but the diff-SAE is not to be believed";
  const direction = of("difference_latent") === null ? "" : `, its latent ${whole(of("difference_latent"))}`;
  return panel("How sure", [
    pairsList([
      ["q-value", columnOf("q_value").format(of("q_value")), note("q_value", nulls)],
      ["seed stability", columnOf("seed_stability").format(of("seed_stability")), note("seed_stability", seeds)],
      ["cosine to the diff-SAE", columnOf("difference_cosine").format(of("difference_cosine")), note("difference_cosine", `${believed}${direction}`)],
    ]),
  ], "how-sure");
}

const REQUIREMENTS =
  "Comparative XAI (arXiv 2602.02304) asks of an explanation of a change that it be comparable, valid, actionable and monitored. These requirements under its four families, their measures and thresholds are this project's own reading of them.";

// What an explanation of a change has to fulfill, as the report judges it.
function desiderataSection() {
  const { desiderata } = data.header;
  if (!desiderata) return null;
  const rows = desiderata.map(({ name, measure, shown, threshold, verdict }) =>
    element("tr", {}, [
      element("th", { scope: "row" }, [name, element("small", {}, told(measure))]),
      element("td", { "data-head": "value" }, element("div", {}, told(shown))),
      element("td", { "data-head": "threshold" }, element("div", {}, told(threshold))),
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
