"""Our training step on each path, beside a compiled step in plain torch, over a grid of sizes: where does `training.step: auto` lose?

The plain step (`rivals.PlainStep`) is what a user writes in ten minutes: no AuxK, no difference term. Our paths share one training state,
since two of the largest would not fit on a device; what a step costs does not depend on its weights.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from crosscoder.config import BatchTopK
from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.timing import BenchmarkTable, Comparison, compare

from ..forward import choose_path
from ..memory import machine_memory
from .rivals import PlainStep
from .settings import BenchConfig, Shape
from .step import Precision, StepSetting, TrainerStep, precisions, warmed_up_step

PLAIN = "plain step, compiled"
PATHS: tuple[StepSetting, ...] = ("sparse", "dense", "compiled")

# A CUDA graph is recorded at the second call of a compiled region and replayed from the third on.
_CALLS_BEFORE = 3

# Bytes per weight: two states of training (weights, gradients, two moments), their copies in bfloat16, and a copy while one is made.
_BYTES_PER_WEIGHT = 2 * (16 + 2) + 4

# Bytes per token and latent of the dense paths; see `memory`.
_BYTES_PER_SCORE = 27


@dataclass(frozen=True)
class Cell:
    """One size of the grid, measured or left out."""

    shape: Shape
    auto: str
    comparison: Comparison | None
    reason: str = ""
    """Why it was left out."""

    def over_plain(self, path: str) -> float:
        """Time of a path over that of the plain step."""
        assert self.comparison is not None
        return self.comparison.ratio(path).median


def grid_benchmark(config: BenchConfig) -> Iterator[BenchmarkTable]:
    """Measure every size of the grid that fits, from the smallest on, until the time is over; `record["lost"]` says where `auto` loses."""
    device = resolve_device("device", config.device)
    precision = precisions(config, device)[0]
    begin, cells = time.monotonic(), []
    sizes = sorted((n * d, n, d) for n in config.grid.n_latents for d in config.grid.d_model)
    for _, n_latents, d_model in sizes:
        shapes = [
            config.shape.model_copy(update={"n_latents": n_latents, "d_model": d_model, "k": k})
            for k in config.grid.k
        ]
        reason = _left_out(shapes[0], device)
        if time.monotonic() - begin > 60 * config.grid.minutes:
            reason = f"not begun within grid.minutes {config.grid.minutes:g}"
        if reason:
            cells += [Cell(shape, _auto(shape, precision, device), None, reason) for shape in shapes]
        else:
            cells += _measured(config, shapes, precision, device)
    yield grid_table(cells, precision)


def grid_table(cells: list[Cell], precision: str) -> BenchmarkTable:
    """Table of all cells."""
    rows, record, lost = [], [], []
    for cell in cells:
        shape = cell.shape
        size = (f"{shape.n_latents:,} of {shape.models} × {shape.d_model}", f"{shape.k}")
        if cell.comparison is None:
            rows.append((*size, cell.reason, *("—" for _ in PATHS), cell.auto, "—"))
            record.append(shape.model_dump() | {"auto": cell.auto, "left_out": cell.reason})
            continue
        ratios = {path: cell.over_plain(path) for path in PATHS}
        plain = cell.comparison[PLAIN].spread
        auto = ratios[cell.auto]
        rows.append(
            (
                *size,
                f"{plain.median * 1e3:.4g}",
                *(f"{ratio:.2f}" for ratio in ratios.values()),
                cell.auto,
                f"{auto:.2f}",
            )
        )
        record.append(
            shape.model_dump()
            | {"auto": cell.auto, "plain_seconds": plain.record()}
            | {"ratios": {path: cell.comparison.ratio(path).record() for path in PATHS}}
        )
        if auto > 1:
            fastest = min(ratios, key=lambda path: ratios[path])
            lost.append(
                f"{', k '.join(size)}: auto takes {cell.auto}, {auto:.2f} × the plain step; {fastest} takes {ratios[fastest]:.2f} ×"
            )
    measured = sum(cell.comparison is not None for cell in cells)
    notes = (
        "Ratios are to the plain step, within a round; our steps include AuxK on dead latents and the difference term, the plain step does not.",
        f"`training.step: auto` loses at {len(lost)} of {measured} sizes measured; {len(cells) - measured} were left out.",
    )
    return BenchmarkTable(
        f"Paths of the step over the sizes of dictionaries, {precision}",
        ("latents", "k", "plain, ms", *PATHS, "auto", "auto / plain"),
        tuple(rows),
        {"precision": precision, "cells": record, "lost": lost},
        notes,
    )


def _measured(
    config: BenchConfig, shapes: list[Shape], precision: Precision, device: torch.device
) -> list[Cell]:
    """Measure shapes that differ in k alone, so that our paths are compiled once."""
    try:
        with warmed_up_step(config, shapes[0], precision, device) as (step, batches):
            paths = {path: step.sharing_state(path) for path in PATHS}
            cells = []
            for shape in shapes:
                plain = PlainStep(step.trainer.state.crosscoder, batches, shape, step.trainer.forward.dtype)
                for variant in paths.values():
                    variant.keep(shape.k)
                comparison = _compared({PLAIN: plain, **paths}, batches.advance, config.repeats, device)
                cells.append(Cell(shape, _auto(shape, precision, device), comparison))
                del plain
            return cells
    except torch.OutOfMemoryError:
        return [Cell(shape, _auto(shape, precision, device), None, "out of memory") for shape in shapes]
    finally:
        # Or the graphs would hold the memory of their size.
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _compared(
    variants: dict[str, PlainStep | TrainerStep],
    next_batch: Callable[[], None],
    repeats: int,
    device: torch.device,
) -> Comparison:
    for _ in range(_CALLS_BEFORE):
        next_batch()
        for variant in variants.values():
            variant()
    return compare("grid", variants, reference=PLAIN, repeats=repeats, device=device, before_round=next_batch)


def _auto(shape: Shape, precision: Precision, device: torch.device) -> str:
    dtype = getattr(torch, precision)
    return choose_path(BatchTopK(k=shape.k), None, shape.n_latents, dtype, device)


def _left_out(shape: Shape, device: torch.device) -> str:
    """Why a size is not measured; empty if it fits."""
    weights = 2 * shape.n_latents * sum(shape.d_models)
    needed = _BYTES_PER_WEIGHT * weights + _BYTES_PER_SCORE * shape.batch_tokens * shape.n_latents
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine_memory()
    if free is not None and needed > free:
        return f"needs {needed / 1e9:.3g} GB of {free / 1e9:.3g}"
    return ""
