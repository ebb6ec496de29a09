"""Tests and intervals for how often answers show an effect.

Both models answer each prompt once, and draw independently. If they answer alike, a prompt on which just one of the two answers
shows the effect is as likely to be the one model's as the other's, whatever the prompt: the exact test of McNemar (1947). Rates have
Wilson's interval (1927), their difference that of Newcombe (1998, "Interval estimation for the difference between independent
proportions", method 10): the answers to one prompt vary together, which makes it wider than it has to be. The area under the ROC
curve has the interval of Newcombe (2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic",
method 5), which does not shrink to a point if the separation is perfect.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import root_scalar
from scipy.special import rel_entr
from scipy.stats import binom, binomtest, hypergeom, norm, rankdata

from .findings_file import Rate, Rates

Shown = Bool[np.ndarray, " prompt"]
"""Whether the answer to each prompt shows an effect."""

_LEVEL = 0.95
_Z = float(norm.ppf(0.5 + _LEVEL / 2))


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(count: int, n: int) -> Interval:
    """Return a share with Wilson's interval; 0 to 1 without answers."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    bounds = binomtest(count, n).proportion_ci(_LEVEL, method="wilson")
    return Interval(count / n, float(bounds.low), float(bounds.high))


def difference(more: int, less: int, n: int) -> Interval:
    """Return the difference of two shares of n answers with Newcombe's interval."""
    one, other = wilson(more, n), wilson(less, n)
    value = one.value - other.value
    low = math.hypot(one.value - one.low, other.high - other.value)
    high = math.hypot(one.high - one.value, other.value - other.low)
    return Interval(value, max(-1.0, value - low), min(1.0, value + high))


def rates_of(reference: Shown, intervened: Shown) -> Rates:
    """Return the rates of both models on the same prompts."""
    return Rates(n=len(reference), reference=_rate(reference), intervened=_rate(intervened))


def more_often(more: Shown, less: Shown) -> float:
    """Return the exact one-sided p-value of the hypothesis that the first answers show the effect no more often than the second."""
    only_more, only_less = int((more & ~less).sum()), int((less & ~more).sum())
    return float(binom.sf(only_more - 1, only_more + only_less, 0.5))


def depends_on(shown: Shown, condition: Bool[np.ndarray, " prompt"]) -> float:
    """Return Fisher's exact one-sided p-value of the hypothesis that `shown` is no more frequent where the condition holds."""
    together = int((shown & condition).sum())
    return float(hypergeom.sf(together - 1, len(shown), int(shown.sum()), int(condition.sum())))


def information(count: int, other: int, n: int) -> float:
    """Return the nats that an effect tells about which of two models gave an answer, over n answers of each: half of the G statistic of
    the two-by-two table (Sokal and Rohlf, "Biometry", section 17.1)."""
    found = np.array([[count, n - count], [other, n - other]], dtype=np.float64)
    expected = np.broadcast_to(found.mean(axis=0), found.shape)
    return float(rel_entr(found, expected).sum())


def auroc(positive: Bool[np.ndarray, " prompt"], score: Float64[np.ndarray, " prompt"]) -> Interval | None:
    """Return the probability that a positive scores higher than a negative, ties counting half; None without one of the two."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    ranks = rankdata(score)
    area = float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
    return Interval(area, _area_bound(area, n, m, -1), _area_bound(area, n, m, 1))


def _area_bound(area: float, n: int, m: int, side: int) -> float:
    """Solve |θ − area| = z √variance(θ) on one side of the area."""
    extra = (n + m) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + extra * (1 - theta) / (2 - theta) + extra * theta / (1 + theta)
        return side * (theta - area) - _Z * math.sqrt(theta * (1 - theta) * spread / (n * m))

    end = float(side > 0)
    if area == end:
        return end
    inner = area + side * 1e-12
    return float(root_scalar(excess, bracket=(inner, end)).root) if excess(inner) < 0 else area


def _rate(shown: Shown) -> Rate:
    value, low, high = wilson(int(shown.sum()), len(shown))
    return Rate(count=int(shown.sum()), value=value, low=low, high=high)
