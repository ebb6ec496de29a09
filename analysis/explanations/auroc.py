"""Area under the receiver operating characteristic: the chance that a positive gets a higher score than a negative, a tie counting
half (Hanley and McNeil 1982). 0.5 is what a score that knows nothing gets, 1 that of one that separates them.

Counted by blocks of documents and levels of the score, so that documents can be resampled (`intervals`) without sorting again.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

# Entries that a resample of all levels may hold at a time.
_ENTRIES = 2**22


class Auroc(NamedTuple):
    """An estimate with its interval; NaN where there is no positive or no negative, or in too many resamples none."""

    value: float
    low: float
    high: float


def area(
    positive: Float[np.ndarray, "*sample level"], negative: Float[np.ndarray, "*sample level"]
) -> Float64[np.ndarray, "*sample"]:
    """From how many positives and negatives have each level of the score, the lowest first."""
    below = np.cumsum(negative, axis=-1) - negative
    won = (positive * (below + negative / 2)).sum(axis=-1)
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    return np.divide(won, pairs, out=np.full(np.shape(won), np.nan), where=pairs > 0)


def auroc(
    positive: Bool[np.ndarray, " item"],
    score: Shaped[np.ndarray, " item"],
    block: Int64[np.ndarray, " item"],
    weights: Float64[np.ndarray, "sample block"],
    confidence: float,
) -> Auroc:
    """The area, with a percentile interval of resampled blocks.

    Args:
        block: What each item is resampled with.
        weights: How often each block is drawn in each resample.
    """
    levels, level = np.unique(score, return_inverse=True)
    shape = weights.shape[1], len(levels)
    counts = [
        np.bincount(block[chosen] * shape[1] + level[chosen], minlength=shape[0] * shape[1])
        .reshape(shape)
        .astype(np.float64)
        for chosen in (positive, ~positive)
    ]
    value = float(area(*(count.sum(axis=0) for count in counts)))
    size = max(1, _ENTRIES // max(shape[1], 1))
    sampled = np.concatenate(
        [
            area(*(weights[start : start + size] @ count for count in counts))
            for start in range(0, len(weights), size)
        ]
    )
    return Auroc(value, *percentile_interval(sampled, confidence))


def percentile_interval(sampled: Float64[np.ndarray, " sample"], confidence: float) -> tuple[float, float]:
    """NaN where more of the resamples cannot be estimated than are cut off at one end: they might lie anywhere."""
    tail = (1 - confidence) / 2
    if np.isnan(sampled).mean() > tail:
        return float("nan"), float("nan")
    low, high = np.nanquantile(sampled, [tail, 1 - tail])
    return float(low), float(high)
