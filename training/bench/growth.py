"""How the time of a training step scales with its size, and above which share of firing latents the dense path is faster."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from crosscoder.runtime.timing import BenchmarkTable, Comparison

from ..forward import SPARSE_BELOW
from .settings import BenchConfig, Shape
from .step import PRODUCT, Precision, compare_steps, dtype_of

Axis = Literal["n_latents", "k", "batch_tokens", "models"]
STEP = "sparse step"
AXES: tuple[Axis, ...] = ("n_latents", "k", "batch_tokens", "models")


@dataclass(frozen=True)
class Growth:
    """Step times along all axes at one precision."""

    precision: Precision
    base: Shape
    points: dict[Axis, list[tuple[int, Comparison]]]

    def slope(self, axis: Axis, variant: str) -> float:
        """d log time / d log size along an axis, by least squares: 1 is proportional, 0 is independent."""
        sizes = [size for size, _ in self.points[axis]]
        return log_slope(sizes, [point[variant].spread.median for _, point in self.points[axis]])

    def table(self) -> BenchmarkTable:
        """A table of all points."""
        rows, record = [], []
        for axis, points in self.points.items():
            for size, point in points:
                step, product, ratio = (
                    point[STEP].spread,
                    point[PRODUCT].spread,
                    point.ratio(STEP),
                )
                rows.append(
                    (
                        f"{axis} {size:,}",
                        f"{product.median * 1e3:.4g}",
                        f"{step.median * 1e3:.4g}",
                        f"{step.lower * 1e3:.4g} … {step.upper * 1e3:.4g}",
                        f"{ratio.median:.2f}",
                        f"{point[STEP].n_tokens / step.median:,.0f}",
                    )
                )
                record.append({"axis": axis, "size": size, **point.table().record})
        return BenchmarkTable(
            f"Growth of the sparse step around {self.base}, {self.precision}",
            (
                "varied size",
                f"{PRODUCT}, ms",
                f"{STEP}, ms",
                "quartiles",
                f"× {PRODUCT}",
                "tokens/s",
            ),
            tuple(rows),
            {"base": self.base.model_dump(), "precision": self.precision, "points": record},
        )


def slope_figures(growths: Sequence[Growth], picture: str | None) -> BenchmarkTable:
    """Table of the slopes of all axes; `picture` is the file name of the plot, which is stored next to the log."""
    variants = [(growth, variant) for growth in growths for variant in (PRODUCT, STEP)]
    rows = tuple(
        (axis, *(f"{growth.slope(axis, variant):.2f}" for growth, variant in variants)) for axis in AXES
    )
    slopes = {
        growth.precision: {
            axis: {variant: growth.slope(axis, variant) for variant in (PRODUCT, STEP)} for axis in AXES
        }
        for growth in growths
    }
    notes = ["Least squares over all points of an axis; 1 is proportional, 0 is independent."]
    if picture is not None:
        notes.append(f"![Seconds per step over its size]({picture})")
    return BenchmarkTable(
        "Slopes of log time over log size",
        ("axis", *(f"{variant}, {growth.precision}" for growth, variant in variants)),
        rows,
        {"slopes": slopes},
        tuple(notes),
    )


def measure_growth(config: BenchConfig, precision: Precision, device: torch.device) -> Growth:
    """Measure each axis separately around the base shape; a point that axes share is measured once."""
    measured: dict[Shape, Comparison] = {}

    def point(shape: Shape) -> Comparison:
        if shape not in measured:
            measured[shape] = compare_steps(config, shape, precision, device, ("sparse",))
        return measured[shape]

    points: dict[Axis, list[tuple[int, Comparison]]] = {
        axis: [(size, point(shape)) for size, shape in shapes_along(config, axis)] for axis in AXES
    }
    return Growth(precision, config.shape, points)


def shapes_along(config: BenchConfig, axis: Axis) -> Iterator[tuple[int, Shape]]:
    """Yield the shapes that differ from the configured one along `axis` alone, with their sizes."""
    for size in getattr(config.axes, axis):
        yield size, config.shape.model_copy(update={axis: size})


def break_even_figures(config: BenchConfig, precision: Precision, device: torch.device) -> BenchmarkTable:
    """Ratio of sparse to dense step time for shares k / latents, and the share at which it is 1."""
    shares = config.break_even_shares
    rows, record, found = [], [], {}
    for n_latents in config.break_even_latents:
        ratios = []
        for share in shares:
            shape = config.shape.model_copy(
                update={"n_latents": n_latents, "k": max(1, round(share * n_latents))}
            )
            comparison = compare_steps(config, shape, precision, device)
            ratio = comparison[STEP].ratio_to(comparison["dense step"])
            ratios.append(ratio.median)
            record.append({"n_latents": n_latents, "share": share, "sparse_over_dense": ratio.record()})
        found[n_latents] = break_even(shares, ratios)
        rows.append(
            (f"{n_latents:,}", *(f"{ratio:.2f}" for ratio in ratios), _shown(found[n_latents], shares))
        )
    rule = SPARSE_BELOW[dtype_of(precision, device)]
    return BenchmarkTable(
        f"Sparse step over dense step, {precision}",
        ("latents", *(f"k/latents {share:.2%}" for share in shares), "break-even"),
        tuple(rows),
        {"precision": precision, "points": record, "break_even": found, "rule": rule},
        (f"`training.step: auto` takes the sparse path below {rule:.2%}.",),
    )


def break_even(shares: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The share at which the ratio crosses 1, by log-linear interpolation; None if it does not cross.

    If noise makes it cross more than once, the last crossing counts: above it, the dense step is always faster.
    """
    for left in range(len(shares) - 2, -1, -1):
        low, high = math.log(ratios[left]), math.log(ratios[left + 1])
        if low < 0 <= high:
            fraction = -low / (high - low)
            return math.exp((1 - fraction) * math.log(shares[left]) + fraction * math.log(shares[left + 1]))
    return None


def _shown(share: float | None, shares: Sequence[float]) -> str:
    return f"{share:.2%}" if share is not None else f"outside {shares[0]:.2%} … {shares[-1]:.2%}"


def log_slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def plot_growth(growths: Sequence[Growth], path: Path) -> None:
    """Plot the time of step and encoder product over size, one log-log panel per axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(2, 2, sharey=True).flatten()
    for panel, axis in zip(panels, AXES, strict=True):
        sizes = [size for size, _ in growths[0].points[axis]]
        for color, growth in enumerate(growths):
            for variant, style in ((PRODUCT, "--"), (STEP, "-")):
                spreads = [point[variant].spread for _, point in growth.points[axis]]
                panel.plot(
                    sizes,
                    [spread.median for spread in spreads],
                    style,
                    color=f"C{color}",
                    marker="o",
                    label=f"{variant}, {growth.precision}: slope {growth.slope(axis, variant):.2f}",
                )
                panel.fill_between(
                    sizes,
                    [spread.lower for spread in spreads],
                    [spread.upper for spread in spreads],
                    color=f"C{color}",
                    alpha=0.2,
                )
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds per step")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.suptitle(f"around {growths[0].base}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
