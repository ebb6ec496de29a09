// Exports one latent, or the whole audit, as Markdown: numbers in the format of the page, all other text escaped.

const LATENT_NUMBERS = ["relative_norm", "decoder_cosine", "nu_error", "nu_reconstruction", "nu_unselected", "shift_share", "density", "n_tokens", "n_documents", "max_activation", "q_value", "seed_stability", "label_stability", "difference_cosine"];
const EXAMPLES_EXPORTED = 3;

// Markdown that renders as exactly this text within a line; escapes as the report does.
const markdownText = (text) => visibleText(text).replace(/([\\`*_[\]<>|~&#$])/g, "\\$1");

// Markdown for a separate line: its start must not begin a list or a heading.
const markdownLine = (text) => markdownText(text).replace(/^(\s*)([-+=])/, "$1\\$2").replace(/^(\s*\d+)([.)])(?=\s|$)/, "$1\\$2");

// Text as a code span, even if it contains backticks.
function markdownCode(text) {
  const shown = visibleText(text);
  const longest = Math.max(0, ...(shown.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  const space = longest || shown.startsWith(" ") || shown.endsWith(" ") ? " " : "";
  return `${fence}${space}${shown}${space}${fence}`;
}

// A note as a quotation; its line breaks are preserved.
function markdownQuote(text) {
  const lines = text.split(/\r\n|\r|\n/).map(markdownLine);
  return lines.map((line, at) => `> ${line}${line.trim() && lines[at + 1]?.trim() ? "\\" : ""}`.trimEnd()).join("\n");
}

function markdownTable(heads, rows, numeric = []) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(heads), `|${heads.map((_, at) => (numeric.includes(at) ? "---:" : "---")).join("|")}|`, ...rows.map(line)].join("\n");
}

// --- a latent ------------------------------------------------------------------------------------------------------------

async function latentMarkdown(latent, level = 2) {
  const size = data.header.chunk_latents;
  const chunk = await loadChunk(Math.floor(latent / size));
  const inside = latent % size;
  const entry = entryOf(latent);
  const explanation = data.header.explanations[latent];
  const facts = [
    `evidence: ${chunk.header.evidence[inside]}`,
    `reason for “${labelOf(latent)}”: ${markdownText(chunk.header.reasons[inside])}`,
    explanation ? `explanation: ${markdownText(explanation)}` : null,
    `decision: ${entry.verdict ?? "undecided"}`,
  ];
  const parts = [
    `${"#".repeat(level)} Latent ${latent}: ${labelOf(latent)}${entry.label ? `, “${markdownText(entry.label)}”` : ""}`,
    facts.filter(Boolean).map((fact) => `- ${fact}`).join("\n"),
    entry.note ? markdownQuote(entry.note) : null,
    markdownTable(["number", "value", `${confidence()} interval`], latentNumbers(latent, chunk, inside), [1]),
    ...latentTokens(latent, chunk),
    latentExamples(chunk, latent),
  ];
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}

function latentNumbers(latent, chunk, inside) {
  const of = (name) => valueOf(name, latent);
  const bounds = (low, high, format) => (low === null || high === null ? NONE : interval(low, high, format));
  const rows = LATENT_NUMBERS.map((name) => {
    const { title, format } = columnOf(name);
    const ranged = data.columns[`${name}_low`] && of(name) !== null;
    return [title, format(of(name)), ranged ? bounds(of(`${name}_low`), of(`${name}_high`), format) : ""];
  });
  (data.header.behaviors ?? []).forEach((behavior, index) => {
    if (!behavior.explanation) return;
    const { share, named } = attributedTo(behavior, index, latent, chunk, inside);
    rows.push([`attributed share of the shift of ${markdownText(behavior.name)}`, percent(share.value), share.value === null ? "" : bounds(share.low, share.high, percent)]);
    for (const [words, check] of named ? checksOf(named) : []) {
      rows.push([`${words.toLowerCase()}: ${checkVerdict(check)}`, percent(check.share.value), bounds(check.share.low, check.share.high, percent)]);
    }
  });
  return rows;
}

function latentTokens(latent, chunk) {
  const spans = (name) => gistTokens(name, latent).map((token) => markdownCode(tokenText(token)));
  const [peaks, points] = [spans("peaks"), spans("points")];
  const read = logitsOf(chunk, latent).some(([top]) => top.length);
  return [
    peaks.length ? `Its strongest examples peak on ${peaks.join(", ")}.` : null,
    points.length ? `By the logit lens its direction points at ${points.join(", ")} (read from the direction, not a measured effect).` : read ? "By the logit lens its direction does not read as tokens." : null,
  ];
}

function latentExamples(chunk, latent) {
  const strongest = examplesOf(chunk, latent).filter(({ quantile }) => quantile === null).sort((a, b) => a.rank - b.rank);
  return strongest.slice(0, EXAMPLES_EXPORTED).map((example) => {
    const peak = example.position - example.start;
    const [from, to] = [Math.max(0, peak - CONTEXT), Math.min(example.tokens.length, peak + CONTEXT + 1)];
    const text = (first, last) => {
      const joined = Array.from(example.tokens.subarray(first, last), tokenText).join("");
      return joined ? markdownCode(joined) : "";
    };
    const words = [from > 0 ? "…" : "", text(from, peak), `**${text(peak, peak + 1)}**`, text(peak + 1, to), to < example.tokens.length ? "…" : ""];
    return `- ${significant(example.peak)}: ${words.filter(Boolean).join(" ")}`;
  }).join("\n");
}

// --- the audit -----------------------------------------------------------------------------------------------------------

async function auditMarkdown() {
  const { summary, run } = data.header;
  const having = (verdict) => [...decisions.entries.values()].filter((entry) => entry.verdict === verdict).map(({ latent }) => latent).sort((a, b) => a - b);
  const [starred, rejected] = [having("starred"), having("rejected")];
  const starredSections = [];
  for (const latent of starred) starredSections.push((await latentMarkdown(latent, 3)).trimEnd());
  const undecided = data.n - starred.length - rejected.length;
  const parts = [
    `# Audit: ${markdownText(comparedNames())}`,
    `Exported on ${new Date().toISOString().slice(0, 10)} from the page of run \`${run}\`${summary.hookpoint ? `; hookpoint ${markdownCode(summary.hookpoint)}` : ""}.`,
    markdownText(comparedText()),
    "## In short",
    data.header.in_short.map(({ text }) => `- ${sentenceMarkdown(text)}`).join("\n"),
    "## Quality of the dictionary",
    markdownTable(["measure", "value", ""], healthFigures().map(([name, value, note]) => [name, value, note]), [1]),
    "## What changed",
    markdownText(certaintyText()),
    labelTable(),
    "### Controls",
    data.header.control_results.map(({ name, text }) => `- ${markdownText(name)}: ${markdownText(text ?? NONE)}`).join("\n"),
    ...behaviorsMarkdown(),
    "## Requirements",
    markdownTable(["requirement", "value", "threshold", "verdict"], data.header.desiderata.map(({ name, shown, threshold, verdict }) => [name, sentenceMarkdown(shown), sentenceMarkdown(threshold), verdict])),
    `## Starred: ${whole(starred.length)}`,
    ...(starredSections.length ? starredSections : ["None."]),
    `## Rejected: ${whole(rejected.length)}`,
    rejected.map(rejectedLine).join("\n") || "None.",
    `## Undecided: ${whole(undecided)}`,
    `${whole(undecided)} of ${whole(data.n)} latents were neither starred nor rejected.`,
  ];
  return `${parts.join("\n\n")}\n`;
}

function labelTable() {
  const { counts } = data.header.summary;
  const totals = labelCounts();
  const rows = data.header.labels.map((label, code) => {
    const { low = null, high = null, expected_false: expected = null } = counts?.[label] ?? {};
    return [label, whole(totals[code]), low === null || high === null ? NONE : interval(low, high, whole), expected === null ? NONE : significant(expected)];
  });
  return markdownTable(["label", "latents", `${confidence()} interval`, "expected under nulls"], rows, [1, 2, 3]);
}

function behaviorsMarkdown() {
  const { behaviors } = data.header;
  if (!behaviors) return [];
  const texts = behaviors.map(({ name, sentences, explanation }) => [
    `### ${markdownText(name)}`,
    sentences.map(sentenceMarkdown).join("\n\n"),
    explanation ? namedLatentsTable(explanation) : null,
  ]);
  return ["## Behaviors", ...texts.flat().filter(Boolean)];
}

// A sentence of the report as Markdown; quoted model output becomes code.
const sentenceMarkdown = (pieces) => pieces.map((piece) => (Array.isArray(piece) ? markdownCode(piece[0]).replaceAll("|", "\\|") : markdownText(piece))).join("");

function namedLatentsTable({ latents }) {
  const check = (one) => (one === null ? "undefined" : `${estimateText(one.share)}, ${checkVerdict(one)}`);
  const rows = latents.map(({ latent, evidence, attribution, necessity, sufficiency }) => [`${latent} (${labelOf(latent)})`, evidence, estimateText(attribution), check(necessity), check(sufficiency)]);
  return markdownTable(["named latent", "evidence", "attributed share", "undone if removed alone", "produced if added alone"], rows, [2, 3, 4]);
}

function rejectedLine(latent) {
  const { label, note } = entryOf(latent);
  const words = [label && `“${label}”`, note.replace(/\s+/g, " ")].filter(Boolean).map(markdownText);
  return `- latent ${latent} (${labelOf(latent)})${words.length ? `: ${words.join("; ")}` : ""}`;
}
