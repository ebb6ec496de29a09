// Tables of shares with bars on a common scale; readable without color.

// Ends of a scale that covers all estimates, zero, and `whole` if the bars are parts of a whole.
function shareScale(estimates, whole = 0) {
  const ends = estimates.flatMap(({ value, low = null, high = null }) => [value, low, high]).filter((end) => end !== null);
  return { low: Math.min(0, ...ends), high: Math.max(whole, ...ends, 1e-12) };
}

function shareBar({ value, low = null, high = null }, scale) {
  if (value === null) return null;
  const at = (share) => (share - scale.low) / (scale.high - scale.low);
  const piece = (name, from, to) => element("span", { class: name, "--from": from, "--size": to - from });
  const known = low !== null && high !== null;
  return element("span", { class: "track", "aria-hidden": "true" }, [
    piece("track-fill", at(Math.min(0, value)), at(Math.max(0, value))),
    known ? piece("track-range", at(low), at(high)) : null,
    piece("track-zero", at(0), at(0)),
  ]);
}

// A number with its interval below it, in the format of the report.
function estimate({ value, low = null, high = null }, format = percent) {
  const known = value !== null && low !== null && high !== null;
  return [format(value), known ? element("small", { class: "range-of", text: interval(low, high, format) }) : null];
}

const estimateText = ({ value, low = null, high = null }, format = percent) =>
  value !== null && low !== null && high !== null ? `${format(value)} (${interval(low, high, format)})` : format(value);

// `rows`: [label, estimate] each.
function barTable(caption, heads, rows, scale) {
  const body = rows.map(([label, found]) =>
    element("tr", {}, [
      element("th", { scope: "row" }, label),
      element("td", { class: "bar-cell" }, shareBar(found, scale)),
      element("td", { class: `numeric ${found.value === null ? "missing" : ""}` }, estimate(found)),
    ]),
  );
  return element("table", { class: "bars" }, [
    element("caption", { text: caption }),
    element("thead", {}, element("tr", {}, [element("th", { scope: "col", text: heads[0] }), element("td"), element("th", { scope: "col", class: "numeric", text: heads[1] })])),
    element("tbody", {}, body),
  ]);
}

// The numbers of a chart as a table that can be opened below it.
function numbersTable(name, heads, rows) {
  const cell = (value, at) => element(at ? "td" : "th", at ? { class: "numeric" } : { scope: "row" }, value);
  return element("details", { class: "numbers" }, [
    element("summary", { text: `${name}: the numbers` }),
    element("table", {}, [
      element("thead", {}, element("tr", {}, heads.map((text, at) => element("th", { scope: "col", class: at ? "numeric" : "", text })))),
      element("tbody", {}, rows.map((row) => element("tr", {}, row.map(cell)))),
    ]),
  ]);
}
