"""The interval of a ratio of two means over the same prompts, by inverting a test (Fieller 1954).

A ratio r is in the interval if the mean of numerator - r · denominator may be 0. The residuals' mean, variance and third moment are
polynomials in r, so no prompt is read again for another r.
"""

import math

import numpy as np
from jaxtyping import Float64
from scipy.stats import t as student

from ..latents.mean_intervals import skewness_correction, transformed

_DOUBLINGS = 200
_HALVINGS = 60


def ratio_bounds(
    numerator: Float64[np.ndarray, " prompt"], denominator: Float64[np.ndarray, " prompt"], confidence: float
) -> tuple[float, float]:
    """Return both bounds of mean(numerator) / mean(denominator) for at least three prompts.

    They are equal if the numerator is the same multiple of the denominator everywhere, and NaN if the denominator's mean may be 0.
    """
    ratio = float(numerator.mean() / denominator.mean())
    residuals = _Residuals(numerator - ratio * denominator, denominator, confidence)
    scale = math.sqrt(float(np.mean(numerator**2 + (ratio * denominator) ** 2)))
    if residuals.deviation <= 1e-12 * scale:
        return ratio, ratio
    if not residuals.denominator_differs_from_zero():
        return math.nan, math.nan
    return ratio - residuals.reach(-1), ratio + residuals.reach(1)


class _Residuals:
    """Tests that the mean of numerator - (ratio + δ) · denominator is 0, for any δ."""

    def __init__(
        self,
        residual: Float64[np.ndarray, " prompt"],
        denominator: Float64[np.ndarray, " prompt"],
        confidence: float,
    ) -> None:
        self._n = float(len(residual))
        self._limit = float(student.ppf((1 + confidence) / 2, self._n - 1))
        self._mean = float(denominator.mean())
        one, other = residual - residual.mean(), denominator - denominator.mean()
        self._second = [float(np.mean(product)) for product in (one * one, one * other, other * other)]
        self._third = [
            float(np.mean(product)) for product in (one**3, one * one * other, one * other * other, other**3)
        ]
        self.deviation = math.sqrt(self._second[0])

    def denominator_differs_from_zero(self) -> bool:
        return self._differs(self._mean, self._second[2], self._third[3])

    def reach(self, side: int) -> float:
        """Return the distance from the ratio to the bound on one side: the first δ whose residuals differ from 0."""
        inside, outside = 0.0, self.deviation / (abs(self._mean) * math.sqrt(self._n))
        for _ in range(_DOUBLINGS):
            if self._rejects(side * outside):
                break
            inside, outside = outside, 2 * outside
        else:
            return math.inf
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if self._rejects(side * middle) else (middle, outside)
        return outside

    def _rejects(self, delta: float) -> bool:
        own, both, other = self._second
        variance = own - 2 * delta * both + delta**2 * other
        third = (
            self._third[0]
            - 3 * delta * self._third[1]
            + 3 * delta**2 * self._third[2]
            - delta**3 * self._third[3]
        )
        return self._differs(-delta * self._mean, variance, third)

    def _differs(self, mean: float, variance: float, third: float) -> bool:
        """Whether residuals with these moments have a mean other than 0, as in `mean_intervals.zero_mean_p_value`."""
        if variance <= 0:
            return mean != 0
        skewness = third / variance**1.5 * skewness_correction(self._n)
        relative = mean / math.sqrt(variance * self._n / (self._n - 1))
        statistics = (relative, transformed(relative, skewness, self._n))
        return min(map(abs, statistics)) * math.sqrt(self._n) > self._limit
