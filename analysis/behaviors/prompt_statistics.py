"""Intervals and tests over prompts. Each prompt is one observation."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ..latents.bootstrap import unseen_weights
from ..latents.mean_intervals import margins, sample_of, zero_mean_p_value
from .mean_ratio import ratio_bounds

MIN_PROMPTS = 12
"""Fewer prompts have no interval, and establish nothing: below, intervals of skewed values are short (`crosscoder bench coverage`)."""

UNSEEN = 0.1
"""Largest share of prompts of a kind that may be missing from the sample, for a metric without bounds: see `prompts_to_see`."""

RESAMPLES = 2000
"""Resamples of a bounded metric; more for a confidence that they would not resolve."""

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


def prompts_to_see(share: float, confidence: float) -> int:
    """Return how many prompts show at least one of a kind that makes up this share of them, with this confidence.

    It is the sample size of a tolerance interval with one end (Wilks 1941): 29 for a tenth and 95 %. With fewer, one prompt in ten may be
    of a kind that nobody has seen, and nothing bounds the mean of a metric without bounds.
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - share))


class Resamples:
    """Intervals over prompts: NaN (not estimable) with fewer than `MIN_PROMPTS` prompts.

    For a metric without bounds, they are intervals of Student and Hall (`latents.mean_intervals`), and of Fieller for ratios
    (`mean_ratio`); equal values have an interval if a share of `unseen` of other values would have been seen. For a bounded metric such as
    a share of answers, values are resampled, each time with one unseen prompt (`latents.bootstrap`): 40 refusals of 40 are then 100 % (91 to
    100), where a plain bootstrap or Student's t has no width. All bounded statistics use the same resamples, so ratios and differences are
    paired.
    """

    def __init__(
        self,
        n_prompts: int,
        confidence: float,
        seed: int,
        bounds: Bounds | None = None,
        unseen: float = UNSEEN,
    ) -> None:
        self._n_prompts, self._confidence, self._bounds = n_prompts, confidence, bounds
        self._tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        self._sees_others = n_prompts >= prompts_to_see(unseen, confidence)
        if bounds is not None:
            self._n_resamples = max(RESAMPLES, math.ceil(4 / (1 - confidence)))
            weights = unseen_weights(self._n_resamples, n_prompts, [seed, n_prompts])
            self._weights, self._unseen = weights[:, :-1], weights[:, -1]
            self._gap = bounds[0] - bounds[1], bounds[1] - bounds[0]

    def mean(self, values: Values) -> Estimate:
        """Return the mean of the metric over prompts."""
        return self._mean(values, self._bounds)

    def difference(self, values: Values) -> Estimate:
        """Return the mean over prompts of a difference of two values of the metric."""
        return self._mean(values, self._bounds and self._gap)

    def ratio(self, numerator: Values, denominator: Values) -> Estimate:
        """Return the ratio of the means of two differences; infinite or NaN if the denominator is 0, without interval if it may be.

        For a bounded metric, the unseen prompt adds the largest possible difference to the numerator and nothing to the denominator: the
        most conservative choice for a ratio of at most 1.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.divide(numerator.mean(), denominator.mean()))
        if self._n_prompts < MIN_PROMPTS or not np.isfinite(value):
            return Estimate(value, np.nan, np.nan)
        if self._bounds is None:
            return Estimate(value, *ratio_bounds(numerator, denominator, self._confidence))
        below = self._weights @ denominator
        # With a denominator of uncertain sign, any ratio is possible.
        if np.mean(below * denominator.mean() <= 0) > self._tails[0]:
            return Estimate(value, np.nan, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            sampled = self._with_unseen(numerator, self._gap) / below[:, None]
        return Estimate(value, *self._quantiles(sampled))

    def p_value(self, differences: Values) -> float:
        """Return the two-sided p-value of a mean difference of 0: the largest 1 - confidence at which its interval contains 0.

        1 with fewer than three prompts without bounds; at 95 % at least 0.001 with bounds.
        """
        if self._bounds is None:
            return zero_mean_p(differences)
        lows, highs = self._with_unseen(differences, self._gap).T
        reaching = min(int((lows <= 0).sum()), int((highs >= 0).sum()))
        return min(1.0, 2 * (1 + reaching) / (1 + self._n_resamples))

    def value_and_share(self, part: Values, whole: Values) -> dict[str, Any]:
        """Return a part of a shift in the unit of its metric and as a share of the shift, for JSON."""
        return {"value": self.difference(part).as_dict(), "share": self.ratio(part, whole).as_dict()}

    def _mean(self, values: Values, bounds: Bounds | None) -> Estimate:
        value = float(values.mean())
        if self._n_prompts < MIN_PROMPTS:
            return Estimate(value, np.nan, np.nan)
        if bounds is not None:
            return Estimate(value, *self._quantiles(self._with_unseen(values, bounds)))
        if np.ptp(values) == 0 and not self._sees_others:
            return Estimate(value, np.nan, np.nan)
        below, above = margins(sample_of(values[:, None]), self._confidence)
        return Estimate(value, value - float(below[0]), value + float(above[0]))

    def _with_unseen(self, values: Values, bounds: Bounds) -> Float64[np.ndarray, "resample 2"]:
        """Return the resampled means, with the unseen prompt at the lower and at the upper bound."""
        return (self._weights @ values)[:, None] + np.outer(self._unseen, bounds)

    def _quantiles(self, sampled: Float64[np.ndarray, "resample 2"]) -> tuple[float, float]:
        # With a negative denominator, the lower bound of a part gives the upper bound of its share.
        low, high = map(np.quantile, np.sort(sampled, axis=1).T, self._tails)
        return float(low), float(high)


def zero_mean_p(values: Values) -> float:
    """Return the two-sided p-value of a mean of 0 for values without bounds, skewed or not; 1 with fewer than three values.

    Unlike sign flips it does not assume that values above and below the mean are alike.
    """
    return float(zero_mean_p_value(sample_of(values[:, None]))[0]) if len(values) > 2 else 1.0


class SignFlips(NamedTuple):
    """The mean difference under random exchanges of the models, prompt by prompt."""

    p_value: float
    """Share of the flips, counting the observation, whose mean is at least as large in absolute value."""

    floor: float
    """Quantile of the absolute mean under flips at the given confidence: the noise floor."""


def sign_flip_test(differences: Values, confidence: float, seed: int) -> SignFlips:
    """Run a two-sided paired permutation test (Fisher 1935; Good 2005, section 3.2), exact up to the number of flips.

    It tests that exchanging the models changes nothing. A mean of 0 is less than that: skewed differences with a mean of 0 are rejected too
    often, so shifts are tested with `Resamples.p_value`.
    """
    kept = np.random.default_rng([seed, 1]).integers(0, 2, (FLIPS, len(differences)), dtype=np.int8)
    # Kept ones minus flipped ones.
    sizes = np.abs(2 * (kept.astype(np.float64) @ differences) - differences.sum()) / len(differences)
    # Sums in a different order differ in the last digits.
    observed = abs(float(differences.mean())) * (1 - 1e-12)
    p_value = (1 + int((sizes >= observed).sum())) / (1 + FLIPS)
    return SignFlips(p_value, float(np.quantile(sizes, confidence)))
