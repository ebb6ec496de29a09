"""When planted features fire and how strongly: independently, under parents, in groups, or otherwise in each model.

SAELens has generators for this (`sae_lens.synthetic`: `ActivationGenerator` with a correlation matrix, `HierarchyNode`).
They are not used here: they draw from torch's global generator and take no seed, while a planted pair must give the same
bits for the same seed; their features have one magnitude, while reweighted features need one for each model and split
ones must exclude each other with given rates; and importing sae-lens takes longer than drawing a whole case. The laws are
the same, a Gaussian copula and children that need their parent; a test draws from both and compares.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.special import ndtr, ndtri

from ..activations.user_files import BLOCK_ROWS

STRENGTH_SPREAD = 0.3
FAINTEST = 0.2
"""Where a feature fires, its magnitude is max(FAINTEST, 1 + STRENGTH_SPREAD · N)."""

# Keeps normal quantiles finite.
_EDGE = 1e-7


@dataclass(frozen=True)
class Groups:
    """Features that tend to fire together: a Gaussian copula with one factor for each group, so that rates stay."""

    member: Int[Tensor, " feature"]
    """Group of each feature."""

    correlation: float = 0.5
    """Of the Gaussians behind two features of one group."""

    document_share: float = 0.0
    """Share of the factor's variance that all tokens of a document (blocks of `BLOCK_ROWS` rows) have in common."""

    def correlate(
        self, uniform: Float[Tensor, "token feature"], generator: torch.Generator
    ) -> Float[Tensor, "token feature"]:
        """Uniform numbers, small together within a group, from independent ones."""
        n_tokens, n_groups = len(uniform), int(self.member.max()) + 1
        n_documents = -(-n_tokens // BLOCK_ROWS)
        by_document = torch.randn(n_documents, n_groups, generator=generator)
        by_document = by_document.repeat_interleave(BLOCK_ROWS, dim=0)[:n_tokens]
        by_token = torch.randn(n_tokens, n_groups, generator=generator)
        factor = self.document_share**0.5 * by_document + (1 - self.document_share) ** 0.5 * by_token
        own = ndtri(uniform.clamp(_EDGE, 1 - _EDGE))
        joint = self.correlation**0.5 * factor[:, self.member] + (1 - self.correlation) ** 0.5 * own
        return ndtr(joint)


@dataclass(frozen=True)
class Firing:
    """Feature i fires in model m where low_i <= u < high_mi and its parent fires; u is uniform, one for each token.

    Magnitudes are max(`FAINTEST`, 1 + spread · N) with one N for both models.
    """

    low: Float[Tensor, " feature"]
    high: Float[Tensor, "model feature"]
    spread: Float[Tensor, "model feature"]
    draw: Int[Tensor, " feature"]
    """Whose u a feature looks at: its own, or that of the feature it excludes."""

    parent: Int[Tensor, " feature"]
    """A feature that must fire as well, without a parent of its own; -1: none."""

    groups: Groups | None = None

    @classmethod
    def independent(cls, rates: Float[Tensor, " feature"]) -> Self:
        """Every feature by itself, the same in both models."""
        count = len(rates)
        return cls(
            low=torch.zeros(count),
            high=rates.expand(2, -1).clone(),
            spread=torch.full((2, count), STRENGTH_SPREAD),
            draw=torch.arange(count),
            parent=torch.full((count,), -1),
        )

    @property
    def rates(self) -> Float[Tensor, "model feature"]:
        """Share of the tokens each feature fires on in each model."""
        alone = self.high - self.low
        return torch.where(self.parent >= 0, alone * alone[:, self.parent], alone)

    @property
    def alike(self) -> bool:
        """Whether features fire in both models on the same tokens, equally strongly."""
        return bool((self.high[0] == self.high[1]).all() and (self.spread[0] == self.spread[1]).all())

    def magnitudes(
        self, n_tokens: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "token feature"], Float[Tensor, "token feature"]]:
        """Strength of each feature on each token, in the reference and in the intervened model."""
        shape = n_tokens, len(self.low)
        uniform = torch.rand(shape, generator=generator)
        normal = torch.randn(shape, generator=generator)
        if self.groups is not None:
            uniform = self.groups.correlate(uniform, generator)
        uniform = uniform[:, self.draw]
        reference = self._in_model(0, uniform, normal)
        return reference, reference if self.alike else self._in_model(1, uniform, normal)

    def _in_model(
        self, model: int, uniform: Float[Tensor, "token feature"], normal: Float[Tensor, "token feature"]
    ) -> Float[Tensor, "token feature"]:
        fires = (uniform >= self.low) & (uniform < self.high[model])
        children = (self.parent >= 0).nonzero().flatten()
        fires[:, children] &= fires[:, self.parent[children]]
        return fires * (1 + self.spread[model] * normal).clamp(min=FAINTEST)

    def swapped(self) -> Self:
        """The models exchanged."""
        return replace(self, high=self.high.flip(0), spread=self.spread.flip(0))
