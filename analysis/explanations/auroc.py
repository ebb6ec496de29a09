"""Area under the receiver operating characteristic: the chance that a positive gets a higher score than a negative, a tie counting
half (Hanley and McNeil 1982). 0.5 is what a score that knows nothing gets, 1 that of one that separates them.

Counted by blocks of documents and levels of the score, so that documents can be resampled (`intervals`) without sorting again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

# Entries that a resample of all levels may hold at a time.
_ENTRIES = 2**22


class Auroc(NamedTuple):
    """An estimate with its interval; NaN where there is no positive or no negative."""

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
    weights: Float64[np.ndarray, "sample block_and_unseen"],
    confidence: float,
) -> Auroc:
    """The area, with an interval over blocks.

    Each resample holds one block more, which nobody has seen: with as many positives and negatives as a block that has some, and all of
    them on the wrong side for the lower bound, on the right one for the upper. Without it, a handful of positives on the right side would be
    1.00, and nothing else (`intervals`).

    Args:
        block: What each item is resampled with.
        weights: Of each block in each resample, and of the unseen one: `intervals.unseen_weights`.
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
    """Areas of resamples of positives and negatives: the unseen block all wrong, and all right."""
    seen = [weights[:, :-1] @ count for count in counts]
    unseen = [weights[:, -1] * (count.sum() / count.any(axis=1).sum()) for count in counts]
    lowest, highest = 0, -1
    return np.stack(
        [area(*map(_more_at, seen, unseen, levels)) for levels in ((lowest, highest), (highest, lowest))]
    )


def _more_at(
    counts: Float64[np.ndarray, "sample level"], more: Float64[np.ndarray, " sample"], level: int
) -> Float64[np.ndarray, "sample level"]:
    """The counts with some more at one level."""
    found = counts.copy()
    found[:, level] += more
    return found
