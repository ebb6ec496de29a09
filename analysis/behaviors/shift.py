"""Whether a behavior shifted at all: its size with an interval, and its noise floor. Below it nothing is explained."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from crosscoder.config.behavior import ShiftRule

from .prompt_statistics import Bounds, Estimate, Resamples, sign_flip_test

Verdict = Literal["established", "no difference", "below the noise floor", "smaller than asked"]


class Shift(NamedTuple):
    """A shift on some prompts."""

    reference: Estimate
    intervened: Estimate
    size: Estimate
    p_value: float
    """Of the paired permutation test."""

    floor: float
    """What chance reaches: by exchanging the models prompt by prompt, and by generating the reference's answers twice."""

    self_shift: float | None
    """The reference against itself with other random numbers; None where no random numbers are used."""

    verdict: Verdict

    @property
    def established(self) -> bool:
        """Whether there is anything to explain."""
        return self.verdict == "established"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
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
    """Both models on the same prompts.

    Args:
        again: The reference with other random numbers, where its answers depend on them.
        bounds: Of the metric, where it has some.
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
    # The whole interval has to be as large as what matters.
    if min(abs(size.low), abs(size.high)) < rule.at_least:
        return "smaller than asked"
    return "established"
