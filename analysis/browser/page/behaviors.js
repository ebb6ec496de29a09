// Behaviors: the shift of each, its decomposition, and the latents that carry it, in the words and numbers of the report.

function behaviorsSection() {
  const { behaviors } = data.header;
  if (!behaviors) return null;
  const first = behaviors.findIndex(({ explanation }) => explanation);
  return element("section", { class: "behaviors", "aria-labelledby": "behaviors" }, [
    element("h2", { id: "behaviors", text: "Behaviors" }),
    ...behaviors.map((behavior, index) => behaviorPanel(behavior, index === Math.max(0, first))),
  ]);
}

// Formats a value of a behavior's metric as the report does.
const metricFormat = (behavior) => (behavior.percent ? percent : (value) => fixed(value));
const metricUnit = (behavior) => (behavior.percent ? "" : ` ${behavior.unit}`);

function shiftText(behavior) {
  const format = metricFormat(behavior);
  const floor = behavior.floor ? `, noise floor ${format(behavior.floor)}${metricUnit(behavior)}` : "";
  return `${estimateText(behavior.shift, format)}${metricUnit(behavior)}${floor}`;
}

// A sentence of the report as DOM nodes; text from elsewhere is isolated from the words around it, and quoted text has its marks.
function sentenceNodes(pieces) {
  return pieces.flatMap((piece) => {
    if (!Array.isArray(piece)) return piece;
    const [text, style] = piece;
    const isolated = element("bdi", { text: visibleText(text) });
    return style === "quoted" ? ["“", isolated, "”"] : isolated;
  });
}

// A check that could not be passed, for want of draws or prompts, is not made.
const checkVerdict = (check) => (!check.made ? "not made" : check.passed ? "passed" : "not passed");

function levelText({ level, unit, stability: { trainings, causal } }) {
  const repeated = trainings === null ? "" : ` (causal in ${whole(causal)} of ${whole(trainings)} trainings)`;
  return `named latents: ${level}${level === "causal" ? ` in ${unit}` : ""}${repeated}`;
}

// The latents that push against the shift, with their checks in that direction.
function opposing({ against }) {
  if (!against) return null;
  const check = (one) => (one === null ? NONE : `${estimateText(one.share)}, ${checkVerdict(one)}`);
  const rows = against.latents.map(({ latent, attribution, necessity, sufficiency }) => [[latentLink(latent), " ", labelName(labelOf(latent))], percent(attribution), check(necessity), check(sufficiency)]);
  return element("div", { class: "against" }, [
    element("h3", { text: "The latents that push against the shift" }),
    element("p", { class: "caption", text: `Together: ${against.level}. Checks are against the direction of the shift.` }),
    numbersTable("Latents against the shift", ["latent", "attributed", "shift increases if removed", "shift countered if added"], rows),
  ]);
}

function behaviorPanel(behavior, open) {
  const { explanation } = behavior;
  const level = explanation ? element("span", { class: "verdict", title: LEVELS_EXPLAINED[explanation.level], text: levelText(explanation) }) : null;
  const shift = behavior.established ? `shift ${shiftText(behavior)}` : `no shift established (${shiftText(behavior)})`;
  return element("details", { class: "behavior", open, "data-behavior": behavior.name }, [
    element("summary", {}, [element("bdi", { class: "behavior-name", text: visibleText(behavior.name) }), element("span", { class: behavior.established ? "" : "missing", text: shift }), level]),
    element("p", { class: "muted" }, element("bdi", { text: visibleText(behavior.description) })),
    element("div", { class: "behavior-grid" }, [
      element("div", { class: "behavior-parts" }, [
        element("div", { class: "behavior-sentences" }, behavior.sentences.map((pieces) => element("p", {}, sentenceNodes(pieces)))),
        ...(explanation ? [...namedLatents(behavior, explanation), opposing(explanation), doses(behavior)] : []),
      ]),
      explanation ? element("div", { class: "behavior-parts" }, [standInNote(behavior), origins(explanation), curve(explanation), answersCurve(behavior), layers(explanation)]) : null,
    ]),
  ]);
}

// If a metric has no gradient, shares are measured with a differentiable metric that stands in for it, not on generated answers.
function standInNote({ stand_in: isStandIn, explanation }) {
  if (!isStandIn) return null;
  return element("p", { class: "caption", text: `Shares, bars and lines refer to the shift in the stand-in metric, in ${explanation.unit}. The overview shows the effect on generated answers, measured separately.` });
}

function origins({ origins: parts }) {
  const rows = parts.map(({ name, meaning, share }) => [[name, element("small", { text: meaning })], share]);
  return barTable("Where the shift comes from", ["part", "share of the shift"], rows, shareScale(parts.map(({ share }) => share), 1));
}

