// Scatter plot of relative norm and decoder cosine on a canvas. Dragging a rectangle filters the table by both columns. It sets
// the same ranges as the fields above the table, so it is part of the address and can be set without a pointer.

const AXES = { x: "relative_norm", y: "decoder_cosine" };
const MARGIN = { left: 38, right: 10, top: 8, bottom: 26 };
const DRAWN = ["dead", "shared", "undetermined", "reweighted", "rescaled", "rotated", "replaced", "lost", "new"]; // in drawing order, the most important on top
const DENSE = 2000; // labels with more latents than this are drawn as dots, because shapes would overlap
const CELL = 12; // pixels: cell size of the grid that finds the mark below the pointer, and largest distance of that mark
const CLICK = 4; // pixels that the pointer may move during a click

const scatter = { canvas: null, tip: null, frame: null, shown: [], places: null, backdrop: null, grid: null, from: null, dragged: false };

function makeScatter() {
  const canvas = element("canvas", {
    role: "img",
    "aria-label": "Scatter plot of decoder cosine over relative norm, one mark per latent. The table below has the same numbers; its range filters select the same latents as a rectangle drawn here.",
  });
  Object.assign(scatter, { canvas, tip: element("p", { class: "tip", hidden: true }), frame: element("div", { class: "brush", hidden: true }) });
  canvas.addEventListener("pointerdown", (event) => {
    scatter.dragged = false;
    // Touch scrolls the page.
    if (event.button !== 0 || event.pointerType === "touch") return;
    scatter.from = pointerPlace(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (scatter.from) scatter.dragged ||= isDragged(event);
    if (scatter.from && scatter.dragged) showFrame(draggedRanges(event));
    showTip(scatter.from ? null : nearest(event));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (scatter.from && scatter.dragged) setBrush(draggedRanges(event));
    scatter.from = null;
  });
  canvas.addEventListener("pointercancel", () => endBrush());
  canvas.addEventListener("pointerleave", () => showTip(null));
  canvas.addEventListener("click", (event) => {
    // Releasing the pointer after a drag also fires a click.
    const latent = scatter.dragged ? null : nearest(event);
    if (latent !== null) go({ latent });
  });
  new ResizeObserver(() => drawScatter()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawScatter());
  return element("div", { class: "scatter" }, [canvas, scatter.frame, scatter.tip]);
}

function scatterFigure() {
  const dense = data.header.labels.filter((_, code) => isDense(code));
  const dots = dense.length ? ` Labels with more than ${whole(DENSE)} latents (${dense.join(", ")}) are drawn as dots.` : "";
  const clear = element("button", { type: "button", class: "clear-brush", hidden: true, onclick: () => endBrush(), text: "clear the rectangle" });
  scatter.clear = clear;
  const caption = `One mark per latent: size shows density, shape shows the label.${dots} Click a mark to open the latent; drag a rectangle to filter the table. `;
  return element("figure", {}, [makeScatter(), element("figcaption", { class: "caption" }, [caption, clear])]);
}

// --- positions -----------------------------------------------------------------------------------------------------

const across = (value) => MARGIN.left + value * (scatter.canvas.clientWidth - MARGIN.left - MARGIN.right);
const down = (value) => MARGIN.top + ((1 - value) / 2) * (scatter.canvas.clientHeight - MARGIN.top - MARGIN.bottom);

const isDense = (code) => (scatter.counts ??= labelCounts())[code] > DENSE;

// Position and size of every mark; NaN for latents without a position.
function placeMarks() {
  const { [AXES.x]: norms, [AXES.y]: cosines, density: densities } = data.columns;
  const left = Float32Array.from(norms, across);
  const top = Float32Array.from(cosines, down);
  const size = Float32Array.from(densities, (density, latent) => {
    const often = Math.sqrt(Math.min(1, density / 0.1));
    return isDense(data.labels[latent]) ? 1.5 + 4 * often : 5 + 9 * often;
  });
  return { left, top, size };
}

// --- drawing -------------------------------------------------------------------------------------------------------

function drawScatter(shown = scatter.shown) {
  const { canvas } = scatter;
  scatter.shown = shown;
  scatter.grid = null;
  if (!canvas || !canvas.clientWidth) return;
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const key = [width, height, ratio, dark].join(" ");
  if (scatter.backdrop?.key !== key) {
    scatter.places = placeMarks();
    scatter.backdrop = { key, canvas: makeBackdrop(width * ratio, height * ratio, ratio) };
  }
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const context = canvas.getContext("2d");
  context.drawImage(scatter.backdrop.canvas, 0, 0);
  drawMarks(context, shown, ratio, 0.75);
  showFrame(new Map(Object.values(AXES).map((name) => [name, state.ranges.get(name)])));
}

// Axes and a faint mark for every latent, so that filtered-out latents stay visible. Redrawn only for a new size or theme.
function makeBackdrop(width, height, ratio) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  drawAxes(context, scatterColor);
  drawMarks(context, data.labels.keys(), ratio, 0.08);
  return canvas;
}

const scatterColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function drawMarks(context, latents, ratio, alpha) {
  const { left, top, size } = scatter.places;
  const byLabel = data.header.labels.map(() => []);
  for (const latent of latents) if (!Number.isNaN(left[latent] + top[latent])) byLabel[data.labels[latent]].push(latent);
  context.globalAlpha = alpha;
  for (const label of DRAWN) {
    const code = data.header.labels.indexOf(label);
    const path = new Path2D(MARKS[label]);
    const outlined = label === "undetermined";
    context.fillStyle = context.strokeStyle = scatterColor(label);
    context.lineWidth = 1.6;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const latent of byLabel[code]) {
      const [x, y, wide] = [left[latent], top[latent], size[latent]];
      if (isDense(code)) {
        context.fillRect(x - wide / 2, y - wide / 2, wide, wide);
        continue;
      }
      const scale = (ratio * wide) / 12;
      context.setTransform(scale, 0, 0, scale, ratio * (x - wide / 2), ratio * (y - wide / 2));
      if (outlined) context.stroke(path);
      else context.fill(path);
    }
  }
}

function drawAxes(context, color) {
  context.strokeStyle = color("line");
  context.fillStyle = color("muted");
  context.font = "11px sans-serif";
  context.lineWidth = 1;
  const line = (x1, y1, x2, y2) => {
    context.beginPath();
    context.moveTo(across(x1), down(y1));
    context.lineTo(across(x2), down(y2));
    context.stroke();
  };
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    line(tick, 1, tick, -1);
    context.textAlign = tick === 0 ? "left" : tick === 1 ? "right" : "center";
    context.fillText(String(tick), across(tick), down(-1) + 13);
  }
  context.textAlign = "right";
  for (const tick of [-1, 0, 1]) {
    line(0, tick, 1, tick);
    context.fillText(minus(String(tick)), MARGIN.left - 6, down(tick) + 4);
  }
  context.textAlign = "center";
  context.fillText("relative norm", across(0.5), down(-1) + MARGIN.bottom - 2);
  context.save();
  context.translate(10, down(0));
  context.rotate(-Math.PI / 2);
  context.fillText("decoder cosine", 0, 0);
  context.restore();
}

// --- the mark below the pointer ------------------------------------------------------------------------------------

function pointerPlace(event) {
  const box = scatter.canvas.getBoundingClientRect();
  return { left: event.clientX - box.left, top: event.clientY - box.top };
}

// Shown latents by canvas cell; computed on the first pointer movement.
function makeGrid() {
  const { left, top } = scatter.places;
  const cells = new Map();
  for (const latent of scatter.shown) {
    if (Number.isNaN(left[latent] + top[latent])) continue;
    const cell = cellOf(left[latent], top[latent]);
    if (cells.has(cell)) cells.get(cell).push(latent);
    else cells.set(cell, [latent]);
  }
  return cells;
}

const cellOf = (left, top) => Math.floor(left / CELL) + 4096 * Math.floor(top / CELL);

