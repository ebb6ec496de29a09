// A chain of checkpoints: the change of each from the reference, the alarm, and the trajectory of one latent.

const checkpoints = () => data.header.summary.monitoring?.checkpoints ?? [];

function checkpointName(value) {
  if (value === null) return NONE;
  const found = checkpoints()[value];
  return found ? visibleText(found.name) : whole(value);
}

function monitoringSection() {
  const { monitoring } = data.header.summary;
  if (!monitoring) return null;
  const alarms = monitoring.alarm.checkpoints;
  const { onset } = monitoring;
  const change = shareScale(monitoring.checkpoints.map(({ relative_change: value }) => ({ value })));
  const unexplained = shareScale(monitoring.checkpoints.map(({ unexplained: value }) => ({ value })), 1);
  const rows = monitoring.checkpoints.map((one) => checkpointRow(one, change, unexplained, alarms.find(({ checkpoint }) => checkpoint === one.checkpoint), onset.by_checkpoint[one.checkpoint]));
  const caption = `Change: squared distance of the activations from the reference's, as a share of the reference's variance. Unexplained: share of that change that the dictionary does not reconstruct. Onsets: number of latents whose change began at the checkpoint, among the ${whole(onset.changed)} that are new, lost, rotated or rescaled at the end (${whole(onset.named)} have a certain onset). The alarm compares each checkpoint with the previous one; its false-alarm rate is ${percent(monitoring.alarm.rate)} per checkpoint.`;
  return element("section", { class: "monitoring", "aria-labelledby": "monitoring" }, [
    element("h2", { id: "monitoring", text: "Over the checkpoints" }),
    element("p", { class: "caption", text: caption }),
    element("table", { class: "bars checkpoints stacked" }, [
      element("thead", {}, element("tr", {}, ["checkpoint", ...CHECKPOINT_HEADS].map((text) => element("th", { scope: "col", text })))),
      element("tbody", {}, rows),
    ]),
    element("p", { class: "caption", text: `Onset: ${onset.rule}.` }),
  ]);
}

const CHECKPOINT_HEADS = ["change from the reference", "change from the previous", "unexplained", "onsets", "alarm"];

function checkpointRow({ checkpoint, name, model, relative_change: change, relative_step: step, unexplained }, changeScale, unexplainedScale, alarm, onsets) {
  const bar = (value, scale) => (value === null ? NONE : [shareBar({ value }, scale), percent(value)]);
  const cells = [bar(change, changeScale), percent(step), bar(unexplained, unexplainedScale), whole(onsets), alarmCell(alarm)];
  const start = element("td", { class: "muted", colspan: cells.length, text: "the reference, from which all changes are measured" });
  return element("tr", {}, [
    element("th", { scope: "row" }, [element("bdi", { text: visibleText(name) }), model && basename(model) !== name ? element("small", {}, element("bdi", { text: visibleText(basename(model)) })) : null]),
    ...(checkpoint ? cells.map((cell, at) => element("td", { "data-head": CHECKPOINT_HEADS[at] }, element("div", {}, cell))) : [start]),
  ]);
}

function alarmCell(alarm) {
  if (!alarm) return NONE;
  const numbers = element("small", { text: `statistic ${significant(alarm.statistic)}, threshold ${significant(alarm.threshold)}, p ${errorRate(alarm.p_value)}` });
  if (!alarm.rings) return ["not raised", numbers];
  const latents = alarm.latents.slice(0, 5).flatMap(({ latent, share }) => [element("span", { class: "alarm-latent" }, [latentLink(latent), ` ${percent(share)}`]), " "]);
  const count = `${whole(alarm.n_latents)} ${alarm.n_latents === 1 ? "latent" : "latents"}${alarm.offset ? " and the constant offset" : ""}`;
  return [element("strong", { class: "verdict", text: "raised" }), ` by ${count}`, numbers, element("small", {}, latents.length ? ["largest shares of the step: ", ...latents] : [])];
}

// The trajectory of one latent over the checkpoints; null for runs without snapshots.
function latentTrajectory(latent, chunk, inside) {
  const times = checkpoints();
  const trajectory = (name) => {
    const values = chunk.arrays[`trajectory_${name}`].subarray(inside * times.length, (inside + 1) * times.length);
    return Array.from(values, (value) => (Number.isNaN(value) ? null : value));
  };
  if (!times.length || !chunk.arrays.trajectory_norm) return null;
  const x = times.map((_, time) => time / Math.max(1, times.length - 1));
  const onset = valueOf("onset", latent);
  const marks = onset === null ? [] : [[x[onset], "onset"]];
  const short = times.length <= 4 && times.every(({ name }) => name.length <= 11);
  const ticks = times.map(({ name }, time) => [x[time], short || time === 0 || time === times.length - 1 ? visibleText(name) : whole(time)]);
  const [share, low, high, norm, shift] = ["shift_share", "shift_share_low", "shift_share_high", "norm", "shift"].map(trajectory);
  const end = shift[shift.length - 1];
  const growth = shift.map((value) => (value === null || !end ? null : value / end));
  const chart = (title, about, values, more) => {
    const known = values.filter((value) => value !== null);
    if (!known.length) return null;
    const { format = percent } = more;
    const label = `${title}: ${values.map((value, time) => `${visibleText(times[time].name)} ${value === null ? "none" : format(value)}`).join(", ")}`;
    return element("figure", { class: "course" }, [
      element("figcaption", {}, [element("strong", { text: title }), element("small", { text: about })]),
      lineChart({ label, x, ticks, marks, low: 0, ...more, series: [{ name: format(known[known.length - 1]), values, ...more.ends }] }),
    ]);
  };
  const onsetText = onset === null ? "not certain" : checkpointName(onset);
  const rows = times.map(({ name }, time) => [element("bdi", { text: visibleText(name) }), estimate({ value: share[time], low: low[time], high: high[time] }), growth[time] === null ? NONE : percent(growth[time]), significant(norm[time])]);
  return panel("Over the checkpoints", [
    pairsList([["onset", onsetText, onset === null ? null : "where its change began"]]),
    chart("shift share", "share of the change from the reference to each checkpoint, with interval", share, { ends: { lows: low, highs: high } }),
    chart("growth", "shift it explains, as a share of its final value; the onset is where it crosses the dashed line", growth, { high: 1, limits: [0.5] }),
    chart("decoder norm", "in normalized (training) units", norm, { format: significant, axisFormat: (value) => significant(value, 2) }),
    numbersTable("Checkpoints", ["checkpoint", "shift share", "growth", "norm"], rows),
  ], "trajectory");
}