function namedLatents(behavior, { latents }) {
  const rows = latents.map(({ latent, evidence, attribution }) => [
    [latentLink(latent), " ", labelName(labelOf(latent)), `, ${evidence}`, element("small", { class: "gist" }, peaksOn(latent))],
    attribution,
  ]);
  const scale = shareScale(latents.map(({ attribution }) => attribution));
  const column = ATTRIBUTED + behavior.name;
  const ordered = () => {
    go({ latent: null, sort: `-${column}` });
    document.querySelector(".latents").scrollIntoView();
  };
  const rest = measured(column) ? element("button", { type: "button", class: "more", text: "all latents by attributed share", onclick: ordered }) : null;
  const levels = Object.keys(LEVELS_EXPLAINED).filter((level) => latents.some(({ evidence }) => evidence === level));
  const about = ["Ordered by share on the prompts that they were found on; bars show held-out prompts", ...levels.map((level) => `${level[0].toUpperCase()}${level.slice(1)}: ${LEVELS_EXPLAINED[level]}`)].join(". ");
  return [element("div", {}, [barTable("The named latents", ["latent", "attributed"], rows, scale), element("p", { class: "caption", text: `${about}.` }), rest])];
}

function peaksOn(latent) {
  const peaks = tokenList("peaks", latent).slice(0, 3);
  return peaks.length ? [element("span", { text: "peaks on" }), ...peaks] : [];
}

const curve = ({ curve: points, latents }) => togetherChart(points, { name: "Taken together, strongest first", named: latents.length });

// Share of the shift over the number of latents, on a logarithmic scale.
function togetherChart(points, { name, named }) {
  if (!points.length) return null;
  const most = points[points.length - 1].latents;
  const place = (count) => (most > 1 ? Math.log(count) / Math.log(most) : 0.5);
  // Sufficiency is undefined between two models that share no space.
  const kinds = [["undone if removed", "necessity"], ["produced if added", "sufficiency"]].filter(([, kind]) => points[0][kind] !== null);
  const series = kinds.map(([words, kind]) => ({
    name: words.split(" ").at(-1),
    values: points.map((point) => point[kind].value),
    lows: points.map((point) => point[kind].low),
    highs: points.map((point) => point[kind].high),
  }));
  const label = `${name}: share of the shift over the number of latents, from ${whole(points[0].latents)} to ${whole(most)}: ${series.map(({ name: words, values }) => `${words} ${percent(values[0])} to ${percent(values[values.length - 1])}`).join(", ")}`;
  const ticks = [1, 10, 100, 1000, 10000].filter((count) => count <= most / 2).concat(most).map((count) => [place(count), whole(count)]);
  const marks = most > named && named ? [[place(named), `the ${whole(named)} named`]] : [];
  return element("div", {}, [
    element("figure", {}, [
      element("figcaption", {}, [element("strong", { text: name }), element("small", { text: "share of the shift over the number of latents: ● undone if removed from the intervened model" + (kinds.length > 1 ? ", □ produced if added to the reference's activations" : "") })]),
      lineChart({ label, x: points.map((point) => place(point.latents)), ticks, series, low: 0, high: 1, marks }),
    ]),
    numbersTable(name.split(",")[0], ["latents", ...kinds.map(([words]) => words)], points.map((point) => [whole(point.latents), ...kinds.map(([, kind]) => estimate(point[kind]))])),
  ]);
}

function layers({ layers: rows }) {
  if (!rows.length) return null;
  const marked = rows.findIndex(({ hookpoint }) => hookpoint);
  const names = rows.map(({ layer }) => whole(layer));
  const label = `Share of the shift that is present after each of ${rows.length} layers${marked < 0 ? "" : `; at the hookpoint, layer ${names[marked]}, ${percent(rows[marked].represented.value)}`}`;
  const values = rows.map(({ represented }) => represented.value ?? 0);
  return element("div", {}, [
    element("figure", {}, [
      element("figcaption", {}, [element("strong", { text: "In which layer the shift arises" }), element("small", { text: "share of the shift that is present after each layer, found by exchanging activations between the models, without a dictionary" })]),
      columnChart({ label, values, names, marked, markName: "the hookpoint", describe: (at) => `after layer ${names[at]}: ${estimateText(rows[at].represented)}` }),
    ]),
    numbersTable("Layers", ["after layer", "share of the shift present"], rows.map(({ layer, hookpoint, represented }) => [[whole(layer), hookpoint ? element("small", { text: " the hookpoint" }) : null], estimate(represented)])),
  ]);
}
