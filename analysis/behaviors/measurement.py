"""A behavior's metric on some prompts, for either model run on from activations of either, with a part of the change put in or out.

    M_m(h_s ± part)     m: the model whose layers above the hookpoint are run      s: the model whose activations they start from

The four corners M_A(h_A), M_A(h_B), M_B(h_A), M_B(h_B) and every causal check are such runs.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from .activations import PromptActivations
from .metrics import LogitMetric
from .patched_metrics import EditEffect, PatchedMetrics, Start
from .patching import INTERVENED, REFERENCE, PatchedRun, starting_point
from .prompt_statistics import Bounds


@runtime_checkable
class Measurement(Protocol):
    """The metric of a behavior on a set of prompts."""

    unit: str
    n_prompts: int

    bounds: Bounds | None
    """The least and the most that it can be; None where it has no bounds, or they are not known."""

    def values(self, run: PatchedRun) -> Float64[np.ndarray, " prompt"]:
        """One number a prompt."""
        ...


class LogitMeasurement:
    """A metric of logits."""

    def __init__(self, activations: PromptActivations, metric: LogitMetric) -> None:
        """The rows of the activations are those that the metric asked for."""
        self.activations = activations
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

    def compare_with_unchanged(self, runs: Sequence[PatchedRun]) -> list[EditEffect]:
        """Runs beside their model as it is: see `PatchedMetrics.compare_with_unchanged`."""
        found: dict[int, EditEffect] = {}
        for model in (REFERENCE, INTERVENED):
            places = [place for place, run in enumerate(runs) if run.model == model]
            starts = [self._start(runs[place]) for place in places]
            if starts:
                found |= zip(places, self._patched.compare_with_unchanged(model, starts), strict=True)
        return [found[place] for place in range(len(runs))]

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
