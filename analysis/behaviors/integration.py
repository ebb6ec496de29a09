"""Gradients along a straight path, at as many points as it takes for attributions to add up (Sundararajan et al. 2017)."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.config.behavior import AttributionSettings

from .prompt_statistics import Values

_FIRST_STEPS = 4

Gradient = Callable[[int, float], Float[Tensor, "row token d_model"]]
"""Of one batch, at a point of its path from 0 to 1."""


class Integration:
    """Mean gradients along a path, refine_until_complete by threes: the middles of n equal steps are among those of 3 n."""

    def __init__(self, n_batches: int, gradients: Sequence[Gradient]) -> None:
        """Of several gradients it is the mean that is sought."""
        self._n_batches, self._gradients = n_batches, gradients
        self._sums: list[Tensor] = []
        self.steps = 0

    def refine(self, steps: int) -> None:
        """Take gradients at the middles of `steps` equal steps; those that are there already are kept."""
        if steps == 3 * self.steps:
            new = [place for place in range(steps) if place % 3 != 1]
        else:
            new, self._sums = list(range(steps)), []
        for index in range(self._n_batches):
            found = self._summed(index, [(place + 0.5) / steps for place in new])
            if index < len(self._sums):
                self._sums[index] += found
            else:
                self._sums.append(found)
        self.steps = steps

    def mean(self, index: int) -> Float[Tensor, "row token d_model"]:
        """Of one batch."""
        return self._sums[index] / (len(self._gradients) * self.steps)

    def _summed(self, index: int, alphas: Sequence[float]) -> Float[Tensor, "row token d_model"]:
        return reduce(torch.add, (own(index, alpha) for alpha in alphas for own in self._gradients))


@runtime_checkable
class HasResidual(Protocol):
    """Attributions that add up to a shift, but for the error of the integration."""

    @property
    def residual(self) -> Values:
        """That error."""
        ...


AttributionT = TypeVar("AttributionT", bound=HasResidual)


def refine_until_complete(
    attributed: Callable[[int], AttributionT], settings: AttributionSettings, shift: Values
) -> AttributionT:
    """Attributions with as many steps as the settings ask for, or as their residual needs to be small beside the shift.

    Args:
        attributed: With so many steps.
    """
    bound = settings.residual * abs(float(shift.mean()))
    steps = settings.steps or _FIRST_STEPS
    with tqdm(desc="attribute", unit=" steps") as bar:
        while True:
            found = attributed(steps)
            bar.update(steps - bar.n)
            missed = abs(float(found.residual.mean()))
            if settings.steps or missed < bound or 3 * steps > settings.max_steps:
                return found
            steps *= 3
