// How the models differ before any dictionary: predictions, layers and the difference of activations, in the words of the report.

function beforeSection() {
  const { before } = data.header;
  if (!before) return null;
  const { statements, predictions, layers } = before;
  return element("details", { class: "before" }, [
    element("summary", { text: "Before any dictionary: how far predictions, layers and activations differ" }),
    element("ul", {}, statements.map(({ name, text }) => element("li", {}, [element("strong", { text: name }), ": ", ...sentenceNodes(text)]))),
    predictions.length ? predictionTable(predictions) : null,
    layers.length ? layerTable(layers) : null,
  ]);
}

function predictionTable(places) {
  const heads = ["after", "KL, nats", "the reference predicts", "the intervened model predicts"];
  const cell = (head, nodes) => element("td", { "data-head": head }, element("div", {}, nodes));
  const rows = places.map(({ context, kl, reference, intervened }) =>
    element("tr", {}, [
      element("th", { scope: "row" }, element("bdi", { text: visibleText(context) })),
      cell("KL, nats", fixed(kl)),
      cell("reference", sentenceNodes(reference)),
      cell("intervened", sentenceNodes(intervened)),
    ]),
  );
  return element("table", { class: "answer-table stacked" }, [
    element("caption", { text: "Where the predictions of the next token differ most" }),
    element("thead", {}, element("tr", {}, heads.map((text) => element("th", { scope: "col", text })))),
    element("tbody", {}, rows),
  ]);
}

function layerTable(layers) {
  const rows = layers.map(({ name, cka, change, hookpoint }) =>
    element("tr", {}, [
      element("th", { scope: "row" }, [...sentenceNodes(name), hookpoint ? element("small", { text: " the hookpoint" }) : null]),
      element("td", { class: "numeric", text: cka === null ? NONE : fixed(cka, 4) }),
      element("td", { class: "numeric", text: percent(change) }),
    ]),
  );
  return element("table", { class: "layer-shifts" }, [
    element("caption", { text: "How far the models differ, layer by layer" }),
    element("thead", {}, element("tr", {}, ["after", "CKA", "change"].map((text, at) => element("th", { scope: "col", class: at ? "numeric" : "", text })))),
    element("tbody", {}, rows),
  ]);
}
