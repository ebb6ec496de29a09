"""What a number of prompts can show: how many a shift needs, and the smallest shift that they establish."""

import math

import numpy as np
from jaxtyping import Float64

from crosscoder.config.behavior import ShiftRule

from ..latents.bootstrap import unseen_weights
from ..latents.mean_intervals import margins, sample_of
from .prompt_statistics import MIN_PROMPTS, Bounds, prompts_to_see

POWER = 0.8
"""Probability with which a detectable shift is established."""

_SAMPLES = 400
_BOUNDED_SAMPLES = 120
_RESAMPLES = 500
_HALVINGS = 7


def prompts_needed(rule: ShiftRule, bounds: Bounds | None = None) -> int:
    """Return the number of prompts below which no shift is established, however large.

    At least `MIN_PROMPTS`. Without bounds, prompts of a kind that may be missing from the sample can shift the mean by any amount, so there
    have to be enough to see every kind as frequent as `rule.unseen`. With bounds, it is the number with which the largest possible shift,
    on every prompt, has a lower bound above `rule.at_least`: (1 - x)^n ≤ (1 - confidence)/2 for the weight x of the unseen prompt.
    """
    if bounds is None:
        return max(MIN_PROMPTS, prompts_to_see(rule.unseen, rule.confidence))
    asked = rule.at_least / (bounds[1] - bounds[0])
    if asked >= 1:  # no number of prompts is enough, and a larger one changes nothing
        return MIN_PROMPTS
    weight = (1 - asked) / 2
    return max(MIN_PROMPTS, math.ceil(math.log((1 - rule.confidence) / 2) / math.log(1 - weight)))


def detectable_shift(
    difference: Float64[np.ndarray, " prompt"],
    n_prompts: int,
    rule: ShiftRule,
    seed: int,
    bounds: Bounds | None = None,
) -> float | None:
    """Return the smallest shift that `n_prompts` prompts of this spread establish with a probability of `POWER`.

    Without bounds, every prompt shifts by the same amount, and the spread is that of the differences around their mean. With bounds, the
    shift is a share of the prompts that go from one bound to the other.

    Returns:
        The size in the unit of the metric; None if the differences have no spread, or too few prompts for one, or no shift of the metric
        is large enough.
    """
    generator = np.random.default_rng([seed, 3])
    centred = difference - difference.mean()
    size = (n_prompts, _SAMPLES if bounds is None else _BOUNDED_SAMPLES)
    drawn = centred[generator.integers(len(centred), size=size)]
    if bounds is None:
        if np.ptp(centred) == 0:
            return None
        # An interval moves with its sample, so a shift is established if it is larger than the margin of a sample without one.
        sample = sample_of(drawn)
        below, above = margins(sample, rule.confidence)
        needed = max(
            float(np.quantile(margin, POWER)) for margin in (below - sample.mean, above + sample.mean)
        )
        return rule.at_least + needed
    gap = bounds[1] - bounds[0]
    n_resamples = max(_RESAMPLES, math.ceil(4 / (1 - rule.confidence)))
    weights = unseen_weights(n_resamples, n_prompts, [seed, n_prompts])
    weights, unseen = weights[:, :-1], weights[:, -1:]
    moves = generator.random(size)

    def is_established(share: float) -> bool:
        moved = np.where(moves < share, gap, np.clip(drawn, -gap, gap))
        lowest = np.quantile(weights @ moved - unseen * gap, (1 - rule.confidence) / 2, axis=0)
        return float(np.mean((lowest > 0) & (lowest >= rule.at_least))) >= POWER

    if not is_established(1.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_established(middle) else (middle, high)
    return high * gap
