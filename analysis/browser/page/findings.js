// Findings: what changed in the answers of the models, in the words and numbers of the report. They open the page.

const ANSWERS_SHOWN = 2;
const CARDS_SHOWN = 5;

function findingsSection() {
  const { discovery } = data.header;
  if (!discovery.ran) return null;
  const { opening, in_nulls: nulls, incomplete, searched, coverage, findings } = discovery;
  const doubtful = findings.some(({ established }) => !established);
  const cards = findings.map(findingCard);
  const more = cards.slice(CARDS_SHOWN);
  return element("section", { class: "findings", "aria-labelledby": "findings" }, [
    element("h2", { id: "findings", text: "Findings" }),
    element("p", {}, sentenceNodes(opening)),
    element("p", { class: `nulls ${doubtful ? "warned" : ""}` }, sentenceNodes(nulls)),
    incomplete ? element("p", { class: "warned" }, sentenceNodes(incomplete)) : null,
    ...cards.slice(0, CARDS_SHOWN),
    more.length ? element("details", { class: "more-findings" }, [element("summary", { text: `${whole(more.length)} more ${more.length === 1 ? "finding" : "findings"}` }), ...more]) : null,
    element("details", { class: "numbers" }, [
      element("summary", { text: "How the findings were searched for" }),
      ...[searched, coverage].filter(Boolean).map((pieces) => element("p", {}, sentenceNodes(pieces))),
    ]),
  ]);
}

// Without a search the page says so in one line, below what it does show.
function notSearched() {
  const { ran, opening } = data.header.discovery;
  return ran ? null : element("p", { class: "caption not-searched" }, sentenceNodes(opening));
}

function findingCard(finding, at) {
  const { name, direction, established, sentence, details } = finding;
  const id = `finding-${at}`;
  return element("article", { class: `finding-card ${established ? "" : "not-established"}`, "aria-labelledby": id }, [
    element("h3", { id }, [
      element("bdi", { class: "finding-name", text: visibleText(name) }),
      element("span", { class: "muted", text: established ? direction : "not established" }),
    ]),
    element("p", { class: "finding-sentence" }, sentenceNodes(sentence)),
    element("div", { class: "finding-grid" }, [answerRates(finding), answersOf(finding)]),
    carriedBy(finding),
    element("details", { class: "numbers" }, [
      element("summary", { text: "How it was tested" }),
      ...details.map((pieces) => element("p", {}, sentenceNodes(pieces))),
    ]),
  ]);
}

// Both models' rates with their intervals: after the prompts that meet the trigger, and after all others.
function answerRates({ with_trigger: meeting, without_trigger: others }) {
  const rows = ({ prompts, ...models }, where) =>
    ["reference", "intervened"].map((model) => [
      [model, element("small", { text: `${where}, ${whole(models[model].count)} of ${whole(prompts)}` })],
      models[model].share,
    ]);
  const found = others ? [...rows(meeting, "with the trigger"), ...rows(others, "other prompts")] : rows(meeting, "all prompts");
  return barTable("How often the answers show it", ["model, held-out prompts", "share"], found, { low: 0, high: 1 });
}

function answersOf({ examples, words, effect }) {
  if (!examples.length) return null;
  const rows = examples.map((example) => answerRow(example, words, effect));
  const more = rows.slice(ANSWERS_SHOWN);
  return element("div", {}, [
    answerTable("Both models' answers", rows.slice(0, ANSWERS_SHOWN)),
    more.length ? element("details", { class: "numbers" }, [element("summary", { text: `${whole(more.length)} more ${more.length === 1 ? "prompt" : "prompts"}` }), answerTable("More answers", more)]) : null,
  ]);
}

function answerTable(caption, rows) {
  const heads = ["prompt", "the reference answers", "the intervened model answers"];
  return element("table", { class: "answer-table stacked" }, [
    element("caption", { text: caption }),
    element("thead", {}, element("tr", {}, heads.map((text) => element("th", { scope: "col", text })))),
    element("tbody", {}, rows),
  ]);
}

function answerRow({ prompt, reference, intervened }, words, effect) {
  const cell = (head, text) => element("td", { "data-head": head }, element("div", {}, element("bdi", {}, answerNodes(text, words, effect))));
  return element("tr", {}, [
    element("th", { scope: "row" }, element("bdi", {}, answerNodes(prompt))),
    cell("reference", reference),
    cell("intervened", intervened),
  ]);
}

// An answer, with the words of the finding marked where they are first, or at its end.
function answerNodes(text, words = null, effect = null) {
  const shown = visibleText(text);
  if (!shown) return [element("span", { class: "missing", text: "(empty)" })];
  const found = words ? wordsPattern(words, effect).exec(shown) : null;
  if (!found) return [shown];
  const [from, to] = [found.index, found.index + found[0].length];
  return [shown.slice(0, from), element("mark", { text: found[0] }), shown.slice(to)];
}

// Scripts without spaces between words; a character of them is a word.
const CHARACTERS = "\\u3040-\\u30ff\\u3400-\\u9fff";

// Words are counted with one space between them, whatever stands between them in an answer; a part of a word is none.
function wordsPattern(words, effect) {
  const parts = words.split(" ").map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  const letter = `(?![${CHARACTERS}])[\\p{L}\\p{N}]`;
  const isLetter = (text) => new RegExp(`^${letter}$`, "u").test(text);
  const letters = Array.from(words);
  const [before, after] = [isLetter(letters[0]) ? `(?<!${letter})` : "", isLetter(letters.at(-1)) ? `(?!${letter})` : ""];
  const whole = `${before}${parts.join("[\\s↵]*")}${after}`;
  return new RegExp({ opening: `(?<=^[^\\p{L}\\p{N}]*)${whole}`, ending: `${whole}(?=[^\\p{L}\\p{N}]*$)` }[effect] ?? whole, "iu");
}

// What carries the shift of the behavior of the same name, with links to its latents and to its section.
function carriedBy({ name, carried, latents }) {
  if (!carried) return null;
  const links = latents.flatMap(({ latent, evidence }, at) => [at ? ", " : " ", latentLink(latent), " ", labelName(labelOf(latent)), ` (${evidence})`]);
  return element("div", { class: "carried" }, [
    element("h4", { text: "What carries it" }),
    element("p", {}, sentenceNodes(carried)),
    element("p", {}, [
      ...(links.length ? ["Its latents:", ...links, ". "] : []),
      element("button", { type: "button", class: "link", text: "see its behavior", onclick: () => openBehavior(name) }),
    ]),
  ]);
}

// The part of the address after the # holds the state of the page, so this is no link.
function openBehavior(name) {
  const panel = Array.from(document.querySelectorAll(".behavior")).find(({ dataset }) => dataset.behavior === name);
  panel.open = true;
  panel.scrollIntoView();
  panel.querySelector("summary").focus({ preventScroll: true });
}
