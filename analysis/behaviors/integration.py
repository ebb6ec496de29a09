"""Integrated gradients along a straight path, with as many steps as completeness needs (Sundararajan et al. 2017)."""

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
"""The gradient of one batch at a point of its path from 0 to 1."""


class Integration:
    """Mean gradients along a path. Tripling the steps reuses all gradients: the midpoints of n equal steps are among those of 3 n."""

    def __init__(self, n_batches: int, gradients: Sequence[Gradient]) -> None:
        """The result is the mean over `gradients`."""
        self._n_batches, self._gradients = n_batches, gradients
        self._sums: list[Tensor] = []
        self.steps = 0

    def refine(self, steps: int) -> None:
        """Compute gradients at the midpoints of `steps` equal steps; existing ones are reused if `steps` has tripled."""
        if steps == 3 * self.steps:
            new = [index for index in range(steps) if index % 3 != 1]
        else:
            new, self._sums = list(range(steps)), []
        for index in range(self._n_batches):
            total = self._summed(index, [(step + 0.5) / steps for step in new])
            if index < len(self._sums):
                self._sums[index] += total
            else:
                self._sums.append(total)
        self.steps = steps

    def mean(self, index: int) -> Float[Tensor, "row token d_model"]:
        """Return the mean gradient of one batch."""
        return self._sums[index] / (len(self._gradients) * self.steps)

    def _summed(self, index: int, alphas: Sequence[float]) -> Float[Tensor, "row token d_model"]:
        return reduce(torch.add, (gradient(index, alpha) for alpha in alphas for gradient in self._gradients))


@runtime_checkable
class HasResidual(Protocol):
    """Attributions that add up to a shift, up to the integration error."""

    @property
    def residual(self) -> Values:
        """The integration error."""
        ...


AttributionT = TypeVar("AttributionT", bound=HasResidual)


def refine_until_complete(
    attribute: Callable[[int], AttributionT], settings: AttributionSettings, shift: Values
) -> AttributionT:
    """Attribute with the number of steps that is set, or triple it until the residual is small compared with the shift.

    Args:
        attribute: Returns the attributions for a number of steps.
    """
    bound = settings.residual * abs(float(shift.mean()))
    steps = settings.steps or _FIRST_STEPS
    with tqdm(desc="attribute", unit=" steps") as bar:
        while True:
            attributions = attribute(steps)
            bar.update(steps - bar.n)
            missed = abs(float(attributions.residual.mean()))
            if settings.steps or missed < bound or 3 * steps > settings.max_steps:
                return attributions
            steps *= 3
