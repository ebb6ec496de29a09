"""Figures of the latents: norms, directions, latent scaling, labels, the rule's limits, and shares of the shift."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..report.limit_curves import limit_curves
from ..tables.analysis_files import LABELS, AnalysisResults
from .axes import bars_with_intervals, faint_line, limit_line, plain_numbers, whiskers
from .plot import Plot
from .style import COLUMN, INK, INTERVENED, LOOKS, MUTED, PAGE, REFERENCE

_LARGEST = 15
"""Number of latents whose shares of the shift are drawn individually."""

_NU_SHOWN = (-0.1, 1.4)
"""Range of ν shown; values outside it are drawn at the edge."""


def dictionary_plots(results: AnalysisResults) -> Iterator[Plot]:
    """Yield all figures that the analysis has data for."""
    features: Any = results.features
    fired = features[features["label"] != "dead"]
    if results.has_norms:
        yield _histogram_plot(
            "relative_norm", _histogram(results, fired, "relative_norm"), "relative norm", 0.5
        )
    if features["decoder_cosine"].notna().any():
        both = fired[_weaker_share(fired) > results.summary["rule"]["weak_norm"]]
        limit = results.summary["rule"]["weak_norm"]
        yield _histogram_plot(
            "decoder_cosine",
            _histogram(results, both, "decoder_cosine"),
            f"decoder cosine (weaker norm above {limit:g} of the stronger)",
            0.0,
        )
        columns = ["latent", "label", "relative_norm", "decoder_cosine", "density"]
        points = fired[columns].dropna(subset=["relative_norm", "decoder_cosine"])
        rule = results.summary["rule"]
        points = points.assign(
            limit_shared_cosine=rule["shared_cosine"], limit_rotated_cosine=rule["rotated_cosine"]
        )
        yield Plot("norm_and_cosine", points, _draw_norm_and_cosine, (COLUMN, 3.5))
    if features["nu_error"].notna().any():
        columns = [
            "latent",
            "label",
            *(f"{name}{end}" for name in ("nu_error", "nu_reconstruction") for end in ("", "_low", "_high")),
        ]
        points = fired[columns].dropna(subset=["nu_error", "nu_reconstruction"])
        rule = results.summary["rule"]
        points = points.assign(
            limit_nu_error=rule["nu_error"], limit_nu_reconstruction=rule["nu_reconstruction"]
        )
        yield Plot("latent_scaling", points, _draw_latent_scaling, (COLUMN, 3.5))
    yield Plot("labels", _label_counts(results), _draw_labels, (COLUMN, 2.3))
    limits: Any = _limits(results)
    if len(limits):
        yield Plot("limits", limits, _draw_limits, (PAGE, 1.5 * -(-limits["limit"].nunique() // 2) + 0.6))
    if features["shift_share"].notna().any():
        yield Plot("shift_share", _ranked_shares(features), _draw_shift_share, (PAGE, 2.7))


# --- norms and directions ---------------------------------------------------------------------------------------------


def _weaker_share(features: Any) -> Any:
    """Return the ratio of the weaker to the stronger decoder norm."""
    norms = features[["norm_reference", "norm_intervened"]]
    return norms.min(axis=1) / norms.max(axis=1)


def _histogram(results: AnalysisResults, latents: Any, column: str) -> pd.DataFrame:
    """Return counts with one row per bin and one column per label that occurs; bins as in summary.json."""
    name = {"relative_norm": "relative_norm_histogram", "decoder_cosine": "cosine_histogram"}[column]
    edges = np.array(results.summary[name]["edges"])
    present = [label for label in LABELS if (latents["label"] == label).any()]
    counts = {
        label: np.histogram(latents.loc[latents["label"] == label, column].dropna(), bins=edges)[0]
        for label in present
    }
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **counts})


def _histogram_plot(name: str, data: Any, title: str, middle: float) -> Plot:
    rows = max(1, data.shape[1] - 2)
    return Plot(name, data, partial(_draw_histogram, title=title, middle=middle), (COLUMN, 0.55 * rows + 0.6))


def _draw_histogram(figure: Figure, data: Any, *, title: str, middle: float) -> None:
    """Draw one strip per label, each on its rows scale."""
    labels = list(data.columns[2:])
    strips: Any = figure.subplots(max(1, len(labels)), 1, sharex=True, squeeze=False)[:, 0]
    width = data["high"] - data["low"]
    for axes, label in zip(strips, labels, strict=False):
        axes.bar(data["low"], data[label], width, align="edge", color=LOOKS[label].color)
        faint_line(axes, middle)
        axes.set_yticks([0, int(data[label].max())])
        axes.set_title(f"{label} ({int(data[label].sum()):,})", fontsize=7, pad=2)
    strips[-1].set_xlim(data["low"].iloc[0], data["high"].iloc[-1])
    strips[-1].set_xlabel(title)
    figure.supylabel("latents", fontsize=7.5)


def _draw_norm_and_cosine(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    largest = float(data["density"].max()) or 1.0
    _scatter(
        axes, data, "relative_norm", "decoder_cosine", 3 + 45 * np.sqrt(data["density"].to_numpy() / largest)
    )
    for name in ("limit_shared_cosine", "limit_rotated_cosine"):
        limit_line(axes, float(data[name].iloc[0]), vertical=False)
    # The whole range of both, whatever the data: zoomed to the data, equal latents would look spread.
    axes.set(
        xlim=(-0.02, 1.02),
        ylim=(-1.04, 1.04),
        xlabel="relative norm (0: reference, 1: intervened)",
        ylabel="decoder cosine (lines: limits of shared and rotated)",
    )
    axes.grid()
    _legend(figure, axes)


def _scatter(axes: Axes, data: Any, x: str, y: str, sizes: np.ndarray | float = 12.0) -> None:
    """Draw the latents by label, with labels of change on top."""
    areas = pd.Series(np.broadcast_to(sizes, len(data)), index=data.index)
    for label in reversed(LABELS):
        rows = data[data["label"] == label]
        if rows.empty:
            continue
        look = LOOKS[label]
        lines: Any = {"edgecolors": "white"} if look.marker not in "x+" else {}
        axes.scatter(
            rows[x], rows[y], areas[rows.index], look.color, marker=look.marker, alpha=0.85, linewidths=0.4 if lines else 0.8,
            label=f"{label} ({len(rows):,})", **lines,
        )  # fmt: skip


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles[::-1], labels[::-1], loc="outside upper left", ncols=2, columnspacing=1.2, handletextpad=0.2
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_sizes([16.0])  # pyright: ignore[reportAttributeAccessIssue]


# --- latent scaling and labels ----------------------------------------------------------------------------------------


def _draw_latent_scaling(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    limits = [float(data[f"limit_{name}"].iloc[0]) for name in ("nu_error", "nu_reconstruction")]
    shown = data.assign(**{name: data[name].clip(*_NU_SHOWN) for name in ("nu_error", "nu_reconstruction")})
    limit_line(axes, limits[0])
    limit_line(axes, limits[1], vertical=False)
    _scatter(axes, shown, "nu_error", "nu_reconstruction")
    margin = 0.04
    bounds = (_NU_SHOWN[0] - margin, _NU_SHOWN[1] + margin)
    axes.set(xlim=bounds, ylim=bounds, xlabel="ν error", ylabel="ν reconstruction")
    outside = int(
        (shown[["nu_error", "nu_reconstruction"]] != data[["nu_error", "nu_reconstruction"]])
        .any(axis=1)
        .sum()
    )
    note = "dashed: limits of the rule, for upper bounds" + (
        f"\n{outside:,} outside the range are drawn at the edge" if outside else ""
    )
    axes.set_title(note, fontsize=6.5, color=MUTED)
    axes.grid()
    _legend(figure, axes)


def _label_counts(results: AnalysisResults) -> pd.DataFrame:
    rows = [{"label": label, **(results.summary["counts"].get(label) or {})} for label in LABELS]
    return pd.DataFrame(
        rows,
        columns=pd.Index(
            ["label", "count", "low", "high", "candidates", "expected_false", "expected_false_high"]
        ),
    )


def _draw_labels(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    places = np.arange(len(data))[::-1]
    counts = data["count"].fillna(0).astype(float)
    numbers = data[["low", "high", "candidates", "expected_false"]].astype(float)
    axes.errorbar(
        counts, places, xerr=whiskers(numbers["low"], counts, numbers["high"]), fmt="none", ecolor=INK, elinewidth=0.8, capsize=2
    )  # fmt: skip
    for y, label, count in zip(places, data["label"], counts, strict=True):
        axes.plot(count, y, LOOKS[label].marker, color=LOOKS[label].color, markersize=4.5)
        axes.annotate(
            f"{int(count):,}",
            (1.02, y),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
            fontsize=7,
        )
    alone = numbers["candidates"].where(numbers["candidates"] > counts)
    if alone.notna().any():
        axes.plot(
            alone, places, "|", markersize=7, color=INK, markeredgewidth=1.0, linestyle="none", label="by this training alone"
        )  # fmt: skip
    if numbers["expected_false"].notna().any():
        axes.plot(
            numbers["expected_false"], places, "D", markersize=5.5, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.8,
            linestyle="none", label="expected under the nulls tried",
        )  # fmt: skip
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower left")
    axes.set_xscale("symlog", linthresh=1)
    plain_numbers(axes.xaxis)
    axes.set_xlim(-0.2, max(2.0, 1.4 * float(np.nanmax([counts.max(), numbers.max().max()]))))
    axes.set_yticks(places, data["label"])
    axes.set_xlabel("latents (logarithmic above 1), with interval")
    axes.grid(axis="x")


# --- limits -----------------------------------------------------------------------------------------------------------


def _limits(results: AnalysisResults) -> pd.DataFrame:
    """Return one row per limit and value."""
    parts = [
        pd.DataFrame(
            {
                "limit": curve.limit,
                "meaning": curve.meaning,
                "configured": curve.configured,
                "value": curve.values,
                "new": curve.new,
                "lost": curve.lost,
                "expected_false": np.nan if curve.expected_false is None else curve.expected_false,
            }
        )
        for curve in limit_curves(results.summary.get("limits") or [])
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _draw_limits(figure: Figure, data: Any) -> None:
    names = list(dict.fromkeys(data["limit"]))
    panels: Any = figure.subplots(-(-len(names) // 2), 2, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        rows = data[data["limit"] == name]
        axes.plot(rows["value"], rows["new"], "-", color=INTERVENED, label="new")
        axes.plot(rows["value"], rows["lost"], "-.", color=REFERENCE, label="lost")
        if rows["expected_false"].notna().any():
            axes.plot(
                rows["value"],
                rows["expected_false"],
                ":",
                color=INK,
                label="expected under the nulls tried",
            )
        limit_line(axes, float(rows["configured"].iloc[0]))
        axes.set_ylim(0, max(1.0, 1.08 * float(rows[["new", "lost", "expected_false"]].max().max())))
        axes.set(xlabel=rows["meaning"].iloc[0], ylabel="latents")
        axes.grid()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)


# --- shares of the shift ----------------------------------------------------------------------------------------------


def _ranked_shares(features: Any) -> pd.DataFrame:
    """Return all latents with a share of the shift, largest first."""
    columns = ["latent", "label", "shift_share", "shift_share_low", "shift_share_high"]
    ranked = features[columns].dropna(subset=["shift_share"])
    ranked = ranked.sort_values(["shift_share", "latent"], ascending=[False, True], ignore_index=True)
    ranked = ranked.set_axis(["latent", "label", "value", "low", "high"], axis=1)
    ranked.insert(0, "rank", np.arange(1, len(ranked) + 1))
    return ranked.assign(cumulative=ranked["value"].cumsum())


def _draw_shift_share(figure: Figure, data: Any) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    top = data.head(_LARGEST)
    looks = [LOOKS[label] for label in top["label"]]
    bars_with_intervals(left, top, [look.color for look in looks], [look.hatch for look in looks])
    left.set_yticks(
        np.arange(len(top))[::-1],
        [f"{latent}, {label}" for latent, label in zip(top["latent"], top["label"], strict=True)],
        fontsize=6,
    )
    left.set(title=f"largest {len(top)} latents", xlabel="share of E‖intervened − reference‖²")
    right.plot(data["rank"], data["cumulative"], "-", color=INK)
    total = float(data["cumulative"].iloc[-1])
    limit_line(right, total, vertical=False)
    right.annotate(
        f"all latents: {total:.2f}",
        (data["rank"].iloc[0], total),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=7,
    )
    right.set(
        xscale="log",
        title="cumulative, largest first",
        xlabel="latents",
        ylabel="share of E‖intervened − reference‖²",
    )
    plain_numbers(right.xaxis)
    right.set_ylim(
        min(0.0, float(data["cumulative"].min())), 1.12 * max(0.01, float(data["cumulative"].max()))
    )
    right.grid()
