// Histograms as SVG and the scatter on a canvas. Every label has a shape of its own, so that none of it needs color.

const BINS = 50;

function binCounts(values, low, high, bins = BINS) {
  const counts = new Array(bins).fill(0);
  for (const value of values) {
    if (Number.isNaN(value)) continue;
    counts[Math.min(bins - 1, Math.max(0, Math.floor(((value - low) / (high - low)) * bins)))]++;
  }
  return counts;
}

// Bars over [low, high]; heights by square root, because one bin often holds nearly everything.
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

function activationHistogram(histogram) {
  const { edges, counts } = histogram;
  const [width, height] = [340, 74];
  const step = width / counts.length;
  const tallest = Math.log1p(Math.max(...counts, 1));
  const bars = counts.map((count, bin) => {
    const size = count ? Math.max(1.5, (Math.log1p(count) / tallest) * (height - 2)) : 0;
    const bar = svg("rect", { x: bin * step + 0.5, y: height - size, width: step - 1, height: size });
    bar.append(svg("title", { text: `${whole(count)} tokens with a value of ${significant(edges[bin])} to ${significant(edges[bin + 1])}` }));
    return bar;
  });
  const last = edges[edges.length - 1];
  return element("figure", { class: "histogram" }, [
    svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `Histogram of ${whole(counts.reduce((a, b) => a + b, 0))} latent values between 0 and ${significant(last)}` }, [
      ...bars,
      svg("line", { class: "base", x1: 0, x2: width, y1: height, y2: height }),
    ]),
    element("figcaption", { class: "axis" }, [
      element("span", { text: "0" }),
      element("span", { text: "latent value where it fires; bar heights are logarithmic" }),
      element("span", { text: significant(last) }),
    ]),
  ]);
}

// --- scatter -------------------------------------------------------------------------------------------------------

const scatter = { canvas: null, points: [], tip: null };
const MARGIN = { left: 38, right: 10, top: 8, bottom: 26 };

function makeScatter() {
  const canvas = element("canvas", {
    role: "img",
    "aria-label": "Scatter of relative norm against decoder cosine, one mark a latent; the table below holds the same numbers.",
  });
  const tip = element("p", { class: "tip", hidden: true });
  scatter.canvas = canvas;
  scatter.tip = tip;
  canvas.addEventListener("mousemove", (event) => showTip(nearest(event)));
  canvas.addEventListener("mouseleave", () => showTip(null));
  canvas.addEventListener("click", (event) => {
    const point = nearest(event);
    if (point) go({ latent: point.latent });
  });
  new ResizeObserver(() => drawScatter()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawScatter());
  return element("div", { class: "scatter" }, [canvas, tip]);
}

function drawScatter(shown = scatter.shown) {
  const { canvas } = scatter;
  if (!canvas || !canvas.clientWidth) return;
  scatter.shown = shown;
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const x = (value) => MARGIN.left + value * (width - MARGIN.left - MARGIN.right);
  const y = (value) => MARGIN.top + ((1 - value) / 2) * (height - MARGIN.top - MARGIN.bottom);
  drawAxes(context, x, y, width, height, color);
  const { relative_norm: norms, decoder_cosine: cosines, density: densities } = data.columns;
  scatter.points = [];
  if (!norms || !cosines) return;
  const visible = new Set(shown);
  const order = ["dead", "shared", "undetermined", "reweighted", "rescaled", "rotated", "lost", "new"];
  for (const label of order) {
    const code = data.header.labels.indexOf(label);
    const path = new Path2D(MARKS[label]);
    for (let latent = 0; latent < data.n; latent++) {
      if (data.labels[latent] !== code || Number.isNaN(norms[latent]) || Number.isNaN(cosines[latent])) continue;
      const [left, top] = [x(norms[latent]), y(cosines[latent])];
      const size = 5 + 9 * Math.sqrt(Math.min(1, densities[latent] / 0.1));
      drawMark(context, path, left, top, size, color(label), label, visible.has(latent));
      if (visible.has(latent)) scatter.points.push({ latent, left, top });
    }
  }
}

function drawMark(context, path, left, top, size, color, label, visible) {
  context.save();
  context.translate(left - size / 2, top - size / 2);
  context.scale(size / 12, size / 12);
  context.globalAlpha = visible ? 0.75 : 0.08;
  if (label === "undetermined") {
    context.strokeStyle = color;
    context.lineWidth = 1.6;
    context.stroke(path);
  } else {
    context.fillStyle = color;
    context.fill(path);
  }
  context.restore();
}

function drawAxes(context, x, y, width, height, color) {
  context.strokeStyle = color("line");
  context.fillStyle = color("muted");
  context.font = "11px sans-serif";
  context.lineWidth = 1;
  context.textAlign = "center";
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    context.beginPath();
    context.moveTo(x(tick), y(1));
    context.lineTo(x(tick), y(-1));
    context.stroke();
    context.textAlign = tick === 0 ? "left" : tick === 1 ? "right" : "center";
    context.fillText(String(tick), x(tick), height - MARGIN.bottom + 13);
  }
  context.textAlign = "right";
  for (const tick of [-1, 0, 1]) {
    context.beginPath();
    context.moveTo(x(0), y(tick));
    context.lineTo(x(1), y(tick));
    context.stroke();
    context.fillText(minus(String(tick)), MARGIN.left - 6, y(tick) + 4);
  }
  context.textAlign = "center";
  context.fillText("relative norm", x(0.5), height - 2);
  context.save();
  context.translate(10, y(0));
  context.rotate(-Math.PI / 2);
  context.fillText("decoder cosine", 0, 0);
  context.restore();
}

function nearest(event) {
  const box = scatter.canvas.getBoundingClientRect();
  const [left, top] = [event.clientX - box.left, event.clientY - box.top];
  let best = null;
  let distance = 144;
  for (const point of scatter.points) {
    const apart = (point.left - left) ** 2 + (point.top - top) ** 2;
    if (apart <= distance) [best, distance] = [point, apart];
  }
  return best;
}

function showTip(point) {
  scatter.tip.hidden = !point;
  scatter.canvas.classList.toggle("pointing", Boolean(point));
  if (!point) return;
  const { latent, left, top } = point;
  const words = gistTokens("peaks", latent).slice(0, 3).map((token) => visibleText(tokenText(token)).trim());
  const peaks = words.length ? `, peaks on ${words.map((word) => `“\u2068${word}\u2069”`).join(" ")}` : "";
  scatter.tip.textContent = `latent ${latent}, ${labelOf(latent)}${peaks}`;
  scatter.tip.style.left = `${Math.min(left + 12, scatter.canvas.clientWidth - 220)}px`;
  scatter.tip.style.top = `${top + 12}px`;
}
