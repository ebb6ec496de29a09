// The page of one latent.

async function renderLatent(latent) {
  const section = document.getElementById("latent");
  if (latent >= data.n) {
    section.replaceChildren(element("p", { class: "notice", text: `There is no latent ${latent}; the dictionary has latents 0 to ${data.n - 1}.` }), backLink());
    return;
  }
  const size = data.header.chunk_latents;
  const chunk = await loadChunk(Math.floor(latent / size)).catch((error) => {
    if (!(error instanceof PackError)) throw error;
    return error;
  });
  if (state.latent !== latent) return;
  if (chunk instanceof PackError) {
    section.replaceChildren(backLink(), element("p", { class: "notice", role: "alert", text: `Latent ${latent} cannot be shown: ${chunk.message}` }));
    section.dataset.latent = latent;
    return;
  }
  const inside = latent % size;
  const examples = examplesOf(chunk, latent);
  section.replaceChildren(
    latentHead(latent, chunk.header.evidence[inside]),
    element("div", { class: "latent-grid" }, [
      element("div", { class: "about-latent" }, [why(latent, chunk.header.reasons[inside]), ...latentExplanations(latent, chunk), ...latentBehaviors(latent, chunk, inside), latentTrajectory(latent, chunk, inside)]),
      element("div", { class: "on-text" }, [examples.length ? exampleSection(examples) : noExamples(latent), ...attributedSections(latent, chunk)]),
      element("div", { class: "rest" }, [latentCertainty(latent), logitSection(logitsOf(chunk, latent)), firing(latent, histogramOf(chunk, latent)), sizeAndDirection(latent), neighborPanel(chunk, inside)]),
    ]),
  );
  section.dataset.latent = latent;
}

const backLink = () => element("a", { class: "back", href: writeState({ latent: null }), text: "all latents" });

function latentHead(latent, evidence) {
  const index = table.rows.indexOf(latent);
  const step = (offset, text, key) => {
    const other = table.rows[index + offset];
    const title = `${text} latent in table order (key ${key})`;
    return other === undefined
      ? element("span", { class: "step", "aria-disabled": "true", text })
      : element("a", { class: "step", href: writeState({ latent: other }), title, text });
  };
  const place = index < 0 ? "excluded by the table's filters" : `${whole(index + 1)} of ${whole(table.rows.length)} in table order`;
  const explanation = data.header.explanations[latent];
  return element("div", { class: "latent-head" }, [
    element("nav", { class: "steps", "aria-label": "Latents" }, [backLink(), step(-1, "previous", "k"), step(1, "next", "j"), element("span", { class: "muted", text: place })]),
    element("h2", { class: "latent-title", tabindex: "-1" }, [`Latent ${latent} `, labelName(labelOf(latent)), element("small", { text: `evidence: ${evidence}` })]),
    explanation ? element("p", { class: "explained" }, element("bdi", { text: visibleText(explanation) })) : null,
    decisionPanel(latent),
  ]);
}

function noExamples(latent) {
  const text =
    labelOf(latent) === "dead"
      ? "This latent fired on no held-out token, so it has no examples."
      : "The analysis stored no examples of this latent.";
  return element("section", { class: "examples" }, [element("h2", { text: "Examples" }), element("p", { class: "muted", text })]);
}

function panel(title, children, name) {
  return element("section", { class: `panel ${name ?? ""}`, "aria-label": title }, [element("h3", { text: title }), ...children]);
}

function why(latent, reason) {
  const { rule } = data.header.summary;
  const label = labelOf(latent);
  const heading = `Why “${label}”: ${labelExplained(label)}`;
  const row = (title, about, name, limit) => {
    const bounds = interval(valueOf(`${name}_low`, latent), valueOf(`${name}_high`, latent), fixed);
    const relative = valueOf("relative_norm", latent);
    const toward = relative === null ? null : relative >= 0.5 ? "new" : "lost";
    const cell = (side) => {
      const value = valueOf(`${name}_${side}`, latent);
      const shown = value ?? (side === toward ? valueOf(name, latent) : null);
      return element("td", { class: `${side === toward ? "leans" : ""} ${shown === null ? "missing" : ""}` }, [
        fixed(shown),
        side === toward && shown !== null ? element("small", { text: bounds }) : null,
      ]);
    };
    return element("tr", {}, [element("th", { scope: "row", text: title, title: about }), cell("new"), cell("lost"), element("td", { class: "muted", text: limit === undefined ? "" : `≤ ${limit}` })]);
  };
  const head = [visuallyHidden("measure"), "absent from the reference?", "absent from the intervened model?", "new or lost if"];
  const tableNode = element("table", { class: "nu" }, [
    element("thead", {}, element("tr", {}, head.map((shown) => element("th", { scope: "col" }, shown)))),
    element("tbody", {}, [
      row("ν error", COLUMNS.nu_error.about, "nu_error", rule?.nu_error),
      row("ν reconstruction", COLUMNS.nu_reconstruction.about, "nu_reconstruction", rule?.nu_reconstruction),
      valueOf("nu_unselected", latent) === null ? null : row("ν unselected", COLUMNS.nu_unselected.about, "nu_unselected", rule?.nu_unselected),
    ]),
  ]);
  const caption = "ν near 0: the latent is absent from the other model; near 1: it is present there. Shaded: the side that the latent leans to, with its interval; the rule uses the upper bound.";
  return panel(heading, [element("p", { class: "reason" }, element("bdi", { text: visibleText(reason) })), tableNode, element("p", { class: "caption", text: caption })], "why");
}

