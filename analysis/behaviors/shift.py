"""The shift of a behavior with its interval and noise floor. A shift below the noise floor is not explained."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from crosscoder.config.behavior import ShiftRule

from .prompt_statistics import Bounds, Estimate, Resamples, sign_flip_test

Verdict = Literal["established", "no difference", "below the noise floor", "smaller than asked"]


class Shift(NamedTuple):
    """A shift on a set of prompts."""

    reference: Estimate
    intervened: Estimate
    size: Estimate
    p_value: float
    """p-value of the paired permutation test."""

    floor: float
    """Noise floor: what chance reaches by exchanging the models on each prompt, and by generating the reference's answers twice."""

    self_shift: float | None
    """Shift of the reference against itself with other random numbers; None if none are used."""

    verdict: Verdict

    @property
    def established(self) -> bool:
        """Whether the shift is established."""
        return self.verdict == "established"

    def as_dict(self) -> dict[str, Any]:
        """Return the shift for JSON."""
        values = self._asdict()
        return {
            key: value.as_dict() if isinstance(value, Estimate) else value for key, value in values.items()
        } | {"established": self.established}


def measure_shift(
    reference: Float64[np.ndarray, " prompt"],
    intervened: Float64[np.ndarray, " prompt"],
    again: Float64[np.ndarray, " prompt"] | None,
    rule: ShiftRule,
    seed: int,
    bounds: Bounds | None = None,
) -> Shift:
    """Compare both models on the same prompts.

    Args:
        again: The reference with other random numbers, if its answers depend on them.
        bounds: Bounds of the metric, if it has any.
    """
    resamples = Resamples(len(reference), rule.confidence, seed, bounds)
    difference = intervened - reference
    flips = sign_flip_test(difference, rule.confidence, seed)
    floor, self_shift = flips.floor, None
    if again is not None:
        self_shift = float((again - reference).mean())
        floor = max(floor, abs(self_shift), sign_flip_test(again - reference, rule.confidence, seed).floor)
    size = resamples.difference(difference)
    return Shift(
        resamples.mean(reference),
        resamples.mean(intervened),
        size,
        flips.p_value,
        floor,
        self_shift,
        _verdict(size, flips.p_value, floor, difference, rule),
    )


def _verdict(
    size: Estimate, p_value: float, floor: float, difference: Float64[np.ndarray, " prompt"], rule: ShiftRule
) -> Verdict:
    if not difference.any():
        return "no difference"
    if p_value > 1 - rule.confidence or abs(size.value) < floor or size.low * size.high <= 0:
        return "below the noise floor"
    # The whole interval must be at least as large as the smallest relevant shift.
    if min(abs(size.low), abs(size.high)) < rule.at_least:
        return "smaller than asked"
    return "established"
