// Histograms over latents as SVG.

const BINS = 50;

function binCounts(values, low, high, bins = BINS) {
  const counts = new Array(bins).fill(0);
  for (const value of values) {
    if (Number.isNaN(value)) continue;
    counts[Math.min(bins - 1, Math.max(0, Math.floor(((value - low) / (high - low)) * bins)))]++;
  }
  return counts;
}

// Bars over [low, high]; heights are square roots of counts, because one bin often holds nearly all latents.
function strip(counts, { label, low, high, unit, ticks }) {
  const [width, height] = [300, 30];
  const tallest = Math.max(...counts, 1);
  const step = width / counts.length;
  const bars = counts.map((count, bin) => {
    if (!count) return null;
    const size = Math.max(1.5, Math.sqrt(count / tallest) * (height - 2));
    const from = low + ((high - low) * bin) / counts.length;
    const to = low + ((high - low) * (bin + 1)) / counts.length;
    const bar = svg("rect", { x: bin * step + 0.4, y: height - size, width: step - 0.8, height: size });
    bar.append(svg("title", { text: `${whole(count)} with ${unit} ${fixed(from)} to ${fixed(to)}` }));
    return bar;
  });
  const lines = ticks.map((tick) => {
    const x = ((tick - low) / (high - low)) * width;
    return svg("line", { class: "tick", x1: x, x2: x, y1: 0, y2: height });
  });
  return svg(
    "svg",
    { class: `strip fill-${label}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": stripSummary(counts, low, high, unit) },
    [...lines, svg("line", { class: "base", x1: 0, x2: width, y1: height, y2: height }), ...bars],
  );
}

function stripSummary(counts, low, high, unit) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return `${unit}: no latent`;
  const most = counts.indexOf(Math.max(...counts));
  const at = (bin) => fixed(low + ((high - low) * bin) / counts.length);
  return `${unit} of ${whole(total)} latents; the fullest bin, ${at(most)} to ${at(most + 1)}, holds ${whole(counts[most])}`;
}
