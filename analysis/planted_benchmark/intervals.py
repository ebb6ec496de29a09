"""Intervals of shares of labels, for labels that come in clusters: those of one pair are not independent."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.optimize import minimize_scalar, root_scalar
from scipy.special import betaln, gammaln, xlog1py, xlogy
from scipy.stats import t

# Correlations of two labels of a pair over which the likelihood is maximized; 0 is the binomial distribution.
_CORRELATIONS = np.concatenate([[0.0], np.geomspace(1e-3, 1 - 1e-3, 40)])
_HALF = np.geomspace(1e-9, 0.5, 30)
_GRID = np.concatenate([_HALF, 1 - _HALF[-2::-1]])


def clustered_share(
    counts: Sequence[int], totals: Sequence[int], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the share of counted labels and its interval by the profile likelihood of the beta-binomial distribution.

    Labels of one cluster (a pair with all trainings on it) have one unknown share, which is beta-distributed over clusters (Williams
    1975). The interval holds the mean shares whose likelihood, with the best correlation within clusters, is near enough to
    the largest one (Venzon and Moolgavkar 1988). With few clusters it has to be nearer to count as far: the limit is that of Student's t with
    one degree of freedom less than clusters, squared, in place of χ². Where nothing is counted, the correlation is unknown and the
    interval is that of clusters which err as a whole: 0 of 200 labels from five pairs says little more than 0 of 5.

    Args:
        counts: Counted labels of each cluster.
        totals: Labels of each cluster; clusters without any are left out.

    Returns:
        The share, and the lower and upper bound; (nan, 0, 1) without labels, and bounds 0 and 1 with a single cluster.
    """
    clusters = Counter((count, total) for count, total in zip(counts, totals, strict=True) if total)
    if not clusters:
        return math.nan, 0.0, 1.0
    k, n, weight = (
        np.array(column) for column in zip(*((*key, w) for key, w in clusters.items()), strict=True)
    )
    share = float((k * weight).sum() / (n * weight).sum())
    n_clusters = int(weight.sum())
    if n_clusters == 1:
        return share, 0.0, 1.0
    allowed = float(t.ppf((1 + confidence) / 2, n_clusters - 1)) ** 2 / 2
    profile = partial(_profile, k=k, n=n, weight=weight)
    values = np.array([profile(mean) for mean in _GRID])
    best = int(np.clip(values.argmax(), 1, len(_GRID) - 2))
    top = minimize_scalar(
        lambda mean: -profile(mean), bounds=(_GRID[best - 1], _GRID[best + 1]), method="bounded"
    )
    floor, middle = max(-float(top.fun), values.max()) - allowed, float(top.x)

    def height(mean: float) -> float:
        return profile(mean) - floor

    low, high = 0.0, 1.0
    if values[0] < floor:
        low = root_scalar(height, bracket=(_GRID[0], middle)).root
    if values[-1] < floor:
        high = root_scalar(height, bracket=(middle, _GRID[-1])).root
    return share, low, high


def _profile(mean: float, k: np.ndarray, n: np.ndarray, weight: np.ndarray) -> float:
    """Return the log likelihood of a mean share with the best correlation within clusters."""
    binomial = xlogy(k, mean) + xlog1py(n - k, -mean)
    # a + b = (1 - ρ) / ρ
    size = (1 - _CORRELATIONS[1:, None]) / _CORRELATIONS[1:, None]
    a, b = mean * size, (1 - mean) * size
    mixed = betaln(k + a, n - k + b) - betaln(a, b)
    likelihoods = (
        np.concatenate([binomial[None], mixed]) + gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    )
    return float((likelihoods @ weight).max())
