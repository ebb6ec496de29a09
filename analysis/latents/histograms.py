"""Histograms of every latent's activations per text source, in one pass, without knowing the largest activation in advance.

Each latent has 32 bins from 0 to a power of two above its largest value so far, the same for every source. When a larger value occurs,
neighboring bins are merged and the range doubles. Bin widths are powers of two, so this is exact: the result does not depend on the order
of the data, and the counts of all sources add up, bin by bin, to those of all tokens. The table keeps the bins up to the one with the
largest value, 17 to 32 of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents

from ..tables.columns import HISTOGRAMS

_BINS = 32


class ActivationHistograms:
    """Accumulates histograms in 128 bytes per latent and source, for any number of tokens: 64 MiB for 65,536 latents and 8 sources.

    A bin counts at most 2³¹ − 1 firings.
    """

    def __init__(self, n_latents: int, n_sources: int = 1) -> None:
        self.counts = torch.zeros(n_latents, n_sources, _BINS, dtype=torch.int32)
        """Firings by latent, source and bin; `widths` gives the bin width of each latent."""
        self.exponent = torch.full((n_latents,), -126, dtype=torch.int64)
        self.maximum = torch.zeros(n_latents, dtype=torch.float32)

    def update(self, sparse_latents: SparseLatents, source: Int64[Tensor, " token"]) -> None:
        """Add the firings of a batch; `source` is the index of each token's source."""
        latent, value = sparse_latents.latent.cpu(), sparse_latents.value.float().cpu()
        counted = self.maximum > 0
        self.maximum.scatter_reduce_(0, latent, value, "amax")
        # The smallest power of two that is larger than the maximum.
        needed = torch.frexp(self.maximum).exponent.long()
        self._widen(torch.where(self.maximum > 0, needed, self.exponent), counted)
        _, n_sources, n_bins = self.counts.shape
        bins = (torch.ldexp(value, -self.exponent[latent]) * n_bins).long()
        index = (latent * n_sources + source[sparse_latents.token.cpu()]) * n_bins + bins
        self.counts.view(-1).index_add_(0, index, torch.ones_like(index, dtype=torch.int32))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `join` in another process."""
        return {"counts": self.counts, "exponent": self.exponent, "maximum": self.maximum}

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the firings that another process counted."""
        n_latents, n_sources, _ = self.counts.shape
        other = ActivationHistograms(n_latents, n_sources)
        # A copy, because it is folded in place.
        other.counts, other.exponent, other.maximum = (
            tensors[name].clone() for name in ("counts", "exponent", "maximum")
        )
        for one, wider in ((self, other.exponent), (other, self.exponent)):
            one._widen(wider, one.maximum > 0)
        self.counts += other.counts
        self.maximum = torch.maximum(self.maximum, other.maximum)

    def widths(self) -> Float64[Tensor, " latent"]:
        """Return the bin width of each latent, in units of its values; the first bin starts at 0."""
        return torch.ldexp(torch.ones(len(self.exponent), dtype=torch.float64), self.exponent) / _BINS

    def used_bins(self) -> Int64[Tensor, " latent"]:
        """Return the number of bins up to the one with the largest value; 0 for a latent that never fired."""
        last = (self.maximum.double() / self.widths()).long()
        return torch.where(self.maximum > 0, last + 1, 0)

    def table(self, sources: Sequence[str], tokens: Int64[Tensor, " source"]) -> pa.Table:
        """Return histograms.parquet: one row per source for every latent that fired. `tokens`: held-out tokens of each source."""
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
        """Extend the range of each latent to at least 2**exponent; `counted`: latents with nonempty bins."""
        doublings = (exponent - self.exponent).clamp(min=0)
        # After five doublings, everything counted so far is in the first bin.
        folds = doublings.clamp(max=_BINS.bit_length() - 1) * counted
        for fold in folds.unique().tolist():
            if fold:
                latents = (folds == fold).nonzero().squeeze(1)
                self.counts[latents] = _folded(self.counts[latents], 2**fold)
        self.exponent = torch.maximum(self.exponent, exponent)


def _folded(counts: Int32[Tensor, "latent source bin"], neighbors: int) -> Int32[Tensor, "latent source bin"]:
    """Return the counts in bins that are `neighbors` times as wide."""
    folded = torch.zeros_like(counts)
    folded[..., : _BINS // neighbors] = counts.unflatten(2, (-1, neighbors)).sum(dim=3)
    return folded
