"""Intervals and tests over prompts: each is one observation, whatever was measured on it."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ..latents.bootstrap import unseen_weights

RESAMPLES = 2000
FLIPS = 10_000

Values = Float64[np.ndarray, " prompt"]


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: None stands for what cannot be estimated."""
        return {name: value if np.isfinite(value) else None for name, value in self._asdict().items()}


Bounds = tuple[float, float]
"""The least and the most that a metric can be."""


class Resamples:
    """Intervals over prompts: the same resamples for all that is asked, so that ratios and differences are of the same prompts.

    Of a metric without bounds they are the percentiles of a bootstrap (Efron and Tibshirani 1993, chapter 13). Of one with bounds, as a
    share of answers is, each resample weighs one prompt more that nobody has seen (`intervals`): prompts soon agree on it, and by a bootstrap 40
    refusals of 40 would be 100 %, and nothing else.
    """

    def __init__(self, n_prompts: int, confidence: float, seed: int, bounds: Bounds | None = None) -> None:
        self._tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        if bounds is None:
            generator = np.random.default_rng([seed, n_prompts])
            counts = generator.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=RESAMPLES)
            self._weights, self._unseen = counts / n_prompts, np.zeros(RESAMPLES)
        else:
            weights = unseen_weights(RESAMPLES, n_prompts, [seed, n_prompts])
            self._weights, self._unseen = weights[:, :-1], weights[:, -1]
        self._bounds = least, most = bounds or (0.0, 0.0)  # without any the unseen prompt weighs nothing
        self._gap = least - most, most - least

    def mean(self, values: Values) -> Estimate:
        """Mean of the metric over prompts."""
        return self._estimate(values, self._bounds)

    def difference(self, values: Values) -> Estimate:
        """Mean over prompts of a difference of two values of the metric."""
        return self._estimate(values, self._gap)

    def ratio(self, numerator: Values, denominator: Values) -> Estimate:
        """Ratio of the means of two differences. Infinite or NaN where the denominator is 0.

        What is unseen adds all it can to the numerator and nothing to the denominator: as far as it can from any ratio of at most 1.
        """
        return self._estimate(numerator, self._gap, denominator)

    def value_and_share(self, part: Values, whole: Values) -> dict[str, Any]:
        """A part of a shift, in the unit of its metric and as a share of the whole, for JSON."""
        return {"value": self.difference(part).as_dict(), "share": self.ratio(part, whole).as_dict()}

    def _estimate(self, values: Values, unseen: Bounds, over: Values | None = None) -> Estimate:
        """Of the mean of `values`, or of its ratio to that of another; the unseen prompt is one of two values."""
        value, sampled = values.mean(), self._weights @ values + np.outer(unseen, self._unseen)
        if over is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                value, sampled = np.divide(value, over.mean()), sampled / (self._weights @ over)
        if not np.isfinite(sampled).all():
            return Estimate(float(value), np.nan, np.nan)
        # Over a negative shift the least of a part is the most of its share.
        low, high = map(np.quantile, np.sort(sampled, axis=0), self._tails)
        return Estimate(float(value), float(low), float(high))


class SignFlips(NamedTuple):
    """What the mean difference is when, prompt by prompt, chance decides which model is which."""

    p_value: float
    """Share of them at least as large in size as the one observed, itself among them."""

    floor: float
    """Size that they stay below at the confidence asked for."""


def sign_flip_test(differences: Values, confidence: float, seed: int) -> SignFlips:
    """Paired permutation test, two-sided (Fisher 1935; Good 2005, section 3.2): exact up to the number of flips."""
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], size=(FLIPS, len(differences)))
    sizes = np.abs(signs @ differences) / len(differences)
    # Sums in another order differ in their last digits.
    observed = abs(float(differences.mean())) * (1 - 1e-12)
    p_value = (1 + int((sizes >= observed).sum())) / (1 + FLIPS)
    return SignFlips(p_value, float(np.quantile(sizes, confidence)))
