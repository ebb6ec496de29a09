// Examples: every token twice, colored by what the latent writes into the reference and into the intervened model.

const CONTEXT = 9;
const SPECIAL = 1;
const TEMPLATE = 2;

function exampleSection(examples) {
  const largest = Math.max(1e-12, ...examples.flatMap((example) => [Math.max(...example.reference), Math.max(...example.intervened)]));
  const list = element("div", { class: "example-list" });
  const wholeWindows = element("input", { type: "checkbox", id: "all-context" });
  const render = () => list.replaceChildren(...exampleGroups(examples, largest, wholeWindows.checked));
  wholeWindows.addEventListener("change", render);
  render();
  return element("section", { class: "examples", "aria-label": "Examples" }, [
    element("div", { class: "examples-head" }, [
      element("h2", { text: "Examples" }),
      element("label", { class: "toggle" }, [wholeWindows, "all context"]),
    ]),
    legend(largest),
    list,
  ]);
}

function legend(largest) {
  const scale = element("span", { class: "scale" }, [element("span", { text: "0" }), element("span", { class: "gradient", "aria-hidden": "true" }), element("span", { text: significant(largest) })]);
  const rows = "Upper row: what the latent writes into the reference; lower row: into the intervened model (latent value × decoder norm, in units of the model's activations). One scale for both rows and all examples:";
  const keys = element("span", { class: "keys" }, [
    element("span", { class: "key key-fires", text: "fires; thicker for larger values" }),
    element("span", { class: "key key-peak", text: "peak" }),
    element("span", { class: "key key-template", text: "template token" }),
    element("span", { class: "key key-special", text: "special token" }),
  ]);
  return element("div", { class: "legend" }, [element("span", { text: rows }), scale, keys]);
}

function exampleGroups(examples, largest, all) {
  const top = examples.filter((example) => example.quantile === null).sort((a, b) => a.rank - b.rank);
  const spread = examples.filter((example) => example.quantile !== null).sort((a, b) => b.quantile - a.quantile);
  const group = (title, members) => (members.length ? [element("h3", { text: title }), ...members.map((example) => exampleBlock(example, largest, all))] : []);
  return [
    ...group("Strongest", top),
    ...group("Typical: spread over the quantiles of its values", spread),
  ];
}

function exampleBlock(example, largest, all) {
  const peak = example.position - example.start;
  const from = all ? 0 : Math.max(0, peak - CONTEXT);
  const to = all ? example.tokens.length : Math.min(example.tokens.length, peak + CONTEXT + 1);
  const readout = element("p", { class: "readout" });
  const pairs = [];
  for (let at = from; at < to; at++) pairs.push(tokenPair(example, at, peak, largest));
  const show = (pair) => {
    for (const other of pairs) other.classList.toggle("current", other === pair);
    fillReadout(readout, example, pair ? Number(pair.dataset.at) : peak, pair ? null : "peak");
  };
  show(null);
  const ellipsis = (cut) => (cut ? element("span", { class: "ellipsis", text: "…" }) : null);
  const tokens = element("div", { class: "tokens", dir: "ltr" }, [ellipsis(from > 0), ...pairs, ellipsis(to < example.tokens.length)]);
  tokens.addEventListener("mouseover", (event) => show(event.target.closest(".pair")));
  tokens.addEventListener("mouseleave", () => show(null));
  tokens.addEventListener("click", (event) => show(event.target.closest(".pair")));
  const block = element("article", { class: "example", tabindex: "0", "aria-label": "example; use the arrow keys to move through its tokens" }, [
    element("div", { class: "gutter", "aria-hidden": "true" }, [element("span", { text: "reference" }), element("span", { text: "intervened" })]),
    tokens,
    readout,
  ]);
  block.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const now = pairs.findIndex((pair) => pair.classList.contains("current"));
    const next = now < 0 ? pairs.findIndex((pair) => pair.classList.contains("peak")) : now + step;
    if (pairs[next]) show(pairs[next]);
  });
  block.addEventListener("blur", () => show(null));
  return block;
}

function tokenPair(example, at, peak, largest) {
  const text = tokenText(example.tokens[at]);
  const value = example.values[at];
  const flags = example.flags[at];
  const classes = ["pair"];
  if (value > 0) classes.push("fires");
  if (at === peak) classes.push("peak");
  if (flags & SPECIAL) classes.push("special");
  else if (flags & TEMPLATE) classes.push("template");
  // Activations from files without text: row numbers replace the tokens.
  if (tokenId(example.tokens[at]) === -1) classes.push("row-number");
  const row = (name, amount) => element("bdi", { class: name, dir: "ltr", "--v": (Math.max(0, amount) / largest).toFixed(4) }, tokenNodes(text));
  const lower = row("lower", example.intervened[at]);
  lower.setAttribute("aria-hidden", "true");
  return element("span", { class: classes.join(" "), "data-at": at, "data-value": value }, [row("upper", example.reference[at]), lower]);
}

function fillReadout(readout, example, at, note) {
  const where = `document ${whole(example.document)} (${visibleText(example.source)}), token ${whole(example.start + at)}`;
  const quantile = example.quantile === null ? "" : `, drawn at quantile ${fixed(example.quantile)}`;
  readout.replaceChildren(
    element("span", { class: "readout-name", text: note ? `${note} ` : "" }),
    tokenElement(example.tokens[at]),
    element("span", { text: `value ${significant(example.values[at], 4)}` }),
    element("span", { text: `reference ${significant(example.reference[at])}` }),
    element("span", { text: `intervened ${significant(example.intervened[at])}` }),
    element("span", { class: "where", text: where + quantile }),
  );
}
