"""Intervals and tests over prompts. Each prompt is one observation."""

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
        """Return the estimate for JSON, with None for numbers that cannot be estimated."""
        return {name: value if np.isfinite(value) else None for name, value in self._asdict().items()}


Bounds = tuple[float, float]
"""Lower and upper bound of a metric."""


class Resamples:
    """Bootstrap intervals over prompts. All statistics use the same resamples, so ratios and differences are paired.

    For a metric without bounds, these are percentile intervals (Efron and Tibshirani 1993, chapter 13). For a bounded metric such as a
    share of answers, each resample adds one unseen prompt (`latents.bootstrap`): a plain bootstrap would give 40 refusals of 40 an
    interval from 100 % to 100 %.
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
        self._bounds = lower, upper = bounds or (0.0, 0.0)  # without bounds the unseen prompt has weight 0
        self._gap = lower - upper, upper - lower

    def mean(self, values: Values) -> Estimate:
        """Return the mean of the metric over prompts."""
        return self._estimate(values, self._bounds)

    def difference(self, values: Values) -> Estimate:
        """Return the mean over prompts of a difference of two values of the metric."""
        return self._estimate(values, self._gap)

    def ratio(self, numerator: Values, denominator: Values) -> Estimate:
        """Return the ratio of the means of two differences; infinite or NaN if the denominator is 0.

        The unseen prompt adds the largest possible difference to the numerator and nothing to the denominator: the most conservative
        choice for a ratio of at most 1.
        """
        return self._estimate(numerator, self._gap, denominator)

    def value_and_share(self, part: Values, whole: Values) -> dict[str, Any]:
        """Return a part of a shift in the unit of its metric and as a share of the shift, for JSON."""
        return {"value": self.difference(part).as_dict(), "share": self.ratio(part, whole).as_dict()}

    def _estimate(self, values: Values, unseen: Bounds, over: Values | None = None) -> Estimate:
        """Estimate the mean of `values`, or its ratio to the mean of `over`; the unseen prompt takes the two values of `unseen`."""
        value, sampled = values.mean(), self._weights @ values + np.outer(unseen, self._unseen)
        if over is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                value, sampled = np.divide(value, over.mean()), sampled / (self._weights @ over)
        if not np.isfinite(sampled).all():
            return Estimate(float(value), np.nan, np.nan)
        # With a negative denominator, the lower bound of a part gives the upper bound of its share.
        low, high = map(np.quantile, np.sort(sampled, axis=0), self._tails)
        return Estimate(float(value), float(low), float(high))


class SignFlips(NamedTuple):
    """The mean difference under random exchanges of the models, prompt by prompt."""

    p_value: float
    """Share of the flips, counting the observation, whose mean is at least as large in absolute value."""

    floor: float
    """Quantile of the absolute mean under flips at the given confidence: the noise floor."""


def sign_flip_test(differences: Values, confidence: float, seed: int) -> SignFlips:
    """Run a two-sided paired permutation test (Fisher 1935; Good 2005, section 3.2), exact up to the number of flips."""
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], size=(FLIPS, len(differences)))
    sizes = np.abs(signs @ differences) / len(differences)
    # Sums in a different order differ in the last digits.
    observed = abs(float(differences.mean())) * (1 - 1e-12)
    p_value = (1 + int((sizes >= observed).sum())) / (1 + FLIPS)
    return SignFlips(p_value, float(np.quantile(sizes, confidence)))