function pairsList(rows) {
  return element("dl", { class: "pairs" }, rows.filter(Boolean).flatMap(([term, value, note]) => [
    element("dt", { text: term }),
    element("dd", {}, [value, note ? element("small", { text: note }) : null]),
  ]));
}

function sizeAndDirection(latent) {
  const of = (name) => valueOf(name, latent);
  const relative = element("span", { class: "wide-norm" }, normBar(of("relative_norm"), fixed(of("relative_norm"), 3)));
  const twin = of("twin");
  // A missing value needs no note about its interval.
  const noteIfMeasured = (name, note) => (of(name) === null ? null : note);
  const link = twin === null ? NONE : element("span", {}, [element("a", { href: writeState({ latent: twin }), text: `latent ${twin}` }), ` (${labelOf(twin)})`]);
  return panel("Norms, direction, share of the shift", [
    pairsList([
      ["relative norm", relative, noteIfMeasured("relative_norm_raw", `raw ${fixed(of("relative_norm_raw"), 3)}`)],
      ["norm, reference", significant(of("norm_reference")), noteIfMeasured("norm_reference_raw", `raw ${significant(of("norm_reference_raw"))}`)],
      ["norm, intervened", significant(of("norm_intervened")), noteIfMeasured("norm_intervened_raw", `raw ${significant(of("norm_intervened_raw"))}`)],
      ["decoder cosine", fixed(of("decoder_cosine"), 3)],
      ["shift share", percent(of("shift_share")), noteIfMeasured("shift_share", interval(of("shift_share_low"), of("shift_share_high"), percent))],
      ["twin in the other model", link, twin === null ? null : `cosine ${fixed(of("twin_cosine"))}`],
    ]),
  ]);
}

function densityBars(latent) {
  const sources = Object.keys(data.columns).filter((name) => name.startsWith("density/"));
  const largest = Math.max(...sources.map((name) => valueOf(name, latent) ?? 0), 1e-12);
  return sources.map((name) => [
    `on ${visibleText(name.slice(8))}`,
    element("span", { class: "share-bar" }, [element("span", { class: "share-track", "--at": (valueOf(name, latent) ?? 0) / largest, "aria-hidden": "true" }), percent(valueOf(name, latent))]),
  ]);
}

function firing(latent, histogram) {
  const of = (name) => valueOf(name, latent);
  const bySource = histogram !== null && histogram.sources.length > 1;
  return panel("When it fires", [
    pairsList([
      ["density", percent(of("density")), interval(of("density_low"), of("density_high"), percent)],
      ...(bySource ? [] : densityBars(latent)),
      ["held-out tokens", whole(of("n_tokens")), `in ${whole(of("n_documents"))} documents`],
      ["on template tokens", percent(of("template_share")), of("template_share") === null ? null : "of its firings"],
      ["latent value, mean and maximum", `${significant(of("mean_activation"))}, ${significant(of("max_activation"))}`],
    ]),
    bySource ? sourceHistograms(latent, histogram) : histogram ? activationHistogram(histogram) : null,
  ]);
}

function logitSection(tables) {
  const names = ["reference", "intervened", "difference"];
  const blocks = names.map((name, model) => {
    const [top, bottom] = tables[model];
    if (!top.length && !bottom.length) return element("div", { class: "logits" }, [element("h4", { text: name }), element("p", { class: "muted", text: "not measured" })]);
    return element("div", { class: "logits", "data-model": name }, [element("h4", { text: name }), logitList(top, "up"), logitList(bottom, "down")]);
  });
  const note = "Each model's direction, passed through that model's final norm and unembedding: largest logits first, then the most negative. A list is shown if it is better than those of random directions of the same model. The logit lens reads the direction; it measures no effect on the output.";
  return panel("Logit lens: tokens the direction points at", [element("div", { class: "logit-columns" }, blocks), element("p", { class: "caption", text: note })]);
}

// A list that is no better than those of random directions says so, and is behind a fold.
function logitList(rows, side) {
  const list = element("ol", { class: `logit-list ${side}` }, rows.map(([token, value]) =>
    element("li", {}, [tokenElement(token), element("span", { class: "numeric", text: fixed(value) })]),
  ));
  if (!rows.length || rows[0][2]) return list;
  const end = side === "up" ? "Largest" : "Most negative";
  return element("div", { class: `unreadable ${side}` }, [
    element("p", { class: "muted", text: `${end}: does not read as tokens` }),
    element("details", {}, [element("summary", { text: "show anyway" }), element("p", { class: "muted", text: "no better than the list of a random direction" }), list]),
  ]);
}
