"""Figures of a course: of training, of a sweep over sizes, and of latents over the snapshots between two models."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..checkpoints.trajectories import CHANGED
from ..tables.analysis_files import AnalysisResults
from ..tables.metrics_log import read_metrics
from ..tables.read_columns import read_columns
from .axes import curve_with_band, plain_numbers, scaled_numbers
from .plot import Plot
from .style import COLUMN, DIFFERENCE, INK, INTERVENED, MUTED, PAGE, REFERENCE, short

_FOLLOWED = 8
"""Latents whose course is drawn."""

_EXPLAINED = "metrics/explained_variance/"
_DIFFERENCE = "diff/explained_variance"
_PANELS = (
    ("losses/overall_loss", "loss"),
    ("metrics/l0", "latents that fire on a token"),
    ("sparsity/dead_share", "share of dead latents"),
)

_LOOKS: dict[str, Any] = {
    "reference": (REFERENCE, "--"),
    "intervened": (INTERVENED, "-."),
    "difference": (DIFFERENCE, "-"),
}

_WIDE = 20
"""Times the smallest value that the largest may be before an axis is logarithmic."""

_SMALLEST_SPAN = 0.1
"""Of an axis that begins at 0, so that nothing is not drawn as if it were much."""


def training_plots(folder: RunFolder) -> Iterator[Plot]:
    """Of metrics.jsonl and of a sweep, where there are any."""
    if folder.metrics.is_file():
        metrics: Any = read_metrics(folder)
        explained = [name for name in metrics if name.startswith(_EXPLAINED)] + [_DIFFERENCE]
        shown = [
            name for name in ("step", "tokens", *explained, *(name for name, _ in _PANELS)) if name in metrics
        ]
        if len(shown) > 2:
            yield Plot("training", metrics[shown], _draw_training, (PAGE, 3.6))
    sweep = folder.sweep / "sweep.json"
    if sweep.is_file():
        yield Plot("sweep", _swept(sweep.read_text(encoding="utf-8"), str(sweep)), _draw_sweep, (COLUMN, 2.4))


def trajectory_plots(folder: RunFolder, results: AnalysisResults) -> Iterator[Plot]:
    """Of a run with snapshots."""
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
        .head(_FOLLOWED)
        .tolist()
    )
    if order:
        course = table[table["latent"].isin(order)].set_axis(
            ["latent", "checkpoint", "value", "low", "high"], axis=1
        )
        course = course.assign(
            name=course["checkpoint"].map(checkpoints), place=course["latent"].map({latent: place for place, latent in enumerate(order)})
        )  # fmt: skip
        course = course.sort_values(["place", "checkpoint"], ignore_index=True).drop(columns="place")
        yield Plot("trajectories", course, _draw_trajectories, (COLUMN, 2.9))
    alarm = monitoring.get("alarm")
    if alarm and alarm["checkpoints"]:
        columns = ["checkpoint", "name", "statistic", "threshold", "p_value", "rings"]
        yield Plot(
            "alarm", pd.DataFrame(alarm["checkpoints"], columns=pd.Index(columns)), _draw_alarm, (COLUMN, 2.2)
        )


# --- training ---------------------------------------------------------------------------------------------------------


def _draw_training(figure: Figure, data: Any) -> None:
    panels: Any = figure.subplots(2, 2, sharex=True).flatten()
    explained = [name for name in data.columns if name.startswith(_EXPLAINED) or name == _DIFFERENCE]
    for place, name in enumerate(explained):
        model = "difference" if name == _DIFFERENCE else name.removeprefix(_EXPLAINED)
        # Snapshots: dotted, the later the wider apart.
        color, style = _LOOKS.get(model, (MUTED, (0, (1, 1 + place))))
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
            if lowest > 0 and highest > _WIDE * lowest:
                axes.set_yscale("log")
                plain_numbers(axes.yaxis)
            else:
                axes.set_ylim(0, max(1.08 * highest, _SMALLEST_SPAN))
    for axes in panels:
        axes.grid()
    for axes in panels[2:]:
        unit = scaled_numbers(axes.xaxis, float(data["tokens"].max()))
        axes.set_xlabel(f"tokens trained on ({unit})" if unit else "tokens trained on")


def _swept(text: str, path: str) -> pd.DataFrame:
    try:
        record = json.loads(text)
        measure, chosen = record["measure"], record["chosen"]
        rows = [
            {"n_latents": row["n_latents"], "k": row["k"], "explained": row[measure]}
            for row in record["curve"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: not the record of a sweep ({error}); run crosscoder sweep again"
        ) from None
    return pd.DataFrame(rows).assign(
        chosen=[(row["n_latents"], row["k"]) == (chosen["n_latents"], chosen["k"]) for row in rows]
    )


def _draw_sweep(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    styles = ("-", "--", "-.", ":")
    for place, (n_latents, own) in enumerate(data.groupby("n_latents")):
        own = own.sort_values("k")
        axes.plot(
            own["k"],
            own["explained"],
            styles[place % len(styles)],
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
    axes.set(xlabel="latents that may fire on a token (k)", ylabel="variance explained\nof the difference")
    axes.grid()
    axes.legend(loc="best")


# --- snapshots --------------------------------------------------------------------------------------------------------


def _draw_trajectories(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    markers, styles = "o^sDvPX*", ("-", "--", "-.", ":")
    latents = list(dict.fromkeys(data["latent"]))
    shades = np.linspace(0.05, 0.62, len(latents))
    for place, latent in enumerate(latents):
        own = data[data["latent"] == latent]
        curve_with_band(
            axes, own, "checkpoint", color=str(shades[place]), style=styles[place % len(styles)], marker=markers[place % len(markers)],
            label=str(latent),
        )  # fmt: skip
    _name_checkpoints(axes, data)
    axes.set_ylabel("share of E‖x − x_reference‖²")
    figure.legend(
        loc="outside upper left",
        ncols=4,
        title="latents that changed, largest share at the end",
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
        label="rings",
    )
    _name_checkpoints(axes, data)
    axes.set_ylabel("change since the\ncheckpoint before")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")


def _name_checkpoints(axes: Any, data: Any) -> None:
    named = data.drop_duplicates("checkpoint").sort_values("checkpoint")
    axes.set_xticks(
        named["checkpoint"], [short(str(name), 14) for name in named["name"]], rotation=30, ha="right"
    )
    axes.set_xlim(named["checkpoint"].min() - 0.2, named["checkpoint"].max() + 0.2)
    axes.grid()
