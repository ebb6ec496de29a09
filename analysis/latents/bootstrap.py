"""Confidence intervals over documents, and resampling of them.

Tokens of one document are dependent, so documents are assigned to blocks, and a statistic is computed from the sums of its blocks as from
the whole. Leaving out one block at a time gives its influences,

    u_b = (n - 1) (θ - θ without block b)

whose mean has the uncertainty of the statistic (the jackknife: Efron and Tibshirani 1993, chapter 11). `mean_intervals` takes it from
there, with as many degrees of freedom as the blocks that carry the variance. n counts the blocks that the statistic depends on: a block in
which a latent never fires says something of its density and nothing of its latent scaling. A percentile bootstrap, in contrast, is short
where few documents have a latent, and never goes beyond the blocks that were seen. No second pass over the data is needed.

What has no influences, such as the number of latents with a label, resamples the blocks with multinomial weights `[sample, block]`.

If all items are equal, a bootstrap interval has no width. For a bounded quantity such as a share, `unseen_weights` adds one unseen item
with the lowest or the highest possible value: quantiles of Σ w_i x_(i) (Gaffke 2005; Learned-Miller and Thomas 2020). For shares these are
the exact bounds of Clopper and Pearson (1934).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from .latent_scaling import Moments
from .mean_intervals import effective_freedom, margins, sample_of

MIN_BLOCKS = 9
"""Blocks with tokens below which nothing is estimable. Eight documents never fill nine blocks; twelve, in 64 blocks, nearly always."""

MIN_FIRING_BLOCKS = 5
"""Blocks in which a latent has to fire for its numbers to be estimable; `crosscoder bench coverage` measures what that gives."""

RANGES = {"density": (0.0, 1.0), "relative_rate": (0.0, 1.0)}
"""Statistics that are shares of tokens by definition: their bounds stay within."""

_NO_INFLUENCE = 1e-9
"""Share of the largest influence: below it, a block has none."""

Statistic = Callable[[Moments], Tensor]
"""Computes one number per latent from moments; leading axes are kept."""


class Interval(NamedTuple):
    """Interval of each latent; NaN: not estimable."""

    low: Float[Tensor, " latent"]
    high: Float[Tensor, " latent"]


class BlockMoments(NamedTuple):
    """The input of statistics: sums that vary with the resample, and constants."""

    sums: Mapping[str, Float64[Tensor, "block latent"]]
    totals: Mapping[str, Float64[Tensor, " block"]]
    constants: Mapping[str, Float64[Tensor, " latent"]]

    def whole(self) -> dict[str, Tensor]:
        """Return the moments of all documents, each counted once."""
        n_blocks = len(self.totals["tokens"])
        return self.resampled(torch.ones(n_blocks, dtype=torch.float64), slice(None))

    def resampled(self, weights: Float64[Tensor, "*sample block"], latents: slice) -> dict[str, Tensor]:
        """Return the moments of the given latents with weighted blocks: `[*sample, latent]`, totals `[*sample, 1]`."""
        moments = {name: weights @ value[:, latents] for name, value in self.sums.items()}
        moments |= {name: (weights @ value).unsqueeze(-1) for name, value in self.totals.items()}
        return moments | {name: value[latents] for name, value in self.constants.items()}


def resample_weights(n_samples: int, n_blocks: int, seed: int) -> Float64[Tensor, "sample block"]:
    """Return how often each block occurs if `n_blocks` blocks are drawn with replacement."""
    draws = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_samples)
    return torch.from_numpy(draws.astype(np.float64))


def unseen_weights(
    n_samples: int, n_items: int, seed: int | Sequence[int]
) -> Float64[np.ndarray, "sample item_and_unseen"]:
    """Return weights of the items and, last, of one unseen item: uniform on the simplex."""
    return np.random.default_rng(seed).dirichlet(np.ones(n_items + 1), size=n_samples)


def block_intervals(
    moments: BlockMoments, statistics: Mapping[str, Statistic], confidence: float, chunk: int = 256
) -> dict[str, Interval]:
    """Return the interval of each statistic for all latents, computing `chunk` latents at a time.

    NaN: the latent fires in fewer than `MIN_FIRING_BLOCKS` blocks, the data have fewer than `MIN_BLOCKS`, or the statistic is not defined
    without one of the blocks.
    """
    filled = _filled_blocks(moments)
    n_latents = next(iter(moments.sums.values())).shape[1]
    parts: dict[str, list[_Bounds]] = {name: [] for name in statistics}
    n_blocks = len(filled)
    # One row for all blocks, and one without each block that has tokens.
    weights = torch.cat([torch.ones(1, n_blocks), 1 - torch.eye(n_blocks)[filled]]).double()
    for start in range(0, n_latents, chunk):
        latents = slice(start, start + chunk)
        left_out = moments.resampled(weights, latents)
        fires = _firing_blocks(moments, latents)[filled].numpy()
        for name, statistic in statistics.items():
            values = statistic(left_out).numpy()
            bounds = _jackknife(values[0], values[1:], fires, confidence)
            parts[name].append(bounds.clip(*RANGES.get(name, (-np.inf, np.inf))))
    joined = {name: torch.from_numpy(np.concatenate(found, axis=1)) for name, found in parts.items()}
    return {name: Interval(low, high) for name, (low, high) in joined.items()}


_Bounds = Float64[np.ndarray, "2 latent"]


def _filled_blocks(moments: BlockMoments) -> Bool[Tensor, " block"]:
    return torch.stack([value != 0 for value in moments.totals.values()]).any(dim=0)


def _firing_blocks(moments: BlockMoments, latents: slice) -> Bool[Tensor, "block latent"]:
    return torch.stack([value[:, latents] != 0 for value in moments.sums.values()]).any(dim=0)


def _jackknife(
    whole: Float64[np.ndarray, " latent"],
    without: Float64[np.ndarray, "block latent"],
    fires: Bool[np.ndarray, "block latent"],
    confidence: float,
) -> _Bounds:
    """Return both bounds of a statistic from its value on all blocks and without each of them."""
    change = whole - without
    counted = fires | (np.abs(change) > _NO_INFLUENCE * np.abs(change).max(axis=0))
    n = counted.sum(axis=0)
    influence = (n - 1) * change
    sample = sample_of(influence, counted)._replace(freedom=effective_freedom(influence, counted))
    below, above = margins(sample, confidence)
    enough = (fires.sum(axis=0) >= MIN_FIRING_BLOCKS) & (len(fires) >= MIN_BLOCKS)
    return np.where(enough, np.stack([whole - below, whole + above]), np.nan)
