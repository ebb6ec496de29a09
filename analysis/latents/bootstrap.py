"""Confidence intervals by a block bootstrap over documents.

Tokens of one document are dependent, so blocks of documents are resampled. Multinomial weights `[sample, block]` times the sums of each
block give the sums of a resample, and a statistic is computed from them as from the whole (Efron and Tibshirani 1993, chapter 13:
percentile intervals). It is seeded and needs no second pass over the data.

If all items are equal, a bootstrap interval has no width. For a bounded quantity such as a share, `unseen_weights` adds one unseen item
with the lowest or the highest possible value: quantiles of Σ w_i x_(i) (Gaffke 2005; Learned-Miller and Thomas 2020). For shares these are
the exact bounds of Clopper and Pearson (1934).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .latent_scaling import Moments

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


def bootstrap_intervals(
    moments: BlockMoments,
    statistics: Mapping[str, Statistic],
    weights: Float64[Tensor, "sample block"],
    confidence: float,
    chunk: int = 256,
) -> dict[str, Interval]:
    """Return percentile intervals of each statistic for all latents, computing `chunk` latents at a time.

    A statistic that is NaN in some resamples could have any value there. If such resamples are more than the share cut off at one end, the
    interval is NaN.
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
    """Return both percentiles, by linear interpolation between the order statistics that are not NaN."""
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
