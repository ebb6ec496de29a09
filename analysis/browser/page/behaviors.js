// Behaviors: how each shifted, where that comes from and which latents carry it, in the words and numbers of the report.

function behaviorsSection() {
  const { behaviors } = data.header;
  if (!behaviors) return null;
  const first = behaviors.findIndex(({ explanation }) => explanation);
  return element("section", { class: "behaviors", "aria-labelledby": "behaviors" }, [
    element("h2", { id: "behaviors", text: "Behaviors" }),
    ...behaviors.map((behavior, index) => behaviorPanel(behavior, index === Math.max(0, first))),
  ]);
}

// A number of a behavior's metric, as the report writes it.
const metricFormat = (behavior) => (behavior.percent ? percent : (value) => fixed(value));
const metricUnit = (behavior) => (behavior.percent ? "" : ` ${behavior.unit}`);

function shiftText(behavior) {
  const format = metricFormat(behavior);
  const floor = behavior.floor ? `, noise floor ${format(behavior.floor)}${metricUnit(behavior)}` : "";
  return `${estimateText(behavior.shift, format)}${metricUnit(behavior)}${floor}`;
}

// A sentence of the report: its own words, and text of others on its own.
function told(pieces) {
  return pieces.map((piece) => (Array.isArray(piece) ? element("bdi", { text: visibleText(piece[0]) }) : piece));
}

function behaviorPanel(behavior, open) {
  const { explanation } = behavior;
  const level = explanation ? element("span", { class: "verdict", title: LEVELS_EXPLAINED[explanation.level], text: `named latents: ${explanation.level}` }) : null;
  const shift = behavior.established ? `shift ${shiftText(behavior)}` : `no shift established (${shiftText(behavior)})`;
  return element("details", { class: "behavior", open, "data-behavior": behavior.name }, [
    element("summary", {}, [element("bdi", { class: "behavior-name", text: visibleText(behavior.name) }), element("span", { class: behavior.established ? "" : "missing", text: shift }), level]),
    element("p", { class: "muted" }, element("bdi", { text: visibleText(behavior.description) })),
    element("div", { class: "behavior-grid" }, [
      element("div", { class: "behavior-parts" }, [
        element("div", { class: "behavior-said" }, behavior.said.map((pieces) => element("p", {}, told(pieces)))),
        ...(explanation ? [...namedLatents(behavior, explanation), doses(behavior)] : []),
      ]),
      explanation ? element("div", { class: "behavior-parts" }, [standIn(behavior), origins(explanation), curve(explanation), answersCurve(behavior), layers(explanation)]) : null,
    ]),
  ]);
}

// Where a metric has no gradient, shares are those of one that stands in for it: not what becomes of generated answers.
function standIn({ stands_in: does, explanation }) {
  if (!does) return null;
  return element("p", { class: "caption", text: `Shares, bars and lines are of the shift in ${explanation.unit}, by the metric that stands in; what becomes of generated answers is another measure, shown in the overview.` });
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
  const rest = measured(column) ? element("button", { type: "button", class: "more", text: "all latents by their share of it", onclick: ordered }) : null;
  const levels = Object.keys(LEVELS_EXPLAINED).filter((level) => latents.some(({ evidence }) => evidence === level));
  const about = ["In the order of their share on the prompts that they were found with; the bars are held-out", ...levels.map((level) => `${level}: ${LEVELS_EXPLAINED[level]}`)].join(". ");
  return [element("div", {}, [barTable("The named latents", ["latent", "attributed"], rows, scale), element("p", { class: "caption", text: `${about}.` }), rest])];
}

function peaksOn(latent) {
  const peaks = tokenList("peaks", latent).slice(0, 3);
  return peaks.length ? [element("span", { text: "peaks on" }), ...peaks] : [];
}

const curve = ({ curve: points, latents }) => togetherChart(points, { name: "Taken together, the strongest first", named: latents.length });

// Lines over the number of latents, on a logarithmic scale.
function togetherChart(points, { name, named }) {
  if (!points.length) return null;
  const most = points[points.length - 1].latents;
  const place = (count) => (most > 1 ? Math.log(count) / Math.log(most) : 0.5);
  // Sufficiency is undefined between two models that share no space.
  const kinds = [["taken out: undone", "necessity"], ["put in: brought", "sufficiency"]].filter(([, kind]) => points[0][kind] !== null);
  const series = kinds.map(([words, kind]) => ({
    name: words.split(":")[0],
    values: points.map((point) => point[kind].value),
    lows: points.map((point) => point[kind].low),
    highs: points.map((point) => point[kind].high),
  }));
  const label = `${name}: share of the shift over the number of latents, from ${whole(points[0].latents)} to ${whole(most)}: ${series.map(({ name: words, values }) => `${words} ${percent(values[0])} to ${percent(values[values.length - 1])}`).join(", ")}`;
  const ticks = [1, 10, 100, 1000, 10000].filter((count) => count <= most / 2).concat(most).map((count) => [place(count), whole(count)]);
  const marks = most > named && named ? [[place(named), `the ${whole(named)} named`]] : [];
  return element("div", {}, [
    element("figure", {}, [
      element("figcaption", {}, [element("strong", { text: name }), element("small", { text: "share of the shift that goes with so many latents: ● taken out of the intervened model" + (kinds.length > 1 ? ", □ put into the reference's activations" : "") })]),
      lineChart({ label, x: points.map((point) => place(point.latents)), ticks, series, low: 0, high: 1, marks }),
    ]),
    numbersTable(name.split(",")[0], ["latents", ...kinds.map(([words]) => words)], points.map((point) => [whole(point.latents), ...kinds.map(([, kind]) => estimate(point[kind]))])),
  ]);
}

function layers({ layers: rows }) {
  if (!rows.length) return null;
  const marked = rows.findIndex(({ hookpoint }) => hookpoint);
  const names = rows.map(({ layer }) => whole(layer));
  const label = `Share of the shift that stands after each of ${rows.length} layers${marked < 0 ? "" : `; at the hookpoint, layer ${names[marked]}, ${percent(rows[marked].represented.value)}`}`;
  const values = rows.map(({ represented }) => represented.value ?? 0);
  return element("div", {}, [
    element("figure", {}, [
      element("figcaption", {}, [element("strong", { text: "Which layer carries it" }), element("small", { text: "share of the shift that stands after each layer, by exchanging its activations between the models, with no dictionary" })]),
      columnChart({ label, values, names, marked, markName: "the hookpoint", tell: (at) => `after layer ${names[at]}: ${estimateText(rows[at].represented)}` }),
    ]),
    numbersTable("Layers", ["after layer", "stands there"], rows.map(({ layer, hookpoint, represented }) => [[whole(layer), hookpoint ? element("small", { text: " the hookpoint" }) : null], estimate(represented)])),
  ]);
}
