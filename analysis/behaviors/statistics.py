"""Intervals and tests over prompts: each is one observation, whatever was measured on it."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

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


class Resamples:
    """Bootstrap over prompts (Efron and Tibshirani 1993, chapter 13): the same resamples for all that is asked, so that ratios and
    differences are of the same prompts."""

    def __init__(self, n_prompts: int, confidence: float, seed: int) -> None:
        generator = np.random.default_rng([seed, n_prompts])
        counts = generator.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=RESAMPLES)
        self._weights = counts / n_prompts
        self._tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    def mean(self, values: Values) -> Estimate:
        """Mean over prompts."""
        return self._estimate(float(values.mean()), self._weights @ values)

    def ratio(self, numerator: Values, denominator: Values) -> Estimate:
        """Ratio of two means. Infinite or NaN where the denominator is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.divide(numerator.mean(), denominator.mean())
            sampled = (self._weights @ numerator) / (self._weights @ denominator)
        return self._estimate(float(value), sampled)

    def told(self, part: Values, whole: Values) -> dict[str, Any]:
        """A part of a shift, in the unit of its metric and as a share of the whole, for JSON."""
        return {"value": self.mean(part).as_dict(), "share": self.ratio(part, whole).as_dict()}

    def _estimate(self, value: float, sampled: Float64[np.ndarray, " resample"]) -> Estimate:
        if not np.isfinite(sampled).all():
            return Estimate(value, np.nan, np.nan)
        low, high = np.quantile(sampled, self._tails)
        return Estimate(value, float(low), float(high))


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
