"""Reconstruction metrics, shared by training curves, report and page.

Fraction of variance explained (FVE) is a ratio of sums over the whole evaluation set, in raw activation units:

    FVE(y, ŷ) = 1 - Σ_t ‖y_t - ŷ_t‖² / Σ_t ‖y_t - ȳ‖²

with ȳ the mean of the evaluation set; never a mean of per-token ratios. The FVE *of the difference* takes
y = x^intervened - x^reference and ŷ = x̂^intervened - x̂^reference: model diffing relies on this one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..activations.batch import have_difference, split_models
from .sparse_latents import SparseLatents

# Rows converted to float64 at a time. On a CPU their copies fit in cache; whole batches would take ten times as long.
_ROWS = {"cpu": 64}
_ROWS_ELSEWHERE = 8192


def row_chunks(*tensors: Float[Tensor, "token _"]) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching chunks of rows of all tensors, as views, for code that converts them to another precision."""
    rows = min(_ROWS.get(tensor.device.type, _ROWS_ELSEWHERE) for tensor in tensors)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


@dataclass
class VarianceExplained:
    """Streaming FVE. Sums are in float64, so the result does not depend on batch size or order."""

    count: int = 0
    error: float = 0.0
    square: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))

    def update(self, actual: Float[Tensor, "token d_model"], rebuilt: Float[Tensor, "token d_model"]) -> None:
        """Add a batch of tokens."""
        for part, rebuilt_part in row_chunks(actual, rebuilt):
            part = part.double()
            self.add(part, part - rebuilt_part.double())

    def add(self, actual: Float64[Tensor, "token d_model"], error: Float64[Tensor, "token d_model"]) -> None:
        """Add a batch of tokens, given their reconstruction error."""
        self.count += len(actual)
        self.error += float(error.square().sum())
        self.square += float(actual.square().sum())
        self.total = self.total.to(actual.device) + actual.sum(dim=0)

    def sums(self) -> Float64[Tensor, " sum"]:
        """Return all sums in one vector; those of several parts of the tokens add up to those of the whole."""
        counted = torch.tensor([self.count, self.error, self.square], dtype=torch.float64)
        return torch.cat([counted, self.total.double().cpu().flatten()])

    @classmethod
    def of_sums(cls, sums: Float64[Tensor, " sum"]) -> Self:
        """Return the meter with these sums."""
        count, error, square = sums[:3].tolist()
        return cls(int(count), error, square, sums[3:])

    def result(self) -> float | None:
        """Return the FVE, or None if the activations are constant (identical models have no difference to explain)."""
        if self.count == 0:
            return None
        variance = self.square - float(self.total.square().sum()) / self.count
        # The variance of constant activations comes out as rounding noise, not zero.
        if variance <= 1e-12 * max(self.square, 1e-300):
            return None
        return 1 - self.error / variance


class ReconstructionMeter:
    """FVE of each model and of the difference, L0, and firing counts of each latent."""

    def __init__(self, d_models: Sequence[int], n_latents: int) -> None:
        self.d_models = tuple(d_models)
        self.per_model = [VarianceExplained() for _ in d_models]
        # Models of different width have no common space, so their difference is undefined.
        comparable = have_difference(self.d_models)
        self.difference = VarianceExplained() if comparable else None
        self.fired = torch.zeros(n_latents, dtype=torch.int64)
        self.n_tokens = 0

    def update(
        self,
        actual: Float[Tensor, "token width"],
        rebuilt: Float[Tensor, "token width"],
        sparse_latents: SparseLatents,
    ) -> None:
        """Add a batch of tokens: activations in raw units, and the encoded latents (one code per model if pooled)."""
        for rows, rebuilt_rows in row_chunks(actual, rebuilt):
            rows = rows.double()
            parts = split_models(rows, self.d_models)
            errors = split_models(rows - rebuilt_rows.double(), self.d_models)
            for meter, part, error in zip(self.per_model, parts, errors, strict=True):
                meter.add(part, error)
            if self.difference is not None:
                self.difference.add(parts[1] - parts[0], errors[1] - errors[0])
        self.fired += torch.bincount(sparse_latents.latent, minlength=len(self.fired)).cpu()
        self.n_tokens += sparse_latents.shape[0]

    def l0(self) -> float:
        """Return the mean number of latents that fire per token."""
        return float(self.fired.sum()) / max(self.n_tokens, 1)

    def dead_share(self) -> float:
        """Return the share of latents that have not fired on any token."""
        return float((self.fired == 0).float().mean())


def relative_norm(
    norm_reference: Float[Tensor, " latent"], norm_intervened: Float[Tensor, " latent"]
) -> Float[Tensor, " latent"]:
    """Return ‖d_intervened‖ / (‖d_reference‖ + ‖d_intervened‖), in [0, 1]; 1 = only in the intervened model; NaN if both are 0."""
    return norm_intervened / (norm_reference + norm_intervened)


def decoder_cosine(
    reference: Float[Tensor, "latent d_model"], intervened: Float[Tensor, "latent d_model"]
) -> Float[Tensor, " latent"]:
    """Return the cosine between a latent's two decoder directions, in [-1, 1]; NaN if either is zero."""
    norms = reference.norm(dim=1) * intervened.norm(dim=1)
    return ((reference * intervened).sum(dim=1) / norms).clamp(-1, 1)
