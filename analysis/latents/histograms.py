"""Histograms of every latent's activations, one for each source of text, in one pass, though the largest activation is known only
at its end.

A latent counts in 32 bins from 0 to a power of two above its largest value so far, the same bins for every source; where a larger
value comes, neighboring bins are added up and the range doubles. The width of a bin is a power of two, so that this is exact: in
the end every value is in the bin of the final width that it lies in, whatever the order of the data, and the counts of all
sources add up to those of all tokens, bin by bin. Shown are the bins up to the one that holds the largest value, 17 to 32 of them.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents

from ..tables.columns import HISTOGRAMS

_BINS = 32


class ActivationHistograms:
    """Accumulator; memory 128 bytes a latent and source, whatever the number of tokens: 64 MiB for 65,536 latents and 8 sources.

    A bin holds at most 2³¹ − 1 firings of a latent.
    """

    def __init__(self, n_latents: int, n_sources: int = 1) -> None:
        self.counts = torch.zeros(n_latents, n_sources, _BINS, dtype=torch.int32)
        """Firings by latent, source and bin; the bins of a latent are `widths()` wide."""
        self.exponent = torch.full((n_latents,), -126, dtype=torch.int64)
        self.maximum = torch.zeros(n_latents, dtype=torch.float32)

    def update(self, sparse_latents: SparseLatents, source: Int64[Tensor, " token"]) -> None:
        """Add the firings of some tokens; `source` counts from 0."""
        latent, value = sparse_latents.latent.cpu(), sparse_latents.value.float().cpu()
        counted = self.maximum > 0
        self.maximum.scatter_reduce_(0, latent, value, "amax")
        # The smallest power of two that is larger than the maximum.
        needed = torch.frexp(self.maximum).exponent.long()
        self._widen(torch.where(self.maximum > 0, needed, self.exponent), counted)
        _, n_sources, n_bins = self.counts.shape
        bins = (torch.ldexp(value, -self.exponent[latent]) * n_bins).long()
        place = (latent * n_sources + source[sparse_latents.token.cpu()]) * n_bins + bins
        self.counts.view(-1).index_add_(0, place, torch.ones_like(place, dtype=torch.int32))

    def widths(self) -> Float64[Tensor, " latent"]:
        """Of the bins of each latent, in units of its values; the first begins at 0."""
        return torch.ldexp(torch.ones(len(self.exponent), dtype=torch.float64), self.exponent) / _BINS

    def used_bins(self) -> Int64[Tensor, " latent"]:
        """Bins up to the one that holds the largest value; none of a latent that never fired."""
        last = (self.maximum.double() / self.widths()).long()
        return torch.where(self.maximum > 0, last + 1, 0)

    def table(self, sources: Sequence[str], tokens: Int64[Tensor, " source"]) -> pa.Table:
        """histograms.parquet: of every latent that fired, one row a source. `tokens`: held-out tokens of each source."""
        used, widths = self.used_bins(), self.widths()
        alive = used.nonzero().squeeze(1)
        n_sources = len(sources)
        lengths = used[alive].repeat_interleave(n_sources)
        shown = torch.arange(_BINS) < lengths[:, None]
        offsets = np.concatenate([[0], np.cumsum(lengths.numpy())])
        counts = self.counts[alive].view(-1, _BINS)[shown]
        return HISTOGRAMS.build(
            {
                "latent": alive.repeat_interleave(n_sources).numpy(),
                "source": pa.array(sources, pa.string()).take(
                    pa.array(np.tile(np.arange(n_sources), len(alive)))
                ),
                "tokens": np.tile(tokens.numpy(), len(alive)),
                "width": widths[alive].repeat_interleave(n_sources).numpy(),
                "counts": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(counts.numpy())),
            }
        )

    def _widen(self, exponent: Int64[Tensor, " latent"], counted: Tensor) -> None:
        """Let each latent's range end at 2**exponent, where it ended below; `counted` says which have anything in their bins."""
        doublings = (exponent - self.exponent).clamp(min=0)
        # From the fifth doubling on everything that was counted is in the first bin.
        folds = doublings.clamp(max=_BINS.bit_length() - 1) * counted
        for fold in folds.unique().tolist():
            if fold:
                latents = (folds == fold).nonzero().squeeze(1)
                self.counts[latents] = _folded(self.counts[latents], 2**fold)
        self.exponent = torch.maximum(self.exponent, exponent)


def _folded(counts: Int32[Tensor, "latent source bin"], neighbors: int) -> Int32[Tensor, "latent source bin"]:
    """Counts in bins that are so many times as wide."""
    folded = torch.zeros_like(counts)
    folded[..., : _BINS // neighbors] = counts.unflatten(2, (-1, neighbors)).sum(dim=3)
    return folded
