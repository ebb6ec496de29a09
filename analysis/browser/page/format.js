// Formats numbers and tokens, and creates elements. Text from models and data sets enters the document only as textContent.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, properties = {}, children = []) {
  const node = document.createElement(tag);
  fill(node, properties, children);
  return node;
}

function svg(tag, properties = {}, children = []) {
  const node = document.createElementNS(SVG, tag);
  fill(node, properties, children);
  return node;
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of [].concat(children)) {
    if (child !== null && child !== undefined) node.append(child);
  }
}

const grouped = new Intl.NumberFormat("en-US");

// Missing values are spelled out: a dash could be read as "none found".
const NONE = "not measured";
const minus = (text) => text.replace("-", "−");

const whole = (value) => (value === null || value === undefined ? NONE : minus(grouped.format(Math.round(value))));
const fixed = (value, digits = 2) => (value === null || value === undefined ? NONE : minus(toEven(value, digits)));

const EXACT = 50;

// Like toFixed, but rounds ties to even, as the report does: 56.25 becomes 56.2, not 56.3.
function toEven(value, digits) {
  const exact = value.toFixed(digits + EXACT);
  if (!/^50*$/.test(exact.slice(-EXACT))) return value.toFixed(digits);
  const below = exact.slice(0, -EXACT).replace(/\.$/, "");
  return Number(below.at(-1)) % 2 ? value.toFixed(digits) : below;
}

function significant(value, digits = 3) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return minus(value.toExponential(digits - 1));
  return minus(String(Number(value.toPrecision(digits))));
}

// A p-value or q-value; below 0.001 the exact size carries no information.
const errorRate = (value) => (value !== null && value !== undefined && value < 1e-3 ? "< 0.001" : significant(value));

function percent(value) {
  if (value === null || value === undefined) return NONE;
  const share = value * 100;
  const size = Math.abs(share);
  const digits = size === 0 ? 0 : size >= 9.95 ? 1 : size >= 0.0995 ? 2 : Math.min(6, 1 - Math.floor(Math.log10(size)));
  return `${minus(toEven(share, digits))} %`;
}

function interval(low, high, format) {
  return low === null || high === null ? `interval ${NONE}` : `${format(low)} to ${format(high)}`;
}

// Characters that are invisible or change how adjacent text is displayed.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}\u00a0\u2000-\u200a\u3000]/u;
const NAMED = { "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };

function visibleCharacter(letter) {
  return NAMED[letter] ?? `\\u${letter.codePointAt(0).toString(16).padStart(4, "0")}`;
}

// A token as DOM nodes: invisible characters are spelled out in spans of class `unseen`. Leading spaces are marked in lists and
// stay spaces in running text.
function tokenNodes(text, inList = false) {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  const mark = (shown) => {
    flush();
    nodes.push(element("span", { class: "unseen", text: shown }));
  };
  const blank = /^ *$/.test(text);
  let leading = true;
  for (const letter of text) {
    if (letter === " " && (blank || (inList && leading))) mark("␣");
    else if (letter === "\ufffd") mark("�");
    else if (UNSEEN.test(letter)) mark(visibleCharacter(letter));
    else plain += letter;
    if (letter !== " ") leading = false;
  }
  flush();
  if (text === "") mark("∅");
  return nodes;
}

function tokenElement(index, extra = "") {
  return element("bdi", { class: `token ${extra}`, title: tokenId(index) === -1 ? "row of the activations file" : `token id ${tokenId(index)}` }, tokenNodes(tokenText(index), true));
}

function visibleText(text) {
  return Array.from(text, (letter) => (UNSEEN.test(letter) ? visibleCharacter(letter) : letter)).join("");
}

const MARKS = {
  new: "M6 1 11 10.5 1 10.5Z",
  lost: "M1 1.5 11 1.5 6 11Z",
  replaced: "M1 1.5H11L7.2 6 11 10.5H1L4.8 6Z",
  rotated: "M6 .5 11.5 6 6 11.5 .5 6Z",
  rescaled: "M1.5 1.5H10.5V10.5H1.5Z",
  reweighted: "M4.5 .5h3v4h4v3h-4v4h-3v-4h-4v-3h4Z",
  shared: "M6 2a4 4 0 1 0 .01 0Z",
  undetermined: "M6 2a4 4 0 1 0 .01 0Z",
  dead: "M2 3.2 3.2 2 6 4.8 8.8 2 10 3.2 7.2 6 10 8.8 8.8 10 6 7.2 3.2 10 2 8.8 4.8 6Z",
};

function labelMark(label) {
  return svg("svg", { class: `mark mark-${label}`, viewBox: "0 0 12 12", "aria-hidden": "true" }, [
    svg("path", { d: MARKS[label] }),
  ]);
}

function labelName(label) {
  return element("span", { class: "label-name" }, [labelMark(label), label]);
}
