// Everything above the table: the models compared, what changed in their answers, and the quality of the dictionary.

const basename = (path) => String(path).replace(/\/+$/, "").split("/").pop();

function modelName(side) {
  const model = data.header.summary.models?.[side] ?? {};
  const name = model.model ?? model.name ?? model.path;
  if (model.adapter) return `${name ? basename(name) : side} + ${basename(model.adapter)}`;
  return name ? basename(name) : side;
}

function renderMasthead() {
  const { summary } = data.header;
  const home = element("a", { href: "#", class: "home", text: "crosscoder" });
  const arrow = element("span", { class: "arrow", role: "img", "aria-label": "changed into", text: " → " });
  const heading = element("h1", {}, [side("reference"), arrow, side("intervened")]);
  const hookpoint = summary.hookpoint ? element("span", {}, ["hookpoint ", element("code", { text: summary.hookpoint })]) : null;
  const report = element("a", { href: "../report/report.html", text: "report" });
  const help = element("button", { type: "button", text: "keys", title: "keyboard shortcuts (key ?)", onclick: openHelp });
  const bar = element("div", { class: "bar" }, [home, hookpoint, help, report]);
  document.getElementById("masthead").replaceChildren(bar, heading);
  document.title = `${comparedNames()} · crosscoder`;
}

function side(name) {
  return element("span", { class: "side" }, [element("small", { text: name }), element("bdi", { text: modelName(name) })]);
}

function renderOverview() {
  const section = document.getElementById("overview");
  const sections = [findingsSection(), lead(), inShort(), notSearched(), health(), beforeSection(), changes(), claimsSection(), behaviorsSection(), monitoringSection(), certaintySection(), desiderataSection(), latentTable(), reading()];
  section.replaceChildren(...sections.filter(Boolean));
}

const READS = {
  paired: "explains both models: each latent has one direction per model, and the difference of the two directions is what changed.",
  pooled: "explains the activations of both models separately: each latent has one direction for both models, so only its firing rate can change.",
  difference: "explains the difference intervened − reference: each latent has one direction, hence no norm per model and no label based on norms.",
};

function comparedText() {
  const { summary } = data.header;
  const sources = Object.entries(summary.sources ?? {});
  const named = sources.map(([name, source]) => `${name} ${whole(source.tokens)}`).join(", ");
  return (
    `Both models read the same ${whole(summary.n_tokens)} held-out tokens of ${whole(summary.n_documents)} documents` +
    `${named ? ` (${named})` : ""}. One dictionary of ${whole(data.n)} latents ` +
    (READS[summary.reads] ?? "")
  );
}

function lead() {
  const { summary } = data.header;
  const same =
    summary.fve?.difference === null && summary.relative_difference === 0
      ? element("p", { class: "identical", text: "Both models computed identical activations: there is no difference to explain." })
      : null;
  const { withheld } = data.header;
  const nothing = withheld ? element("p", { class: "notice withheld" }, sentenceNodes(withheld)) : null;
  return element("div", { class: "lead" }, [nothing, element("p", { text: comparedText() }), same]);
}

// Quality of the dictionary: [name, value, note].
function healthFigures() {
  const { summary } = data.header;
  const fve = summary.fve ?? {};
  const ce = summary.ce ?? {};
  const target = summary.l0_target ? `; target ${significant(summary.l0_target)}` : "";
  return [
    ["variance explained, reference", percent(fve.reference), "of its activations"],
    ["variance explained, intervened", percent(fve.intervened), "of its activations"],
    ["variance explained, difference", percent(fve.difference), "of intervened − reference, which the labels rely on"],
    ["difference between the models", percent(summary.relative_difference), "of the reference's variance"],
    ["L0", significant(summary.l0), `latents firing per token${target}`],
    ["dead latents", percent(summary.dead_share), "fired on no held-out token"],
    ["loss recovered", ce.reference ? `${percent(ce.reference.recovered)}, ${percent(ce.intervened?.recovered)}` : NONE, "reference, intervened: cross-entropy with the reconstruction patched in"],
  ];
}

function health() {
  const items = healthFigures().map(([name, value, note]) =>
    element("div", {}, [element("dt", { text: name }), element("dd", { class: value === NONE ? "missing" : "", text: value }), element("dd", { class: "note", text: note })]),
  );
  return element("dl", { class: "health" }, items);
}

function changes() {
  const rows = labelRows();
  const parts = data.hasNorms
    ? [element("div", {}, [stripTable(rows), element("p", { class: "caption", text: "Histograms: each row is scaled to its tallest bar; bar heights are proportional to the square root of the count." })]), scatterFigure()]
    : [
        element("div", { class: "strips no-norms" }, rows),
        element("p", { class: "caption", text: "This dictionary has no decoder norm per model, so it has no relative norms, no cosines, and no latents labeled new or lost." }),
      ];
  return element("section", { class: "changes", "aria-label": "What changed" }, [
    element("h2", { text: "What changed" }),
    element("p", { class: "certainty", text: certaintyText() }),
    element("div", { class: "changes-grid" }, parts),
  ]);
}

