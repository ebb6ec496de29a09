"""Figures of a behavior: its shift, the decomposition of the shift, and causal checks of the latents that carry it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crosscoder.run.folder import RunFolder

from ..behaviors.behavior_files import (
    BehaviorFolder,
    BehaviorResults,
    behavior_folders,
    load_behaviors,
)
from ..report.behavior_schema import BehaviorShift, CausalCheck, Explanation
from ..report.behavior_shifts import behavior_shifts
from ..tables.read_columns import read_columns
from .axes import bars_with_intervals, curve_with_band, limit_line, whiskers
from .plot import Plot
from .style import COLUMN, FAINT, INK, INTERVENED, MUTED, PAGE, REFERENCE, truncated

_KINDS = {"necessity": "undone if removed", "sufficiency": "produced if added"}
_KIND_LOOKS = {"necessity": (INTERVENED, "-", "o"), "sufficiency": (REFERENCE, "--", "s")}
_DIRECTION_LOOKS = {"named latents": (INTERVENED, "-", "o"), "difference of means": (REFERENCE, "--", "s")}
_OTHER_DIRECTION = (MUTED, ":", "x")


def behavior_plots(folder: RunFolder) -> Iterator[Plot]:
    """Yield all figures of every behavior; a behavior without an established shift has only the figure of the shift."""
    found = load_behaviors(folder)
    for behavior_folder, results, behavior in zip(
        behavior_folders(folder), found, behavior_shifts(found), strict=True
    ):
        name = f"behaviors/{behavior_folder.path.name}"
        yield Plot(f"{name}/shift", _shift(behavior), partial(_draw_shift, behavior=behavior), (COLUMN, 1.75))
        if behavior.explanation is not None:
            yield from _explanation_plots(name, behavior_folder, results, behavior.explanation)


def _explanation_plots(
    name: str, behavior_folder: BehaviorFolder, results: BehaviorResults, explanation: Explanation
) -> Iterator[Plot]:
    attribution, causal = results.attribution, results.causal
    assert attribution is not None and causal is not None
    share = _share_label(results)
    origins = pd.DataFrame([_row(origin.share, part=origin.name) for origin in explanation.origins])
    yield Plot(
        f"{name}/origins", origins, partial(_draw_origins, xlabel=share), (COLUMN, 0.22 * len(origins) + 0.8)
    )
    latents: Any = pd.DataFrame(_latent_rows(behavior_folder, explanation))
    if len(latents):
        size = (PAGE, 0.2 * latents["latent"].nunique() + 1.0)
        yield Plot(f"{name}/latents", latents, partial(_draw_latents, xlabel=share), size)
    curve: Any = pd.DataFrame(_curve_rows(causal))
    if len(curve):
        panels = curve["measured_in"].nunique()
        yield Plot(
            f"{name}/curve", curve, partial(_draw_curve, ylabel=share), (PAGE if panels > 1 else COLUMN, 2.6)
        )
    layers = pd.DataFrame(
        [
            _row(row["represented"], layer=row["layer"], hookpoint=row["hookpoint"])
            for row in attribution["layers"] or ()
        ]
    )
    if len(layers):
        yield Plot(f"{name}/layers", layers, partial(_draw_layers, ylabel=share), (COLUMN, 2.3))
    doses = pd.DataFrame(
        [
            _row(dose.share, model=dose.model, direction=dose.direction, dose=dose.dose)
            | {"kl": dose.kl.value, "kl_low": dose.kl.low, "kl_high": dose.kl.high}
            for dose in explanation.doses
        ]
    )
    if len(doses):
        yield Plot(f"{name}/doses", doses, partial(_draw_doses, ylabel=share), (PAGE, 2.8))


def _share_label(results: BehaviorResults) -> str:
    """Return the axis label for shares of the shift, with the metric's unit."""
    assert results.attribution is not None
    stand_in = ", stand-in metric" if results.shift["stand_in"] is not None else ""
    return f"share of the shift\n({results.attribution['unit']}{stand_in})"


def _row(estimate: Any, **more: object) -> dict[str, Any]:
    """Convert an estimate, from the report or a file, to columns."""
    ends = estimate if isinstance(estimate, dict) else estimate.model_dump()
    return more | {end: np.nan if ends[end] is None else float(ends[end]) for end in ("value", "low", "high")}


# --- the shift --------------------------------------------------------------------------------------------------------


