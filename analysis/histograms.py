"""Histograms of every latent's activations in one pass, though the largest activation is known only at its end.

Each latent counts in fine bins of equal width from 0 to a power of two above its largest value so far; where a larger
value comes, neighboring bins are added up and the range doubles. That is exact: the same counts in any order of the data.
"""

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from crosscoder.firings import Firings

_FINE_BINS = 256


class ActivationHistograms:
    """Accumulator; memory 1 KiB a latent."""

    def __init__(self, n_latents: int) -> None:
        self.counts = torch.zeros(n_latents, _FINE_BINS, dtype=torch.int32)
        self.exponent = torch.full((n_latents,), -126, dtype=torch.int64)
        self.maximum = torch.zeros(n_latents, dtype=torch.float32)

    def update(self, firings: Firings) -> None:
        """Add the firings of some tokens."""
        latent, value = firings.latent.cpu(), firings.value.float().cpu()
        self.maximum.scatter_reduce_(0, latent, value, "amax")
        # The smallest power of two that is larger than the maximum.
        needed = torch.frexp(self.maximum).exponent.long()
        self._widen(torch.where(self.maximum > 0, needed, self.exponent))
        fine = (torch.ldexp(value, -self.exponent[latent]) * _FINE_BINS).long().clamp(max=_FINE_BINS - 1)
        ones = torch.ones_like(fine, dtype=torch.int32)
        self.counts.view(-1).index_add_(0, latent * _FINE_BINS + fine, ones)

    def result(self, latent: int, bins: int = 20) -> tuple[Float[Tensor, " edge"], Int64[Tensor, " bin"]]:
        """Edges from 0 to the latent's largest activation, and counts; a count can be one fine bin off at an edge."""
        maximum = float(self.maximum[latent])
        width = 2.0 ** float(self.exponent[latent]) / _FINE_BINS
        middle = (torch.arange(_FINE_BINS) + 0.5) * width
        coarse = (
            (middle / maximum * bins).long().clamp(max=bins - 1)
            if maximum > 0
            else torch.zeros(_FINE_BINS).long()
        )
        counts = torch.zeros(bins, dtype=torch.int64).index_add_(0, coarse, self.counts[latent].long())
        return torch.linspace(0, maximum, bins + 1), counts

    def _widen(self, exponent: Int64[Tensor, " latent"]) -> None:
        """Let each latent's range end at 2**exponent, where it ended below."""
        # From the eighth doubling on everything that was counted is in the first bin.
        doublings = (exponent - self.exponent).clamp(min=0)
        folds = doublings.clamp(max=_FINE_BINS.bit_length() - 1)
        for fold in folds.unique().tolist():
            if fold:
                latents = (folds == fold).nonzero().squeeze(1)
                self.counts[latents] = _folded(self.counts[latents], 2**fold)
        self.exponent = torch.where(doublings > 0, exponent, self.exponent)


def _folded(counts: Int32[Tensor, "latent bin"], neighbors: int) -> Int32[Tensor, "latent bin"]:
    """Counts in bins that are so many times as wide."""
    folded = torch.zeros_like(counts)
    folded[:, : _FINE_BINS // neighbors] = counts.unflatten(1, (-1, neighbors)).sum(dim=2)
    return folded