// A row for each label that some latents have; the others are behind one line.
function labelRows() {
  const rows = data.header.labels.map((label, code) => {
    const latents = [];
    for (let latent = 0; latent < data.n; latent++) if (data.labels[latent] === code) latents.push(latent);
    return { label, none: !latents.length, row: stripRow(label, latents) };
  });
  const [absent, present] = [true, false].map((none) => rows.filter((one) => one.none === none));
  if (!absent.length) return present.map(({ row }) => row);
  const names = absent.map(({ label }) => label);
  const list = names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names.at(-1)}` : names[0];
  const line = element("summary", { text: `No latents are ${list}.` });
  return [...present.map(({ row }) => row), element("details", { class: "absent-labels" }, [line, ...absent.map(({ row }) => row)])];
}

function stripTable(rows) {
  const heads = ["label (click to filter)", "latents", `${confidence()} interval`, "expected under nulls", "relative norm", "decoder cosine"];
  const axis = element("div", { class: "strip-row axis-row", "aria-hidden": "true" }, [
    ...[0, 1, 2, 3].map(() => element("span")),
    axisLabels([["0", "reference"], ["0.5", ""], ["1", "intervened"]]),
    axisLabels([["−1", "opposite"], ["0", ""], ["1", "same"]]),
  ]);
  return element("div", { class: "strips" }, [
    element("div", { class: "strip-row strip-head" }, heads.map((text) => element("span", { text }))),
    ...rows,
    axis,
  ]);
}

function axisLabels(labels) {
  const label = ([value, note]) => element("span", {}, [value, note ? element("span", { class: "wide-only", text: ` ${note}` }) : null]);
  return element("div", { class: "axis" }, labels.map(label));
}

function stripRow(label, latents) {
  const pick = (name) => latents.map((latent) => valueOf(name, latent)).filter((value) => value !== null);
  const button = element(
    "button",
    { type: "button", class: "label-toggle", "data-label": label, "data-filter": "label", "data-value": label, "aria-pressed": "false", onclick: () => toggleFilter("label", label) },
    [labelName(label), element("small", { text: labelExplained(label) })],
  );
  const empty = latents.length === 0 || label === "dead" || !data.hasNorms;
  return element("div", { class: `strip-row ${latents.length ? "" : "none"}` }, [
    button,
    element("span", { class: "count" }, [whole(latents.length), candidateNote(label, latents.length)]),
    ...countCertainty(label),
    empty ? element("span") : strip(binCounts(pick("relative_norm"), 0, 1), { label, low: 0, high: 1, unit: "relative norm", ticks: [0.5] }),
    empty ? element("span") : strip(binCounts(pick("decoder_cosine"), -1, 1), { label, low: -1, high: 1, unit: "decoder cosine", ticks: [0] }),
  ]);
}

function reading() {
  const { rule } = data.header.summary;
  const rules = rule
    ? [
        `New or lost: the weaker decoder norm is at most ${rule.weak_norm} of the stronger, and the upper bounds of ν error and ν reconstruction are at most ${rule.nu_error} and ${rule.nu_reconstruction}${rule.nu_unselected === undefined ? "" : `, and of ν on the tokens that the stronger model alone chooses at most ${rule.nu_unselected}`}. Norms alone never decide. Replaced: as lost, and a latent that is as new fires on the same tokens, or one latent writes two directions, each absent from the other model.`,
        `Rotated: cosine below ${rule.rotated_cosine}. Rescaled: cosine above ${rule.shared_cosine} and the weaker norm below ${rule.shared_ratio} of the stronger. Shared: cosine above ${rule.shared_cosine} and the weaker norm at least that share.`,
        ...(rule.replications ? [`Found again: a label that claims a change needs every other training (${rule.replications} or more), on half of the training documents, to find the latent with the same label. What one training alone finds is undetermined.`] : []),
        `Undetermined: firing in fewer than ${rule.min_documents} held-out documents, or with measures that disagree; the latent's page states which. Intervals are at ${percent(rule.confidence)} confidence and resample whole documents.`,
      ]
    : [];
  const terms = Object.entries(COLUMNS).filter(([name]) => data.columns[name]);
  return element("details", { class: "reading" }, [
    element("summary", { text: "How to read this page" }),
    ...rules.map((text) => element("p", { text })),
    element("p", { text: "Every label is observed on activations: it states what differs inside the models, not what that difference causes. Causal checks, the labels expected under the nulls tried and what the other trainings find are shown if they were measured." }),
    element("dl", { class: "terms" }, terms.flatMap(([, column]) => [element("dt", { text: column.title }), element("dd", { text: column.about })])),
  ]);
}
