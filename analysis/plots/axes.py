"""Drawing functions shared by several figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, NullFormatter

from .style import FAINT, INK, MUTED


def whiskers(low: Any, value: Any, high: Any) -> Float[np.ndarray, "2 item"]:
    """Return the lengths of error bars from table columns; 0 for missing intervals."""
    ends = np.array([low, value, high], dtype=np.float64)
    return np.nan_to_num(np.maximum([ends[1] - ends[0], ends[2] - ends[1]], 0.0))


def bars_with_intervals(axes: Axes, data: Any, colors: Sequence[str], hatches: Sequence[str]) -> None:
    """Draw one horizontal bar per row, first row on top, with the interval from `low` to `high` if present."""
    places = np.arange(len(data))[::-1]
    axes.barh(
        places,
        data["value"].fillna(0.0),
        height=0.7,
        color=list(colors),
        hatch=list(hatches),
        edgecolor="white",
        linewidth=0,
    )
    axes.errorbar(
        data["value"],
        places,
        xerr=whiskers(data["low"], data["value"], data["high"]),
        fmt="none",
        ecolor=INK,
        elinewidth=0.8,
        capsize=1.8,
    )
    axes.axvline(0, color=MUTED, linewidth=0.6)
    axes.set_ylim(-0.6, len(data) - 0.4)
    axes.grid(axis="x")


def curve_with_band(
    axes: Axes, data: Any, x: str, *, color: str, style: str, marker: str, label: str
) -> None:
    """Draw `value` over `x`, with the interval from `low` to `high` as a band."""
    axes.plot(data[x], data["value"], style, color=color, marker=marker, label=label)
    axes.fill_between(
        data[x].to_numpy(dtype=np.float64),
        data["low"].to_numpy(dtype=np.float64),
        data["high"].to_numpy(dtype=np.float64),
        color=color,
        alpha=0.18,
        linewidth=0,
    )


def limit_line(axes: Axes, value: float, *, vertical: bool = True) -> None:
    """Draw a dashed line at a limit."""
    draw = axes.axvline if vertical else axes.axhline
    draw(value, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))


def faint_line(axes: Axes, value: float) -> None:
    """Draw a faint vertical guide line."""
    axes.axvline(value, color=FAINT, linewidth=0.8, zorder=0)


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers with thousands separators instead of powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}".replace("-", "−")))
    axis.set_minor_formatter(NullFormatter())


def scaled_numbers(axis: Axis, largest: float) -> str:
    """Scale the tick labels of an axis to thousands, millions or billions, and return that unit for the axis label."""
    for size, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if largest >= size:
            axis.set_major_formatter(FuncFormatter(lambda value, _, size=size: f"{value / size:g}"))
            return name
    return ""
