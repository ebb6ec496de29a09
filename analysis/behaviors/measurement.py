"""The metric of a behavior under activation patching: either model run from activations of either, with a part of the change added or removed.

    M_m(h_s ± part)     m: the model run forward from the hookpoint      s: the model that the activations come from

The four corners M_A(h_A), M_A(h_B), M_B(h_A), M_B(h_B) and every causal check are such runs.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from .activations import PromptActivations
from .logit_metrics import LogitMetric
from .patched_metrics import EditEffect, PatchedMetrics, Start
from .patching import INTERVENED, REFERENCE, PatchedRun, starting_point
from .prompt_statistics import Bounds


@runtime_checkable
class Measurement(Protocol):
    """The metric of a behavior on a set of prompts."""

    unit: str
    n_prompts: int

    bounds: Bounds | None
    """Lower and upper bound of the metric; None if it has none or they are unknown."""

    def values(self, run: PatchedRun) -> Float64[np.ndarray, " prompt"]:
        """Return one value per prompt."""
        ...


def values_of_each(
    measurement: Measurement, runs: Sequence[PatchedRun]
) -> Iterator[Float64[np.ndarray, " prompt"]]:
    """Yield the values of every run, batched where the measurement can; later runs are made only when asked for."""
    if isinstance(measurement, LogitMeasurement):
        return measurement.each(runs)
    return map(measurement.values, runs)


class LogitMeasurement:
    """A metric of logits."""

    def __init__(self, activations: PromptActivations, metric: LogitMetric) -> None:
        """`activations` must be on the rows that the metric requires."""
        self.activations, self.metric = activations, metric
        self.bounds: Bounds | None = None
        self.unit, self.n_prompts = metric.unit, activations.n_prompts
        self._patched = PatchedMetrics(
            activations.pair,
            (metric, metric),
            [(batch, batch) for batch in activations.batches],
            lambda model, index: activations.of_batch(index)[model],
            activations.n_prompts,
        )

    def values(self, run: PatchedRun) -> Float64[np.ndarray, " prompt"]:
        """See `Measurement.values`."""
        return self._patched.values(run.model, self._start(run))

    def each(self, runs: Sequence[PatchedRun]) -> Iterator[Float64[np.ndarray, " prompt"]]:
        """Yield `values` of every run, several runs of one model in one forward pass; later runs are made only when asked for."""
        for model, group in groupby(runs, key=lambda run: run.model):
            yield from self._patched.each(model, [self._start(run) for run in group])

    def compare_with_unchanged(self, runs: Sequence[PatchedRun]) -> list[EditEffect]:
        """Compare runs with their unchanged model: see `PatchedMetrics.compare_with_unchanged`."""
        effects: dict[int, EditEffect] = {}
        for model in (REFERENCE, INTERVENED):
            indices = [index for index, run in enumerate(runs) if run.model == model]
            starts = [self._start(runs[index]) for index in indices]
            if starts:
                effects |= zip(indices, self._patched.compare_with_unchanged(model, starts), strict=True)
        return [effects[index] for index in range(len(runs))]

    def gradient(
        self, index: int, model: int, activations: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """See `PatchedMetrics.gradient`."""
        return self._patched.gradient(model, index, activations)

    def _start(self, run: PatchedRun) -> Start:
        activations = self.activations
        return lambda index: starting_point(
            run,
            activations.of_batch(index),
            activations.batches[index].kept,
            lambda: activations.change(index),
        )
