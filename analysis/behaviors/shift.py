"""The shift of a behavior with its interval, its noise floor, and the smallest shift that its prompts could have shown.

A shift that is not established is not explained. It is established if its test and its interval exclude 0, it is at least as large as
chance makes it by exchanging the models, and there are enough prompts for that to mean something.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from crosscoder.config.behavior import ShiftRule

from .prompt_statistics import Bounds, Estimate, Resamples, sign_flip_test
from .shift_power import detectable_shift, prompts_needed

Verdict = Literal[
    "established", "no difference", "not enough prompts", "below the noise floor", "smaller than asked"
]


class Shift(NamedTuple):
    """A shift on a set of prompts."""

    reference: Estimate
    intervened: Estimate
    size: Estimate
    p_value: float
    """p-value of a mean difference of 0."""

    floor: float
    """Noise floor: what chance reaches by exchanging the models on each prompt, and by generating the reference's answers twice."""

    self_shift: float | None
    """Shift of the reference against itself with other random numbers; None if none are used."""

    n_prompts: int
    prompts_needed: int
    """Prompts with which a shift can be established at all: see `shift_power.prompts_needed`."""

    detectable: float | None
    """Smallest shift, in the unit of the metric, that this number of prompts with this spread establishes with a probability of 0.8; None if
    they establish no shift whatever its size."""

    detectable_when_enough: float | None
    """`detectable`, with `prompts_needed` prompts of the same spread if there are fewer; None if the spread is unknown."""

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
    resamples = Resamples(len(reference), rule.confidence, seed, bounds, rule.unseen)
    difference = intervened - reference
    floor, self_shift = sign_flip_test(difference, rule.confidence, seed).floor, None
    if again is not None:
        self_shift = float((again - reference).mean())
        floor = max(floor, abs(self_shift), sign_flip_test(again - reference, rule.confidence, seed).floor)
    size, p_value, needed = (
        resamples.difference(difference),
        resamples.p_value(difference),
        prompts_needed(rule, bounds),
    )
    detectable = detectable_shift(difference, max(len(difference), needed), rule, seed, bounds)
    return Shift(
        resamples.mean(reference),
        resamples.mean(intervened),
        size,
        p_value,
        floor,
        self_shift,
        len(difference),
        needed,
        detectable if len(difference) >= needed else None,
        detectable,
        _verdict(size, p_value, floor, difference, rule, needed),
    )


def _verdict(
    size: Estimate,
    p_value: float,
    floor: float,
    difference: Float64[np.ndarray, " prompt"],
    rule: ShiftRule,
    needed: int,
) -> Verdict:
    if not difference.any():
        return "no difference"
    if len(difference) < needed:
        return "not enough prompts"
    if p_value > 1 - rule.confidence or abs(size.value) < floor or not size.low * size.high > 0:
        return "below the noise floor"
    # The whole interval must be at least as large as the smallest relevant shift.
    if min(abs(size.low), abs(size.high)) < rule.at_least:
        return "smaller than asked"
    return "established"
