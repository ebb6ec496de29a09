"""When and how strongly planted features fire: independently, under a parent, in groups, or differently in each model.

SAELens has generators for this (`sae_lens.synthetic`: `ActivationGenerator` with a correlation matrix, `HierarchyNode`).
They are not used for three reasons. They draw from torch's global generator and take no seed, but a planted pair must be
bitwise reproducible. Their features have one magnitude, but reweighted features need one per model, and split features must
exclude each other at given rates. Importing sae-lens takes longer than drawing a whole case. The distributions are the same,
a Gaussian copula and children that require their parent; a test draws from both and compares.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.special import ndtr, ndtri

from ..activations.user_files import BLOCK_ROWS

STRENGTH_SPREAD = 0.3
FAINTEST = 0.2
"""The magnitude of a firing feature is max(FAINTEST, 1 + STRENGTH_SPREAD · N), with N standard normal."""

# Clamp that keeps normal quantiles finite.
_EDGE = 1e-7


@dataclass(frozen=True)
class Groups:
    """Features that tend to fire together: a Gaussian copula with one factor per group, which preserves firing rates."""

    member: Int[Tensor, " feature"]
    """Group of each feature."""

    correlation: float = 0.5
    """Correlation of the latent Gaussians of two features in one group."""

    document_share: float = 0.0
    """Share of the factor's variance that is common to all tokens of a document."""

    def correlate(
        self, uniform: Float[Tensor, "token feature"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token feature"]:
        """Transform independent uniform numbers into ones that are correlated within each group."""
        n_tokens, n_groups = len(uniform), int(self.member.max()) + 1
        n_documents = -(-n_tokens // document_tokens)
        by_document = torch.randn(n_documents, n_groups, generator=generator)
        by_document = by_document.repeat_interleave(document_tokens, dim=0)[:n_tokens]
        by_token = torch.randn(n_tokens, n_groups, generator=generator)
        factor = self.document_share**0.5 * by_document + (1 - self.document_share) ** 0.5 * by_token
        independent = ndtri(uniform.clamp(_EDGE, 1 - _EDGE))
        joint = self.correlation**0.5 * factor[:, self.member] + (1 - self.correlation) ** 0.5 * independent
        return ndtr(joint)


@dataclass(frozen=True)
class Firing:
    """Feature i fires in model m if low_i <= u < high_mi, its parent fires, and it lives in the document, with u uniform per token
    and feature.

    Magnitudes are max(`FAINTEST`, 1 + spread · N), with the same N in both models unless `own_strength`.
    """

    low: Float[Tensor, " feature"]
    high: Float[Tensor, "model feature"]
    spread: Float[Tensor, "model feature"]
    draw: Int[Tensor, " feature"]
    """Index of the feature whose u is used: itself, or the feature that it excludes."""

    parent: Int[Tensor, " feature"]
    """Index of the feature that must fire too, which must not have a parent itself; -1: none."""

    document_share: Float[Tensor, " feature"]
    """Share of the documents in which the feature can fire, drawn per document and feature."""

    own_strength: Bool[Tensor, "model feature"]
    """Whether the feature has a magnitude of its own in this model, independent of that in the other one."""

    groups: Groups | None = None
    document_tokens: int = BLOCK_ROWS
    """Rows per document."""

    @classmethod
    def independent(cls, rates: Float[Tensor, " feature"]) -> Self:
        """Make all features fire independently, identically in both models."""
        count = len(rates)
        return cls(
            low=torch.zeros(count),
            high=rates.expand(2, -1).clone(),
            spread=torch.full((2, count), STRENGTH_SPREAD),
            draw=torch.arange(count),
            parent=torch.full((count,), -1),
            document_share=torch.ones(count),
            own_strength=torch.zeros(2, count, dtype=torch.bool),
        )

    @property
    def rates(self) -> Float[Tensor, "model feature"]:
        """Firing rate of each feature in each model, as a share of tokens."""
        alone = (self.high - self.low) * self.document_share
        return torch.where(self.parent >= 0, alone * alone[:, self.parent], alone)

    @property
    def same_in_both_models(self) -> bool:
        """Whether features fire on the same tokens and with the same magnitudes in both models."""
        same_tokens = (self.high[0] == self.high[1]).all()
        return bool(same_tokens and (self.spread[0] == self.spread[1]).all() and not self.own_strength.any())

    def magnitudes(
        self, n_tokens: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "token feature"], Float[Tensor, "token feature"]]:
        """Draw the magnitude of each feature on each token, in the reference and in the intervened model."""
        shape = n_tokens, len(self.low)
        uniform = torch.rand(shape, generator=generator)
        normal = torch.randn(shape, generator=generator)
        if self.groups is not None:
            uniform = self.groups.correlate(uniform, self.document_tokens, generator)
        uniform = uniform[:, self.draw]
        if (self.document_share < 1).any():
            # A number that no feature fires at.
            uniform = torch.where(self._lives(n_tokens, generator), uniform, 2.0)
        if self.same_in_both_models:
            reference = self._in_model(0, uniform, normal)
            return reference, reference
        own = torch.randn(shape, generator=generator) if self.own_strength.any() else normal
        reference, intervened = (
            self._in_model(model, uniform, torch.where(self.own_strength[model], own, normal))
            for model in range(2)
        )
        return reference, intervened

    def _lives(self, n_tokens: int, generator: torch.Generator) -> Bool[Tensor, "token feature"]:
        """Draw the documents in which each feature can fire."""
        n_documents = -(-n_tokens // self.document_tokens)
        lives = torch.rand(n_documents, len(self.low), generator=generator) < self.document_share
        return lives.repeat_interleave(self.document_tokens, dim=0)[:n_tokens]

    def _in_model(
        self, model: int, uniform: Float[Tensor, "token feature"], normal: Float[Tensor, "token feature"]
    ) -> Float[Tensor, "token feature"]:
        fires = (uniform >= self.low) & (uniform < self.high[model])
        children = (self.parent >= 0).nonzero().flatten()
        fires[:, children] &= fires[:, self.parent[children]]
        return fires * (1 + self.spread[model] * normal).clamp(min=FAINTEST)

    def swapped(self) -> Self:
        """Swap the models."""
        return replace(
            self,
            high=self.high.flip(0),
            spread=self.spread.flip(0),
            own_strength=self.own_strength.flip(0),
        )

    def alike(self) -> Self:
        """Make every feature fire alike in both models: as often as in the model where it fires more, in the spread as well."""
        high, spread = (side.amax(dim=0, keepdim=True).repeat(2, 1) for side in (self.high, self.spread))
        return replace(self, high=high, spread=spread, own_strength=torch.zeros_like(self.own_strength))
