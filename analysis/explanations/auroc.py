"""Area under the receiver operating characteristic: the probability that a positive scores higher than a negative, with ties counting
half (Hanley and McNeil 1982). An uninformative score gets 0.5, a perfect one 1.

Positives and negatives are counted by block of documents and level of the score, so documents are resampled (`bootstrap`) without
sorting again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

# Maximum number of entries (resamples times levels) in memory at once.
_ENTRIES = 2**22


class Auroc(NamedTuple):
    """An estimate with its interval; NaN without positives or without negatives."""

    value: float
    low: float
    high: float


def area(
    positive: Float[np.ndarray, "*sample level"], negative: Float[np.ndarray, "*sample level"]
) -> Float64[np.ndarray, "*sample"]:
    """Return the area from the numbers of positives and negatives at each level of the score, lowest first."""
    below = np.cumsum(negative, axis=-1) - negative
    won = (positive * (below + negative / 2)).sum(axis=-1)
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    return np.divide(won, pairs, out=np.full(np.shape(won), np.nan), where=pairs > 0)


def auroc(
    positive: Bool[np.ndarray, " item"],
    score: Shaped[np.ndarray, " item"],
    block: Int64[np.ndarray, " item"],
    weights: Float64[np.ndarray, "sample block_and_unseen"],
    confidence: float,
) -> Auroc:
    """Return the area with an interval over blocks.

    Each resample contains one additional, unseen block. It has the average number of positives and negatives of the blocks that have any,
    all misordered for the lower bound and all ordered correctly for the upper. Without it, a few correctly ordered positives would give
    an interval from 1.00 to 1.00 (`bootstrap`).

    Args:
        block: The block that each item is resampled with.
        weights: Weight of each block and of the unseen block in each resample: `bootstrap.unseen_weights`.
    """
    levels, level = np.unique(score, return_inverse=True)
    shape = weights.shape[1] - 1, len(levels)
    counts = [
        np.bincount(block[chosen] * shape[1] + level[chosen], minlength=shape[0] * shape[1])
        .reshape(shape)
        .astype(np.float64)
        for chosen in (positive, ~positive)
    ]
    value = float(area(*(count.sum(axis=0) for count in counts)))
    if np.isnan(value):
        return Auroc(value, value, value)
    size = max(1, _ENTRIES // shape[1])
    sampled = np.concatenate(
        [_both_ends(counts, weights[start : start + size]) for start in range(0, len(weights), size)], axis=1
    )
    tail = (1 - confidence) / 2
    low, high = map(np.quantile, sampled, (tail, 1 - tail))
    return Auroc(value, float(low), float(high))


def _both_ends(
    counts: Sequence[Float64[np.ndarray, "block level"]],
    weights: Float64[np.ndarray, "sample block_and_unseen"],
) -> Float64[np.ndarray, "2 sample"]:
    """Return the areas of the resamples with the unseen block all misordered, and with it all ordered correctly."""
    seen = [weights[:, :-1] @ count for count in counts]
    unseen = [weights[:, -1] * (count.sum() / count.any(axis=1).sum()) for count in counts]
    lowest, highest = 0, -1
    return np.stack(
        [area(*map(_add_at_level, seen, unseen, levels)) for levels in ((lowest, highest), (highest, lowest))]
    )


def _add_at_level(
    counts: Float64[np.ndarray, "sample level"], more: Float64[np.ndarray, " sample"], level: int
) -> Float64[np.ndarray, "sample level"]:
    """Return the counts with `more` added at one level."""
    found = counts.copy()
    found[:, level] += more
    return found
