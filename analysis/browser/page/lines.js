// Small line charts with intervals; lines differ in stroke and mark and are named at their ends.

const LINES = { width: 380, height: 154, left: 46, right: 74, top: 20, bottom: 26 };
const SPACE = 13;

// A share on an axis, with two digits.
const axisShare = (share) => `${significant(100 * share, 2)} %`;

// `series`: { name, values, lows, highs } each; `x`: positions of the points from 0 to 1; `ticks`: [position, text] below them;
// `marks`: [position, text] of vertical lines; `limits`: levels of horizontal lines. A null value leaves a gap.
function lineChart({ label, x, ticks, series, format = percent, axisFormat = axisShare, low = null, high = null, marks = [], limits = [] }) {
  const { width, height, left, right, top, bottom } = LINES;
  const all = series.flatMap(({ values, lows = [], highs = [] }) => [...values, ...lows, ...highs]).filter((value) => value !== null);
  const [least, most] = [Math.min(low ?? Infinity, ...all), Math.max(high ?? -Infinity, ...all)];
  const span = most - least || 1;
  const across = (place) => left + place * (width - left - right);
  const up = (value) => height - bottom - ((value - least) / span) * (height - top - bottom);
  const text = (at, down, words, anchor = "middle", name = "") => svg("text", { x: at, y: down, "text-anchor": anchor, class: name, text: words });
  const line = (name, x1, y1, x2, y2) => svg("line", { class: name, x1, y1, x2, y2 });
  // Zero always has a label; an end has one only if it does not overlap that of zero.
  const ends = [...new Set([least, most])];
  const levels = least < 0 && most > 0 ? [0, ...ends.filter((end) => Math.abs(up(end) - up(0)) >= SPACE)] : ends;
  return svg("svg", { class: "lines", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, [
    ...levels.flatMap((level) => [line("grid", left, up(level), width - right, up(level)), text(left - 5, up(level) + 4, axisFormat(level), "end")]),
    ...limits.map((level) => line("limit", left, up(level), width - right, up(level))),
    ...marks.flatMap(([place, words]) => [
      line("onset", across(place), top, across(place), height - bottom),
      text(across(place), top - 8, words, place > 0.8 ? "end" : place < 0.2 ? "start" : "middle", "onset-name"),
    ]),
    ...ticks.flatMap(([place, words]) => [line("tick", across(place), height - bottom, across(place), height - bottom + 4), text(across(place), height - bottom + 16, words)]),
    ...series.flatMap((one, index) => drawnSeries(one, index, x.map(across), up, format)),
    ...endNames(series, up).map(([name, down]) => text(width - right + 8, down + 4, name, "start", "series-name")),
  ]);
}

function drawnSeries({ name, values, lows = [], highs = [] }, index, places, up, format) {
  const nodes = [];
  const known = values.flatMap((value, at) => (value === null ? [] : [at]));
  for (const at of known) {
    if ((lows[at] ?? null) === null || (highs[at] ?? null) === null) continue;
    nodes.push(svg("line", { class: "whisker", x1: places[at], x2: places[at], y1: up(lows[at]), y2: up(highs[at]) }));
  }
  nodes.push(svg("polyline", { class: `series series-${index}`, points: known.map((at) => `${places[at].toFixed(1)},${up(values[at]).toFixed(1)}`).join(" ") }));
  for (const at of known) {
    const [left, top] = [places[at], up(values[at])];
    const mark = seriesMark(index, left, top);
    mark.append(svg("title", { text: `${name}: ${format(values[at])}` }));
    nodes.push(mark);
  }
  return nodes;
}

// Marks of the series, for captions.
const SERIES_MARKS = ["●", "□", "▲"];

function seriesMark(index, left, top) {
  if (index === 0) return svg("circle", { class: "point", cx: left, cy: top, r: 3.2 });
  if (index === 1) return svg("rect", { class: "point open", x: left - 3, y: top - 3, width: 6, height: 6 });
  return svg("path", { class: "point", d: `M${left} ${top - 4}l4 7h-8Z` });
}

// Names of the lines at the height of their last point, moved apart if they would overlap.
function endNames(series, up) {
  const ends = series.filter(({ values }) => values.some((value) => value !== null)).map(({ name, values }) => [name, up(values.findLast((value) => value !== null))]);
  ends.sort((a, b) => a[1] - b[1]);
  for (let index = 1; index < ends.length; index++) ends[index][1] = Math.max(ends[index][1], ends[index - 1][1] + SPACE);
  const over = ends.length ? Math.max(0, ends[ends.length - 1][1] - (LINES.height - LINES.bottom)) : 0;
  return ends.map(([name, down]) => [name, down - over]);
}

// Vertical bars from 0, one of them marked; `describe` gives the tooltip of a bar.
function columnChart({ label, values, names, marked, markName, describe }) {
  const [width, height, left, bottom, top] = [380, 116, 46, 30, 8];
  const [least, most] = [Math.min(0, ...values), Math.max(1, ...values)];
  const up = (value) => height - bottom - ((value - least) / (most - least)) * (height - top - bottom);
  const step = (width - left) / values.length;
  const center = (at) => left + (at + 0.5) * step;
  const bars = values.map((value, at) => {
    const bar = svg("rect", { class: at === marked ? "column marked" : "column", x: left + at * step + step * 0.12, width: step * 0.76, y: up(Math.max(0, value)), height: Math.max(1, Math.abs(up(value) - up(0))) });
    bar.append(svg("title", { text: describe(at) }));
    return bar;
  });
  const anchor = center(marked) > width - 60 ? "end" : center(marked) < left + 40 ? "start" : "middle";
  const shown = [...new Set([0, values.length - 1])];
  return svg("svg", { class: "lines columns-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, [
    ...[0, 1].flatMap((level) => [svg("line", { class: "grid", x1: left, x2: width, y1: up(level), y2: up(level) }), svg("text", { x: left - 5, y: up(level) + 4, "text-anchor": "end", text: axisShare(level) })]),
    ...bars,
    ...shown.filter((at) => Math.abs(at - marked) * step > 12 || at === marked).map((at) => svg("text", { x: center(at), y: height - bottom + 13, "text-anchor": "middle", text: names[at] })),
    ...(marked < 0 ? [] : [svg("text", { x: center(marked), y: height - bottom + 26, "text-anchor": anchor, text: `▲ ${names[marked]}, ${markName}` })]),
  ]);
}

// An estimate with its interval, compared with random draws: one short vertical stroke per draw.
function randomDrawsChart({ value, low, high }, random) {
  if (value === null || !random.length) return null;
  const [width, height, edge] = [240, 22, 6];
  const all = [0, value, low, high, ...random].filter((end) => end !== null);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const across = (share) => edge + ((share - least) / (most - least || 1)) * (width - 2 * edge);
  const stroke = (name, share, from, to) => svg("line", { class: name, x1: across(share), x2: across(share), y1: from, y2: to });
  return svg("svg", { class: "random-draws", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, [
    svg("line", { class: "grid", x1: edge, x2: width - edge, y1: height / 2, y2: height / 2 }),
    stroke("zero", 0, 1, height - 1),
    ...random.map((share) => stroke("draw", share, 6, height - 6)),
    low === null || high === null ? null : svg("line", { class: "reach", x1: across(low), x2: across(high), y1: height / 2, y2: height / 2 }),
    svg("circle", { class: "point", cx: across(value), cy: height / 2, r: 4 }),
  ]);
}
