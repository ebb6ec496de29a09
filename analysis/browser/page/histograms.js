// Histograms of a latent's values: one in total, or one per text source with the same bins and scale, so that shapes and
// heights are comparable without color.

const BIN_HEIGHTS = { one: 74, each: 30 };

// { width, sources: [{ name, tokens, counts }] }, or null if the latent never fired. Runs of earlier releases have one unnamed source.
function histogramOf({ header, arrays }, latent) {
  const sources = [];
  let width = 0;
  let begin = 0;
  for (let row = 0; row < arrays.histogram_latent.length; row++) {
    const end = begin + arrays.histogram_length[row];
    if (arrays.histogram_latent[row] === latent) {
      const [name, tokens] = header.counted_sources[arrays.histogram_source[row]];
      width = arrays.histogram_width[row];
      sources.push({ name, tokens, counts: Array.from(arrays.histogram_counts.subarray(begin, end)) });
    }
    begin = end;
  }
  return sources.length ? { width, sources } : null;
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// Bars with logarithmic heights: log1p(frequency / least), scaled so that `most` fills the chart.
function binBars({ counts, tokens = null }, { width, least = 1, most, tall, of = "" }) {
  const across = 340;
  const step = across / counts.length;
  const scale = Math.log1p(most / least);
  const bars = counts.map((count, bin) => {
    const often = tokens === null ? count : count / tokens;
    const size = count ? Math.max(1.5, (Math.log1p(often / least) / scale) * (tall - 2)) : 0;
    const bar = svg("rect", { x: bin * step + 0.5, y: tall - size, width: step - 1, height: size });
    const share = tokens === null ? "" : `, ${percent(often)} of its tokens`;
    bar.append(svg("title", { text: `${of ? `${of}: ` : ""}${whole(count)} tokens with a value of ${significant(bin * width)} to ${significant((bin + 1) * width)}${share}` }));
    return bar;
  });
  const label = `Histogram of ${whole(sum(counts))} latent values between 0 and ${significant(counts.length * width)}${of ? `, ${of}` : ""}`;
  return svg("svg", { viewBox: `0 0 ${across} ${tall}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, [
    ...bars,
    svg("line", { class: "base", x1: 0, x2: across, y1: tall, y2: tall }),
  ]);
}

function valueAxis({ width, sources }, title) {
  return [element("span", { text: "0" }), element("span", { text: title }), element("span", { text: significant(sources[0].counts.length * width) })];
}

function activationHistogram(histogram) {
  const [source] = histogram.sources;
  const most = Math.max(...source.counts, 1);
  return element("figure", { class: "histogram" }, [
    binBars({ counts: source.counts }, { width: histogram.width, most, tall: BIN_HEIGHTS.one }),
    element("figcaption", { class: "axis" }, valueAxis(histogram, "latent value on tokens where it fires; logarithmic bar heights")),
  ]);
}

// Heights are logarithmic shares of a source's tokens, in units of one token of the largest source.
function sourceHistograms(latent, histogram) {
  const { width, sources } = histogram;
  const all = {
    name: "all",
    column: "density",
    tokens: sum(sources.map(({ tokens }) => tokens)),
    counts: sources[0].counts.map((_, bin) => sum(sources.map(({ counts }) => counts[bin]))),
  };
  const each = sources.map(({ name, ...rest }) => ({ name: visibleText(name), column: `density/${name}`, ...rest }));
  const read = sources.filter(({ tokens }) => tokens > 0);
  const least = 1 / Math.max(...read.map(({ tokens }) => tokens));
  const most = Math.max(...read.flatMap(({ tokens, counts }) => counts.map((count) => count / tokens)));
  const densest = Math.max(...each.map(({ column }) => valueOf(column, latent) ?? 0), 1e-12);
  const row = (source) => {
    const density = valueOf(source.column, latent);
    return element("tr", { class: source === all ? "of-all" : "" }, [
      element("th", { scope: "row", title: source.name }, element("bdi", { text: source.name })),
      element("td", { class: density === null ? "missing" : "numeric" }, [
        percent(density),
        density === null ? null : element("span", { class: "share-track", "--at": density / densest, "aria-hidden": "true" }),
      ]),
      element("td", { class: "bins" }, source.tokens > 0 ? binBars(source, { width, least, most, tall: BIN_HEIGHTS.each, of: source.name }) : null),
    ]);
  };
  const heads = [
    element("th", { scope: "col", text: "source" }),
    element("th", { scope: "col", class: "numeric", text: "density" }),
    element("th", { scope: "col", class: "bins" }, element("span", { class: "axis" }, valueAxis(histogram, "latent value"))),
  ];
  return element("table", { class: "by-source histogram" }, [
    element("caption", { class: "caption", text: "Bars: share of the source's tokens with this value, logarithmic, on one scale for all rows." }),
    element("thead", {}, element("tr", {}, heads)),
    element("tbody", {}, [all, ...each].map(row)),
  ]);
}
