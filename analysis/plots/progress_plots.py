"""Curves of training, of a sweep over sizes, and of latents over the checkpoints between two models."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.json_text import parse_json

from ..checkpoints.trajectories import CHANGED
from ..tables.analysis_files import AnalysisResults
from ..tables.metrics_log import read_metrics
from ..tables.read_columns import read_columns
from .axes import curve_with_band, plain_numbers, scaled_numbers
from .plot import Plot
from .style import COLUMN, DIFFERENCE, INK, INTERVENED, MUTED, PAGE, REFERENCE, truncated

_MAX_TRAJECTORIES = 8
"""Number of latents whose trajectories are drawn."""

_FVE_PREFIX = "metrics/explained_variance/"
_FVE_DIFFERENCE = "diff/explained_variance"
_PANELS = (
    ("losses/overall_loss", "loss"),
    ("metrics/l0", "latents firing per token"),
    ("sparsity/dead_share", "share of dead latents"),
)

_LOOKS: dict[str, Any] = {
    "reference": (REFERENCE, "--"),
    "intervened": (INTERVENED, "-."),
    "difference": (DIFFERENCE, "-"),
}

_LOG_RATIO = 20
"""Ratio of largest to smallest value above which an axis is logarithmic."""

_MIN_SPAN = 0.1
"""Smallest span of an axis that starts at 0, so that values near zero do not look large."""


def training_plots(folder: RunFolder) -> Iterator[Plot]:
    """Yield the figures of metrics.jsonl and of a sweep, if they exist."""
    if folder.metrics.is_file():
        metrics: Any = read_metrics(folder)
        explained = [name for name in metrics if name.startswith(_FVE_PREFIX)] + [_FVE_DIFFERENCE]
        shown = [
            name for name in ("step", "tokens", *explained, *(name for name, _ in _PANELS)) if name in metrics
        ]
        if len(shown) > 2:
            yield Plot("training", metrics[shown], _draw_training, (PAGE, 3.6))
    sweep = folder.sweep / "sweep.json"
    if sweep.is_file():
        yield Plot(
            "sweep", _sweep_curve(sweep.read_text(encoding="utf-8"), str(sweep)), _draw_sweep, (COLUMN, 2.4)
        )


def trajectory_plots(folder: RunFolder, results: AnalysisResults) -> Iterator[Plot]:
    """Yield the figures of a run with snapshots."""
    monitoring = results.summary.get("monitoring")
    if not monitoring or not folder.trajectories.is_file():
        return
    names = ("latent", "checkpoint", "shift_share", "shift_share_low", "shift_share_high")
    table: Any = pd.DataFrame(read_columns(folder.trajectories, names, "analyze"))
    checkpoints = {row["checkpoint"]: row["name"] for row in monitoring["checkpoints"]}
    features: Any = results.features
    changed = features.loc[features["label"].isin(CHANGED), "latent"]
    last = table[(table["checkpoint"] == max(checkpoints)) & table["latent"].isin(changed)].dropna(
        subset=["shift_share"]
    )
    order = (
        last.sort_values(["shift_share", "latent"], ascending=[False, True])["latent"]
        .head(_MAX_TRAJECTORIES)
        .tolist()
    )
    if order:
        trajectories = table[table["latent"].isin(order)].set_axis(
            ["latent", "checkpoint", "value", "low", "high"], axis=1
        )
        trajectories = trajectories.assign(
            name=trajectories["checkpoint"].map(checkpoints), rank=trajectories["latent"].map({latent: rank for rank, latent in enumerate(order)})
        )  # fmt: skip
        trajectories = trajectories.sort_values(["rank", "checkpoint"], ignore_index=True).drop(
            columns="rank"
        )
        yield Plot("trajectories", trajectories, _draw_trajectories, (COLUMN, 2.9))
    alarm = monitoring.get("alarm")
    if alarm and alarm["checkpoints"]:
        columns = ["checkpoint", "name", "statistic", "threshold", "p_value", "rings"]
        yield Plot(
            "alarm", pd.DataFrame(alarm["checkpoints"], columns=pd.Index(columns)), _draw_alarm, (COLUMN, 2.2)
        )


# --- training ---------------------------------------------------------------------------------------------------------


def _draw_training(figure: Figure, data: Any) -> None:
    panels: Any = figure.subplots(2, 2, sharex=True).flatten()
    explained = [name for name in data.columns if name.startswith(_FVE_PREFIX) or name == _FVE_DIFFERENCE]
    for index, name in enumerate(explained):
        model = "difference" if name == _FVE_DIFFERENCE else name.removeprefix(_FVE_PREFIX)
        # Snapshots are dotted, with wider gaps for later ones.
        color, style = _LOOKS.get(model, (MUTED, (0, (1, 1 + index))))
        found = data[["tokens", name]].dropna()
        panels[0].plot(found["tokens"], found[name], linestyle=style, color=color, label=model)
    panels[0].set_title("variance explained, held-out tokens")
    panels[0].legend(loc="best")
    for axes, (name, title) in zip(panels[1:], _PANELS, strict=True):
        axes.set_title(title)
        if name in data:
            found = data[["tokens", name]].dropna()
            axes.plot(found["tokens"], found[name], color=INK)
            lowest, highest = float(found[name].min()), float(found[name].max())
            if lowest > 0 and highest > _LOG_RATIO * lowest:
                axes.set_yscale("log")
                plain_numbers(axes.yaxis)
            else:
                axes.set_ylim(0, max(1.08 * highest, _MIN_SPAN))
    for axes in panels:
        axes.grid()
    for axes in panels[2:]:
        unit = scaled_numbers(axes.xaxis, float(data["tokens"].max()))
        axes.set_xlabel(f"training tokens ({unit})" if unit else "training tokens")


def _sweep_curve(text: str, path: str) -> pd.DataFrame:
    try:
        record = parse_json(text)
        measure, chosen = record["measure"], record["chosen"]
        rows = [
            {"n_latents": row["n_latents"], "k": row["k"], "explained": row[measure]}
            for row in record["curve"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a record of a sweep ({error}); run crosscoder sweep again") from None
    return pd.DataFrame(rows).assign(
        chosen=[(row["n_latents"], row["k"]) == (chosen["n_latents"], chosen["k"]) for row in rows]
    )


def _draw_sweep(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    styles = ("-", "--", "-.", ":")
    for index, (n_latents, rows) in enumerate(data.groupby("n_latents")):
        rows = rows.sort_values("k")
        axes.plot(
            rows["k"],
            rows["explained"],
            styles[index % len(styles)],
            marker="o",
            color=INK,
            label=f"{n_latents:,} latents",
        )
    chosen = data[data["chosen"]]
    axes.plot(
        chosen["k"],
        chosen["explained"],
        "D",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=INTERVENED,
        linestyle="none",
        label="chosen",
    )
    axes.set(xlabel="latents firing per token (k)", ylabel="variance explained\nof the difference")
    axes.grid()
    axes.legend(loc="best")


# --- snapshots --------------------------------------------------------------------------------------------------------


def _draw_trajectories(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    markers, styles = "o^sDvPX*", ("-", "--", "-.", ":")
    latents = list(dict.fromkeys(data["latent"]))
    shades = np.linspace(0.05, 0.62, len(latents))
    for index, latent in enumerate(latents):
        rows = data[data["latent"] == latent]
        curve_with_band(
            axes, rows, "checkpoint", color=str(shades[index]), style=styles[index % len(styles)], marker=markers[index % len(markers)],
            label=str(latent),
        )  # fmt: skip
    _name_checkpoints(axes, data)
    axes.set_ylabel("share of E‖x − x_reference‖²")
    figure.legend(
        loc="outside upper left",
        ncols=4,
        title="changed latents with the largest final share",
        alignment="left",
        title_fontsize=7,
    )


def _draw_alarm(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    rings = data["rings"].astype(bool)
    axes.plot(data["checkpoint"], data["threshold"], "--", color=MUTED, label="threshold")
    axes.plot(
        data["checkpoint"],
        data["statistic"],
        "-",
        color=INK,
        marker="o",
        markerfacecolor="white",
        label="largest statistic",
    )
    axes.plot(
        data["checkpoint"][rings],
        data["statistic"][rings],
        "o",
        color=INTERVENED,
        linestyle="none",
        label="alarm raised",
    )
    _name_checkpoints(axes, data)
    axes.set_ylabel("change from the\nprevious checkpoint")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")


def _name_checkpoints(axes: Any, data: Any) -> None:
    named = data.drop_duplicates("checkpoint").sort_values("checkpoint")
    axes.set_xticks(
        named["checkpoint"], [truncated(str(name), 14) for name in named["name"]], rotation=30, ha="right"
    )
    axes.set_xlim(named["checkpoint"].min() - 0.2, named["checkpoint"].max() + 0.2)
    axes.grid()
