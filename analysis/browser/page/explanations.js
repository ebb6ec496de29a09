// Where a latent fires by its rule, and what chat models say of it; each with the score that it got on other documents.

const CHANCE = "0.5 is chance";

function latentExplanations(latent, chunk) {
  const rule = chunk.header.rules?.[latent];
  const written = chunk.header.written?.[latent] ?? [];
  return [rule ? rulePanel(rule) : null, ...written.map(writtenPanel)].filter(Boolean);
}

const scoreOf = (row, name) => ({ value: row[name], low: row[`${name}_low`], high: row[`${name}_high`] });
const scoreText = (row, name) => (row[name] === null ? NONE : estimateText(scoreOf(row, name), fixed));

function rulePanel(rule) {
  const title = "Where it fires, by a rule";
  if (rule.text === null) return panel(title, [element("p", { class: "reason", text: `${rule.reason}.` })], "rule");
  const pays = rule.bits_saved > 0 ? null : element("p", { class: "caption", text: "The rule does not pay: naming it costs more bits than it saves. It is shown with its score all the same." });
  return panel(title, [
    ruleSentence(rule),
    pays,
    pairsList([
      ["AUROC, does it fire", element("strong", { text: scoreText(rule, "auroc") }), CHANCE],
      ["AUROC, its activation", scoreText(rule, "activation_auroc"), "where the rule holds against elsewhere"],
      ["scored on", `${whole(rule.n_firings)} firings in ${whole(rule.n_documents)} documents`, `of ${whole(rule.n_tokens)} tokens; learnt on others`],
    ]),
    element("p", { class: "caption", text: "The rule with which its firings in one half of the held-out documents are described in the fewest bits. AUROC, on the other half: the chance that a token on which it fires is preferred by the rule to one on which it does not, ties counting half; its interval resamples documents." }),
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
  return panel(`In the words of ${author}`, [
    text,
    row.text !== null && row.reason !== null ? element("p", { class: "caption", text: `${row.reason}.` }) : null,
    row.text === null ? null : writtenScores(row),
    unparsed ? element("p", { class: "caption", text: `${whole(unparsed)} replies of the judge were neither yes nor no; they count for nothing.` }) : null,
    row.text === null ? null : element("p", { class: "caption", text: `Written by a chat model from ${whole(row.n_shown)} excerpts in which it fires, with what it writes into both models, and ${whole(row.n_shown_silent)} others; scored by ${judge} on excerpts of other documents. Balanced accuracy: ${CHANCE}. Beside it, with the explanation of ${row.control_latent === null ? "no other latent, since there is none" : `latent ${row.control_latent}`}: a judge for which both are alike does not judge. ${judgedTogether(row)}${whole(row.prompt_tokens + row.reply_tokens)} tokens.` }),
  ], "written");
}

// Of one latent alone there are too few verdicts to tell a judge that cannot judge.
function judgedTogether({ author, judge }) {
  const together = (data.header.judged ?? []).find((one) => one.author === author && one.judge === judge);
  const parts = ["detection", "fuzzing"].filter((way) => together?.[way]).map((way) => `${way} ${fixed(together[way].own)} and ${fixed(together[way].control)} (mean of ${whole(together[way].n)})`);
  return parts.length ? `On average over the latents that were judged so: ${parts.join(", ")}. ` : "";
}

function writtenScores(row) {
  const cell = (name) => {
    if (row[name] === null) return element("td", { class: "numeric missing", text: row[`${name}_n`] ? `${NONE}: ${whole(row[`${name}_n`])} verdicts are too few` : NONE });
    return element("td", { class: "numeric" }, estimate(scoreOf(row, name), fixed));
  };
  const line = (name, about, way) => element("tr", {}, [element("th", { scope: "row", title: about, text: name }), cell(way), cell(`${way}_control`)]);
  const rule = row.detection_rule === null ? null : element("tr", {}, [element("th", { scope: "row", text: "detection by the rule" }), element("td", { class: "numeric", text: fixed(row.detection_rule) }), element("td")]);
  return element("table", { class: "scores" }, [
    element("thead", {}, element("tr", {}, ["", "its explanation", "another's"].map((text) => element("th", { scope: "col", class: text ? "numeric" : "", text })))),
    element("tbody", {}, [
      line("detection", "Given the explanation, does the latent fire anywhere in this excerpt?", "detection"),
      line("fuzzing", "Given the explanation, are the marked tokens those on which it fires?", "fuzzing"),
      rule,
    ]),
  ]);
}