def _shift(behavior: BehaviorShift) -> pd.DataFrame:
    named = (
        ("reference", behavior.reference),
        ("intervened", behavior.intervened),
        ("shift", behavior.shift),
    )
    rows = [_row(estimate, name=name) for name, estimate in named]
    return pd.DataFrame(rows).assign(
        noise_floor=behavior.floor, p_value=behavior.p_value, established=behavior.established
    )


def _draw_shift(figure: Figure, data: Any, *, behavior: BehaviorShift) -> None:
    left, right = figure.subplots(1, 2)
    for axes, rows in ((left, data.iloc[:2]), (right, data.iloc[2:])):
        places = np.arange(len(rows))[::-1]
        axes.errorbar(
            rows["value"], places, xerr=whiskers(rows["low"], rows["value"], rows["high"]), fmt="o", color=INK, capsize=2, elinewidth=0.9
        )  # fmt: skip
        axes.set_yticks(places, rows["name"])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.grid(axis="x")
        axes.margins(x=0.15)
    floor = behavior.floor
    right.axvspan(-floor, floor, facecolor="none", edgecolor=FAINT, hatch="////", linewidth=0, zorder=0)
    right.axvline(0, color=MUTED, linewidth=0.6)
    right.set_yticks([])
    figure.suptitle(truncated(behavior.name, 50), fontsize=8, x=0.01, ha="left")
    left.set_title("on held-out prompts", fontsize=7)
    right.set_title("shift, " + ("established" if behavior.established else "not established"), fontsize=7)
    left.set_xlabel(behavior.unit)
    right.set_xlabel(f"{behavior.unit}\n(hatched: noise floor)")


def _draw_origins(figure: Figure, data: Any, *, xlabel: str) -> None:
    axes = figure.subplots()
    bars_with_intervals(
        axes, data, [FAINT] * len(data), ["////" if part == "latents" else "" for part in data["part"]]
    )
    axes.patches[0].set_edgecolor(INTERVENED)
    axes.set_yticks(np.arange(len(data))[::-1], data["part"])
    axes.set_xlabel(xlabel)


# --- latents ----------------------------------------------------------------------------------------------------------


def _latent_rows(behavior_folder: BehaviorFolder, explanation: Explanation) -> Iterator[dict[str, Any]]:
    """Yield one row per named latent and measure."""
    bounds: dict[int, tuple[float, float]] = {}
    if any(latent.attribution is not None for latent in explanation.latents):
        columns = read_columns(
            behavior_folder.latents, ("latent", "share_held_out_low", "share_held_out_high"), "attribute"
        )
        ends = zip(
            columns["share_held_out_low"].tolist(), columns["share_held_out_high"].tolist(), strict=True
        )
        bounds = dict(zip(columns["latent"].tolist(), ends, strict=True))
    for latent in explanation.latents:
        shared = {"latent": latent.latent, "evidence": latent.evidence}
        if latent.attribution is not None:
            low, high = bounds[latent.latent]
            yield shared | {
                "measure": "attribution",
                "value": latent.attribution,
                "low": low,
                "high": high,
                "random_largest": np.nan,
            }
        for name in _KINDS:
            check: CausalCheck | None = getattr(latent, name)
            if check is not None:
                largest = np.nan if check.random_largest is None else check.random_largest
                yield _row(check.share, **shared, measure=name) | {"random_largest": largest}


def _draw_latents(figure: Figure, data: Any, *, xlabel: str) -> None:
    measures = list(dict.fromkeys(data["measure"]))
    panels: Any = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        rows = data[data["measure"] == measure]
        bars_with_intervals(
            axes, rows, [FAINT if measure == "attribution" else "#b9b9b3"] * len(rows), [""] * len(rows)
        )
        axes.set_title(_KINDS.get(measure, "attribution, held-out prompts"))
        if rows["random_largest"].notna().any():
            # A single line, because all named latents are compared with the same random latents.
            limit_line(axes, float(rows["random_largest"].max()))
    named = data.drop_duplicates("latent")
    names = [
        f"{latent}, {evidence}" for latent, evidence in zip(named["latent"], named["evidence"], strict=True)
    ]
    panels[0].set_yticks(np.arange(len(named))[::-1], names)
    figure.supxlabel(
        f"{' '.join(xlabel.split())}; dashed: largest of the random latents, at their norm", fontsize=7.5
    )


# --- together ---------------------------------------------------------------------------------------------------------


