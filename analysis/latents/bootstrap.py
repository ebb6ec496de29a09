"""Intervals by a block bootstrap over documents.

Tokens of one document depend on each other, so documents are resampled, in blocks: weights `[sample, block]` from a
multinomial distribution times the sums of each block are the sums of a resample, and a statistic of sums is computed on
those as on the whole (Efron and Tibshirani 1993, chapter 13: percentile intervals). Seeded, no second pass over the data.

A bootstrap of items that all agree has no width. Where what is measured has bounds, as a share has, `unseen_weights` weigh one item more,
which nobody has seen and which is as low, or as high, as it can be: quantiles of Σ w_i x_(i) (Gaffke 2005; Learned-Miller and Thomas 2020). Of
shares these are the exact bounds of Clopper and Pearson (1934).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .latent_scaling import Moments

Statistic = Callable[[Moments], Tensor]
"""From moments to one number a latent, with whatever axes come before."""


class Interval(NamedTuple):
    """Bounds for each latent; NaN where they cannot be estimated."""

    low: Float[Tensor, " latent"]
    high: Float[Tensor, " latent"]


class BlockMoments(NamedTuple):
    """What statistics are computed from: sums that a resample changes, and constants that it does not."""

    sums: Mapping[str, Float64[Tensor, "block latent"]]
    totals: Mapping[str, Float64[Tensor, " block"]]
    constants: Mapping[str, Float64[Tensor, " latent"]]

    def whole(self) -> dict[str, Tensor]:
        """The moments of all documents, each counted once."""
        n_blocks = len(self.totals["tokens"])
        return self.resampled(torch.ones(n_blocks, dtype=torch.float64), slice(None))

    def resampled(self, weights: Float64[Tensor, "*sample block"], latents: slice) -> dict[str, Tensor]:
        """The moments of the given latents, with the blocks weighted: `[*sample, latent]`, totals `[*sample, 1]`."""
        moments = {name: weights @ value[:, latents] for name, value in self.sums.items()}
        moments |= {name: (weights @ value).unsqueeze(-1) for name, value in self.totals.items()}
        return moments | {name: value[latents] for name, value in self.constants.items()}


def resample_weights(n_samples: int, n_blocks: int, seed: int) -> Float64[Tensor, "sample block"]:
    """How often each block is drawn when as many blocks as there are are drawn with replacement."""
    draws = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_samples)
    return torch.from_numpy(draws.astype(np.float64))


def unseen_weights(
    n_samples: int, n_items: int, seed: int | Sequence[int]
) -> Float64[np.ndarray, "sample item_and_unseen"]:
    """Weights of some items and, in the last place, of one that nobody has seen: uniform on the simplex."""
    return np.random.default_rng(seed).dirichlet(np.ones(n_items + 1), size=n_samples)


def bootstrap_intervals(
    moments: BlockMoments,
    statistics: Mapping[str, Statistic],
    weights: Float64[Tensor, "sample block"],
    confidence: float,
    chunk: int = 256,
) -> dict[str, Interval]:
    """Percentile intervals of each statistic for all latents, `chunk` latents at a time.

    A statistic that cannot be estimated in some resamples (NaN) might lie anywhere in them: where they are more than the
    share cut off at one end, the interval is NaN.
    """
    n_latents = next(iter(moments.sums.values())).shape[1]
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in statistics}
    for start in range(0, n_latents, chunk):
        sampled = moments.resampled(weights, slice(start, start + chunk))
        for name, statistic in statistics.items():
            parts[name].append(_percentiles(statistic(sampled), confidence))
    return {
        name: Interval(torch.cat([low for low, _ in bounds]), torch.cat([high for _, high in bounds]))
        for name, bounds in parts.items()
    }


def _percentiles(
    values: Float[Tensor, "sample latent"], confidence: float
) -> tuple[Float[Tensor, " latent"], Float[Tensor, " latent"]]:
    """Linear interpolation between order statistics of those values that are not NaN."""
    tail = (1 - confidence) / 2
    shares = [tail, 1 - tail]
    by_latent = np.ascontiguousarray(values.numpy().T)
    missing = np.isnan(by_latent).mean(axis=1)
    bounds = np.full((2, len(by_latent)), np.nan)
    whole, partly = missing == 0, (missing > 0) & (missing <= tail)
    if whole.any():
        bounds[:, whole] = np.quantile(by_latent[whole], shares, axis=1)
    if partly.any():
        bounds[:, partly] = np.nanquantile(by_latent[partly], shares, axis=1)
    return torch.from_numpy(bounds[0]), torch.from_numpy(bounds[1])