// The nearest latent within one cell size, the topmost of ties; null if there is none.
function nearest(event) {
  if (!scatter.places) return null;
  scatter.grid ??= makeGrid();
  const pointer = pointerPlace(event);
  let [best, distance] = [null, CELL ** 2];
  for (const x of [-CELL, 0, CELL]) {
    for (const y of [-CELL, 0, CELL]) {
      for (const latent of scatter.grid.get(cellOf(pointer.left + x, pointer.top + y)) ?? []) {
        const apart = (scatter.places.left[latent] - pointer.left) ** 2 + (scatter.places.top[latent] - pointer.top) ** 2;
        const over = best === null || DRAWN.indexOf(labelOf(latent)) > DRAWN.indexOf(labelOf(best));
        if (apart < distance || (apart === distance && over)) [best, distance] = [latent, apart];
      }
    }
  }
  return best;
}

function showTip(latent) {
  scatter.tip.hidden = latent === null;
  scatter.canvas.classList.toggle("pointing", latent !== null);
  if (latent === null) return;
  const words = gistTokens("peaks", latent).slice(0, 3).map((token) => visibleText(tokenText(token)).trim());
  const peaks = words.length ? `, peaks on ${words.map((word) => `“\u2068${word}\u2069”`).join(" ")}` : "";
  scatter.tip.textContent = `latent ${latent}, ${labelOf(latent)}${peaks}`;
  scatter.tip.style.left = `${Math.min(scatter.places.left[latent] + 12, scatter.canvas.clientWidth - 220)}px`;
  scatter.tip.style.top = `${scatter.places.top[latent] + 12}px`;
}

// --- the rectangle -------------------------------------------------------------------------------------------------

function isDragged(event) {
  const { left, top } = pointerPlace(event);
  return Math.hypot(left - scatter.from.left, top - scatter.from.top) > CLICK;
}

// Ranges of both columns between the start of the drag and the pointer; unbounded at the end of an axis.
function draggedRanges(event) {
  const { left, top } = pointerPlace(event);
  const of = (begin, end, least, most) => {
    const share = (value) => Number((least + value * (most - least)).toFixed(3));
    const [low, high] = [begin, end].sort((a, b) => a - b);
    return [low <= 0 ? -Infinity : share(low), high >= 1 ? Infinity : share(high)];
  };
  const x = (place) => (place - across(0)) / (across(1) - across(0));
  const y = (place) => (place - down(-1)) / (down(1) - down(-1));
  return new Map([
    [AXES.x, of(x(scatter.from.left), x(left), 0, 1)],
    [AXES.y, of(y(scatter.from.top), y(top), -1, 1)],
  ]);
}

function setBrush(chosen) {
  const ranges = new Map(state.ranges);
  for (const [name, range] of chosen) {
    if (range.some(Number.isFinite)) ranges.set(name, range);
    else ranges.delete(name);
  }
  go({ ranges });
}

// Cancels the rectangle being drawn, or else removes its filter.
function endBrush() {
  if (!scatter.canvas) return;
  const filtered = Object.values(AXES).some((name) => state.ranges.has(name));
  if (!scatter.from && filtered) setBrush(new Map(Object.values(AXES).map((name) => [name, [-Infinity, Infinity]])));
  scatter.from = null;
  showFrame(new Map(Object.values(AXES).map((name) => [name, state.ranges.get(name)])));
}

// Shows the rectangle of these ranges, whether dragged or typed.
function showFrame(ranges) {
  const filtered = Object.values(AXES).some((name) => state.ranges.has(name));
  const any = [...ranges.values()].some(Boolean);
  scatter.frame.hidden = !any;
  scatter.clear.hidden = !filtered;
  if (!any) return;
  const within = ([low, high], least, most) => [Math.max(least, Math.min(most, low)), Math.min(most, Math.max(least, high))];
  const [west, east] = within(ranges.get(AXES.x) ?? [0, 1], 0, 1).map(across);
  const [south, north] = within(ranges.get(AXES.y) ?? [-1, 1], -1, 1).map(down);
  const place = { left: west, top: north, width: east - west, height: south - north };
  for (const [side, pixels] of Object.entries(place)) scatter.frame.style[side] = `${pixels}px`;
}
