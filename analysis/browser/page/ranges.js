// Range filters of numeric columns: the field edits one column at a time; any number of ranges can be active.

const RANGE_BINS = 48;
const SKEWED = 20; // a column is drawn on a logarithmic scale if its largest value exceeds this multiple of its median

function rangeField() {
  const column = element("select", { id: "range-column", "aria-label": "column to filter" });
  column.append(...numericColumns().map((name) => element("option", { value: name, text: columnOf(name).title })));
  column.value = data.hasNorms ? AXES.x : "density";
  const low = element("input", { id: "range-low", type: "number", step: "any", placeholder: "at least", "aria-label": "at least" });
  const high = element("input", { id: "range-high", type: "number", step: "any", placeholder: "at most", "aria-label": "at most" });
  const apply = () => {
    const ranges = new Map(state.ranges);
    if (low.value === "" && high.value === "") ranges.delete(column.value);
    else ranges.set(column.value, [bound(low.value, -Infinity), bound(high.value, Infinity)]);
    go({ ranges });
  };
  low.addEventListener("change", apply);
  high.addEventListener("change", apply);
  column.addEventListener("change", () => showRange(column.value));
  return element("div", { class: "field range", role: "group", "aria-label": "range" }, [
    element("div", { class: "range-fields" }, [column, low, high]),
    element("div", { id: "range-histogram" }),
  ]);
}

// The button in a column header that selects the column in the range field.
function rangeButton(name) {
  const { title } = columnOf(name);
  const choose = () => {
    document.getElementById("range-column").value = name;
    showRange(name);
    document.getElementById("range-low").focus();
  };
  return element("button", { type: "button", class: `range-button ${state.ranges.has(name) ? "in-force" : ""}`, title: `filter by ${title}`, "aria-label": `filter by ${title}`, "data-range": name, onclick: choose }, funnel());
}

const funnel = () => svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, [svg("path", { d: "M.5 1h9L6 5.2V9.2L4 8V5.2Z" })]);

function showRange(name) {
  const [low, high] = state.ranges.get(name) ?? [-Infinity, Infinity];
  const show = (field, value) => {
    // Do not overwrite a value that is being typed.
    if (document.activeElement !== field || field.dataset.column !== name) field.value = Number.isFinite(value) ? value : "";
    field.dataset.column = name;
  };
  show(document.getElementById("range-low"), low);
  show(document.getElementById("range-high"), high);
  document.getElementById("range-histogram").replaceChildren(...rangeHistogram(name, low, high));
}

const rangeBins = new Map();

// Counts of all latents over the span of a column, in logarithmic bins if the column is skewed.
function binsOf(name) {
  if (rangeBins.has(name)) return rangeBins.get(name);
  const column = data.columns[name];
  const values = Array.from(column).filter((_, latent) => !isAbsent(column, latent));
  const ends = (numbers) => [numbers.reduce((least, value) => Math.min(least, value), Infinity), numbers.reduce((most, value) => Math.max(most, value), -Infinity)];
  const positive = Float64Array.from(values.filter((value) => value > 0)).sort();
  const skewed = ends(values)[0] >= 0 && positive.at(-1) > SKEWED * positive[Math.floor(positive.length / 2)];
  // Zero has no place on a logarithmic scale; the number of zeros is stated below the histogram.
  const drawn = skewed ? positive : Float64Array.from(values);
  const [least, most] = ends(drawn);
  const scale = skewed ? Math.log : (value) => value;
  const counts = binCounts(drawn.map(scale), scale(least), scale(most) > scale(least) ? scale(most) : scale(least) + 1, RANGE_BINS);
  const bins = { counts, least, most, scale, skewed, zeros: values.length - drawn.length, n: values.length };
  rangeBins.set(name, bins);
  return bins;
}

function rangeHistogram(name, low, high) {
  const { counts, least, most, scale, skewed, zeros, n } = binsOf(name);
  const { title, format } = columnOf(name);
  const [width, height] = [300, 26];
  const tallest = Math.max(...counts);
  const step = width / counts.length;
  const inside = (bin) => {
    const middle = scale(least) + ((bin + 0.5) / counts.length) * (scale(most) - scale(least) || 1);
    return middle >= (low > 0 || !skewed ? scale(low) : -Infinity) && middle <= scale(Math.max(high, skewed ? 0 : -Infinity));
  };
  const bars = counts.map((count, bin) => {
    const size = count ? Math.max(1.5, Math.sqrt(count / tallest) * (height - 2)) : 0;
    return svg("rect", { class: inside(bin) ? "" : "outside", x: bin * step + 0.4, y: height - size, width: step - 0.8, height: size });
  });
  const label = `${title} of ${whole(n)} latents, from ${format(least)} to ${format(most)}`;
  const notes = [skewed ? "logarithmic" : "", zeros ? `${whole(zeros)} at 0` : "", n < data.n ? `${whole(data.n - n)} ${NONE}` : ""].filter(Boolean);
  return [
    svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, [...bars, svg("line", { class: "base", x1: 0, x2: width, y1: height, y2: height })]),
    element("div", { class: "axis" }, [element("span", { text: format(least) }), element("span", { text: notes.join(", ") }), element("span", { text: format(most) })]),
  ];
}
