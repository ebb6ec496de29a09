"""What is measured of a dictionary, the same in training curves, report and page.

Fraction of variance explained (FVE) is a ratio of sums over the whole evaluation set, in raw activation units:

    FVE(y, ŷ) = 1 - Σ_t ‖y_t - ŷ_t‖² / Σ_t ‖y_t - ȳ‖²

with ȳ the mean of the evaluation set; never a mean of per-token ratios. The FVE *of the difference* takes
y = x^intervened - x^reference and ŷ = x̂^intervened - x̂^reference: it is what a diff stands on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from .activations import split_models


@dataclass
class VarianceExplained:
    """Streaming FVE: sums in float64, so that batches in any size and order give one result."""

    count: int = 0
    error: float = 0.0
    square: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))

    def update(self, actual: Float[Tensor, "token d_model"], rebuilt: Float[Tensor, "token d_model"]) -> None:
        """Add some tokens."""
        actual, rebuilt = actual.double(), rebuilt.double()
        self.count += len(actual)
        self.error += float((actual - rebuilt).square().sum())
        self.square += float(actual.square().sum())
        self.total = self.total.to(actual.device) + actual.sum(dim=0)

    def result(self) -> float | None:
        """The FVE, or None where the activations do not vary (identical models have no difference to explain)."""
        if self.count == 0:
            return None
        variance = self.square - float(self.total.square().sum()) / self.count
        # Sums of equal float64 numbers leave rounding noise in place of zero.
        if variance <= 1e-12 * max(self.square, 1e-300):
            return None
        return 1 - self.error / variance


class ReconstructionMeter:
    """FVE of each model and of the difference, L0, and how often each latent fired."""

    def __init__(self, d_models: Sequence[int], n_latents: int) -> None:
        self.d_models = tuple(d_models)
        self.per_model = [VarianceExplained() for _ in d_models]
        # Models of different width share no space, so their difference does not exist.
        comparable = len(self.d_models) == 2 and self.d_models[0] == self.d_models[1]
        self.difference = VarianceExplained() if comparable else None
        self.fired = torch.zeros(n_latents, dtype=torch.int64)
        self.n_tokens = 0

    def update(
        self,
        actual: Float[Tensor, "token width"],
        rebuilt: Float[Tensor, "token width"],
        latents: Float[Tensor, "token latent"],
    ) -> None:
        """Add some tokens; activations in raw units."""
        parts, rebuilt_parts = split_models(actual, self.d_models), split_models(rebuilt, self.d_models)
        for meter, part, rebuilt_part in zip(self.per_model, parts, rebuilt_parts, strict=True):
            meter.update(part, rebuilt_part)
        if self.difference is not None:
            self.difference.update(
                parts[1].double() - parts[0].double(), rebuilt_parts[1].double() - rebuilt_parts[0].double()
            )
        self.fired += (latents > 0).sum(dim=0).cpu()
        self.n_tokens += len(latents)

    def l0(self) -> float:
        """Mean number of latents that fire on a token."""
        return float(self.fired.sum()) / max(self.n_tokens, 1)

    def dead_share(self) -> float:
        """Share of latents that fired on no token seen here."""
        return float((self.fired == 0).float().mean())


def relative_norm(
    norm_reference: Float[Tensor, " latent"], norm_intervened: Float[Tensor, " latent"]
) -> Float[Tensor, " latent"]:
    """‖d_intervened‖ / (‖d_reference‖ + ‖d_intervened‖), in [0, 1]; 1 = only in the intervened model; NaN where both are 0."""
    return norm_intervened / (norm_reference + norm_intervened)


def decoder_cosine(
    reference: Float[Tensor, "latent d_model"], intervened: Float[Tensor, "latent d_model"]
) -> Float[Tensor, " latent"]:
    """Cosine between a latent's two decoder directions, in [-1, 1]; NaN where one of them is zero."""
    norms = reference.norm(dim=1) * intervened.norm(dim=1)
    return ((reference * intervened).sum(dim=1) / norms).clamp(-1, 1)
