// The rule for where a latent fires, and the explanations that chat models wrote, each scored on other documents.

const CHANCE = "chance is 0.5";

function latentExplanations(latent, chunk) {
  const rule = chunk.header.rules?.[latent];
  const written = chunk.header.written?.[latent] ?? [];
  return [rule ? rulePanel(rule) : null, ...written.map(writtenPanel)].filter(Boolean);
}

const scoreOf = (row, name) => ({ value: row[name], low: row[`${name}_low`], high: row[`${name}_high`] });
const scoreText = (row, name) => (row[name] === null ? NONE : estimateText(scoreOf(row, name), fixed));

function rulePanel(rule) {
  const title = "Rule for where it fires";
  if (rule.text === null) return panel(title, [element("p", { class: "reason", text: `${rule.reason}.` })], "rule");
  const pays = rule.bits_saved > 0 ? null : element("p", { class: "caption", text: "The rule does not pay: stating it costs at least as many bits as it saves. Its score is shown nevertheless." });
  return panel(title, [
    ruleSentence(rule),
    pays,
    pairsList([
      ["AUROC, firing", element("strong", { text: scoreText(rule, "auroc") }), CHANCE],
      ["AUROC, latent value", scoreText(rule, "activation_auroc"), "how well the latent value predicts whether the rule holds"],
      ["scored on", `${whole(rule.n_firings)} firings in ${whole(rule.n_documents)} documents`, `of ${whole(rule.n_tokens)} tokens; fitted on other documents`],
    ]),
    element("p", { class: "caption", text: "The rule that describes the latent's firings in one half of the held-out documents in the fewest bits. AUROC, on the other half: the probability that the rule ranks a token on which the latent fires above one on which it does not; ties count half. The interval resamples documents." }),
  ], "rule");
}

const FAMILIES = { token: "token", previous_token: "previous token", pair: "previous and current token", source: "source", place: "place" };

function ruleSentence({ family, negated, items }) {
  const tokens = items.map((item) => element("bdi", { class: "token" }, tokenNodes(item, true)));
  return element("p", { class: "rule-text" }, [`${FAMILIES[family]} ${negated ? "not " : ""}in `, ...tokens.flatMap((token) => [token, " "])]);
}

function writtenPanel(row) {
  const text = row.text === null ? element("p", { class: "reason", text: `No explanation: ${row.reason}.` }) : element("p", { class: "reason" }, element("bdi", { text: visibleText(row.text) }));
  const author = visibleText(basename(row.author));
  const judge = visibleText(basename(row.judge));
  const unparsed = row.detection_unparsed + row.fuzzing_unparsed;
  return panel(`Explanation by ${author}`, [
    text,
    row.text !== null && row.reason !== null ? element("p", { class: "caption", text: `${row.reason}.` }) : null,
    row.text === null ? null : writtenScores(row),
    unparsed ? element("p", { class: "caption", text: `${whole(unparsed)} replies of the judge were neither yes nor no and are not counted.` }) : null,
    row.text === null ? null : element("p", { class: "caption", text: `Written by a chat model from ${whole(row.n_shown)} excerpts in which the latent fires, with what it writes into both models, and ${whole(row.n_shown_silent)} others. Scored by ${judge} on excerpts of other documents: balanced accuracy, ${CHANCE}. Control: ${row.control_latent === null ? "none, since no other latent has an explanation" : `the score with the explanation of latent ${row.control_latent}`}. A judge that scores both alike is uninformative. ${meanScores(row)}${whole(row.prompt_tokens + row.reply_tokens)} tokens.` }),
  ], "written");
}

// A single latent has too few verdicts to reveal an uninformative judge; the means over latents do.
function meanScores({ author, judge }) {
  const together = (data.header.judged ?? []).find((one) => one.author === author && one.judge === judge);
  const parts = ["detection", "fuzzing"].filter((way) => together?.[way]).map((way) => `${way} ${fixed(together[way].own)}, control ${fixed(together[way].control)} (${whole(together[way].n)} scored)`);
  return parts.length ? `Means over latents: ${parts.join("; ")}. ` : "";
}

function writtenScores(row) {
  const cell = (name) => {
    if (row[name] === null) return element("td", { class: "numeric missing", text: row[`${name}_n`] ? `${NONE}: ${whole(row[`${name}_n`])} verdicts are too few` : NONE });
    return element("td", { class: "numeric" }, estimate(scoreOf(row, name), fixed));
  };
  const line = (name, about, way) => element("tr", {}, [element("th", { scope: "row", title: about, text: name }), cell(way), cell(`${way}_control`)]);
  const rule = row.detection_rule === null ? null : element("tr", {}, [element("th", { scope: "row", text: "detection by the rule" }), element("td", { class: "numeric", text: fixed(row.detection_rule) }), element("td")]);
  return element("table", { class: "scores" }, [
    element("thead", {}, element("tr", {}, ["", "its explanation", "control"].map((text) => element("th", { scope: "col", class: text ? "numeric" : "", text })))),
    element("tbody", {}, [
      line("detection", "Given the explanation, does the latent fire anywhere in this excerpt?", "detection"),
      line("fuzzing", "Given the explanation, are the marked tokens those on which it fires?", "fuzzing"),
      rule,
    ]),
  ]);
}
