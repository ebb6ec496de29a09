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
    1.00, and nothing else; of a share it gives the exact bounds of Clopper and Pearson (`behaviors.statistics.Resamples`).

    Args:
        block: What each item is resampled with.
        weights: Of each block in each resample, and of the unseen one: `unseen_weights`.
    """
    levels, level = np.unique(score, return_inverse=True)
    shape = weights.shape[1] - 1, len(levels)
    positives, negatives = [
        np.bincount(block[chosen] * shape[1] + level[chosen], minlength=shape[0] * shape[1])
        .reshape(shape)
        .astype(np.float64)
        for chosen in (positive, ~positive)
    ]
    value = float(area(positives.sum(axis=0), negatives.sum(axis=0)))
    if np.isnan(value):
        return Auroc(value, value, value)
    lowest, highest = 0, shape[1] - 1
    tail = (1 - confidence) / 2
    bounds = [
        np.quantile(
            _resampled(_with_unseen(positives, of_positives), _with_unseen(negatives, of_negatives), weights),
            end,
        )
        for of_positives, of_negatives, end in ((lowest, highest, tail), (highest, lowest, 1 - tail))
    ]
    return Auroc(value, *map(float, bounds))


def unseen_weights(
    n_samples: int, n_blocks: int, seed: int
) -> Float64[np.ndarray, "sample block_and_unseen"]:
    """Weights of the blocks and of one that is unseen, uniform on the simplex."""
    return np.random.default_rng(seed).dirichlet(np.ones(n_blocks + 1), size=n_samples)


def _with_unseen(
    counts: Float64[np.ndarray, "block level"], level: int
) -> Float64[np.ndarray, "block_and_unseen level"]:
    """The counts of one block more, with as many as a block that has any, all at one level."""
    unseen = np.zeros((1, counts.shape[1]))
    unseen[0, level] = counts.sum() / max(1, int(counts.any(axis=1).sum()))
    return np.concatenate([counts, unseen])


def _resampled(
    positives: Float64[np.ndarray, "block level"],
    negatives: Float64[np.ndarray, "block level"],
    weights: Float64[np.ndarray, "sample block"],
) -> Float64[np.ndarray, " sample"]:
    size = max(1, _ENTRIES // positives.shape[1])
    return np.concatenate(
        [
            area(*(weights[start : start + size] @ counts for counts in (positives, negatives)))
            for start in range(0, len(weights), size)
        ]
    )