def _curve_rows(causal: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per point of a curve, and one per random draw that the named latents are compared with."""
    for where, found in (("logits", causal), ("answers", causal["answers"])):
        if found is None:
            continue
        for kind in _KINDS:
            together = found["together"][kind]
            if together is None:
                continue
            shared = {"measured_in": where, "kind": kind}
            points = {point["n"]: point[kind] for point in found["curve"]} | {len(causal["named"]): together}
            for n_latents in sorted(points):
                yield _row(points[n_latents], **shared, latents=n_latents, drawn="ranked")
            for share in together["random"]:
                estimate = {"value": share, "low": None, "high": None}
                yield _row(estimate, **shared, latents=len(causal["named"]), drawn="random")


def _draw_curve(figure: Figure, data: Any, *, ylabel: str) -> None:
    places = list(dict.fromkeys(data["measured_in"]))
    panels: Any = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for axes, where in zip(panels, places, strict=True):
        for kind, (color, style, marker) in _KIND_LOOKS.items():
            rows = data[(data["measured_in"] == where) & (data["kind"] == kind)]
            if rows.empty:
                continue
            ranked, random = rows[rows["drawn"] == "ranked"], rows[rows["drawn"] == "random"]
            curve_with_band(
                axes, ranked, "latents", color=color, style=style, marker=marker, label=_KINDS[kind]
            )
            # Offset to either side of the named latents, so that the two kinds do not overlap.
            side = 0.88 if kind == "necessity" else 1.14
            axes.plot(
                side * random["latents"], random["value"], linestyle="none", marker="_" if kind == "necessity" else "x", markersize=5, color=color, alpha=0.8,
                label=f"random latents, {_KINDS[kind].split()[-1]}",
            )  # fmt: skip
        axes.axhline(0, color=MUTED, linewidth=0.6)
        axes.set(xscale="log", xlabel="latents, strongest attribution first")
        _plain_ticks(axes, sorted(set(data.loc[data["measured_in"] == where, "latents"])))
        axes.grid()
    if len(places) > 1:
        panels[0].set_title("in the stand-in metric")
        panels[1].set_title("in generated answers")
    panels[0].set_ylabel("share of the shift" if len(places) > 1 else ylabel)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)


def _plain_ticks(axes: Any, values: Sequence[int]) -> None:
    """Label the axis with numbers of latents, thinned so that labels do not overlap."""
    kept: list[int] = []
    for value in values:
        if not kept or value >= 1.45 * kept[-1]:
            kept.append(value)
    axes.set_xticks(kept, [f"{value:,}" for value in kept])
    axes.minorticks_off()


# --- layers and doses -------------------------------------------------------------------------------------------------


def _draw_layers(figure: Figure, data: Any, *, ylabel: str) -> None:
    axes = figure.subplots()
    curve_with_band(
        axes, data, "layer", color=INK, style="-", marker="o", label="present in the output of the layer"
    )
    for layer in data.loc[data["hookpoint"].astype(bool), "layer"]:
        limit_line(axes, float(layer))
        axes.annotate(
            "hookpoint ",
            (layer, 0.02),
            xycoords=("data", "axes fraction"),
            ha="right",
            fontsize=6.5,
            color=MUTED,
        )
    axes.set(xlabel="layer", ylabel=ylabel)
    axes.grid()


def _draw_doses(figure: Figure, data: Any, *, ylabel: str) -> None:
    """Draw, for each model, the share of the shift and the cost on unrelated text over the dose."""
    models = list(dict.fromkeys(data["model"]))
    panels: Any = figure.subplots(1, 2 * len(models), squeeze=False)[0]
    for column, model in enumerate(models):
        shares, costs = panels[2 * column], panels[2 * column + 1]
        for direction in dict.fromkeys(data["direction"]):
            rows = data[(data["model"] == model) & (data["direction"] == direction)].sort_values("dose")
            color, style, marker = _DIRECTION_LOOKS.get(direction, _OTHER_DIRECTION)
            curve_with_band(shares, rows, "dose", color=color, style=style, marker=marker, label=direction)
            cost = rows.drop(columns=["value", "low", "high"]).rename(
                columns={"kl": "value", "kl_low": "low", "kl_high": "high"}
            )
            curve_with_band(costs, cost, "dose", color=color, style=style, marker=marker, label=direction)
        shares.axhline(0, color=MUTED, linewidth=0.6)
        shares.set_title(f"{model}: {'produced' if model == 'reference' else 'undone'}")
        costs.set_title(f"{model}: cost")
        shares.set_ylabel("share of the shift" if column == 0 else "")
        costs.set_ylabel("KL, unrelated text (nats)")
        for axes in (shares, costs):
            axes.set_xlabel("dose")
            axes.grid()
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=3,
        title=" ".join(ylabel.split()),
        alignment="left",
        title_fontsize=7,
    )
