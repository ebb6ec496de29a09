"""Divergence of a training: a loss that is not finite, that explodes, or that ends above where it began.

Errors are per model and in units of its variance, so that predicting the mean costs 1 (`training.losses`). Training starts above 1: many latents
fire before the sparsity takes hold, which costs up to about 10, or 100 on a batch with heavy tails, and a short training may end there. So a
loss above 1 alone is no divergence.
"""

import math
from collections.abc import Mapping

EXPLODED = 1000.0
"""Error of a batch at which training stops; at least `GROWTH` times the error before the first step."""

GROWTH = 100.0

WORST_END = 2.0
"""Held-out error that a training may always end with: a variance explained of -1."""

END_GROWTH = 1.5
"""A training that ends above `WORST_END` has diverged if its error is this many times that before the first step."""

_FVE = "metrics/explained_variance/"


def exploded(error: float, first: float) -> bool:
    """Whether the error of a batch says that training diverged; `first` is the held-out error before the first step."""
    return not math.isfinite(error) or error > max(EXPLODED, GROWTH * first)


def ended_worse(error: float, first: float) -> bool:
    """Whether the held-out error at the end says that training diverged; `first` is the one before the first step."""
    return error > max(WORST_END, END_GROWTH * first)


def worst_error(evaluated: Mapping[str, float | None]) -> float:
    """Return the held-out error of the model that is explained least, from `HeldOutMeter.measure`; 0 if no model varies.

    The difference between models does not count: where it is small, its variance may be explained as badly as can be.
    """
    return max(
        (1 - fve for name, fve in evaluated.items() if name.startswith(_FVE) and fve is not None), default=0.0
    )
