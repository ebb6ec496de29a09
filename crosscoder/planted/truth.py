"""What was planted into a pair: for each feature its kind, its direction in each model, and how often it fires."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from ..dictionary.inputs import Reads

KINDS = ("shared", "rotated", "rescaled", "new", "lost", "reweighted", "split", "merged")
"""
shared      same direction, same strength            rotated     turned by an angle, same strength
rescaled    same direction, multiplied by a factor   reweighted  same direction, but another firing rate or magnitudes
new         only in the intervened model             lost        only in the reference
split       two features, never on one token, that share one direction in the reference and have two in the
            intervened model
merged      the reverse of split
"""

_EXCHANGED = {"new": "lost", "lost": "new", "split": "merged", "merged": "split"}


@dataclass(frozen=True)
class PlantedTruth:
    """What was planted: one row a feature."""

    kinds: tuple[str, ...]
    """One of `KINDS` each."""

    reference: Float[Tensor, "feature reference"]
    """Direction times strength in the reference; zero for a new feature."""

    intervened: Float[Tensor, "feature intervened"]
    """Direction times strength in the intervened model; zero for a lost feature."""

    model_rates: Float[Tensor, "model feature"]
    """Share of the tokens a feature fires on in each model; zero where it is absent."""

    comparable: bool = True
    """Whether both models write a shared feature into the same direction. Where they do not (a rotated, mapped or wider
    space), only new and lost have a meaning: nothing is turned or rescaled that is not the whole space."""

    @property
    def rates(self) -> Float[Tensor, " feature"]:
        """Share of the tokens a feature fires on in either model."""
        return self.model_rates.amax(dim=0)

    @property
    def rows(self) -> Float[Tensor, "feature width"]:
        """Directions of both models side by side."""
        return torch.cat([self.reference, self.intervened], dim=1)

    @property
    def angles(self) -> Float[Tensor, " feature"]:
        """Degrees from the reference's direction to the intervened model's; NaN where one is absent or nothing compares."""
        if not self.comparable:
            return torch.full((len(self.kinds),), torch.nan)
        cosine = cosine_similarity(self.reference.double(), self.intervened.double()).clamp(-1, 1)
        present = (self.reference.norm(dim=1) > 0) & (self.intervened.norm(dim=1) > 0)
        return torch.where(present, cosine.acos().rad2deg(), torch.nan).float()

    @property
    def factors(self) -> Float[Tensor, " feature"]:
        """Strength in the intervened model over that in the reference: infinite for new, zero for lost."""
        return self.intervened.norm(dim=1) / self.reference.norm(dim=1)

    @property
    def changed(self) -> Bool[Tensor, " feature"]:
        """Features that the difference of the models holds. Where nothing compares that is all of them."""
        if not self.comparable:
            return torch.ones(len(self.kinds), dtype=torch.bool)
        moved = (self.reference != self.intervened).any(dim=1)
        return moved | torch.tensor([kind == "reweighted" for kind in self.kinds])

    def is_kind(self, kind: str) -> Bool[Tensor, " feature"]:
        """Mark the features of a kind."""
        return torch.tensor([other == kind for other in self.kinds])

    def features_of(self, kind: str) -> set[int]:
        """The features of a kind."""
        return {index for index, other in enumerate(self.kinds) if other == kind}

    def l0(self, reads: Reads = "paired") -> float:
        """Features on a row that a dictionary reads, on average: those it would need to tell apart, and no more."""
        match reads:
            case "paired":
                return float(self.rates.sum())
            case "difference":
                return float(self.rates[self.changed].sum())
            case "pooled":
                return float(self.model_rates.sum(dim=1).mean())

    def templates(self, reads: Reads = "paired") -> Float[Tensor, "template _"]:
        """What a latent's decoder rows are compared with, one block of all features after the other, unit length.

        paired: both directions end to end; difference: the step from one to the other; pooled: the direction in the
        reference, and then that in the intervened model. A row that does not exist is zero.
        """
        match reads:
            case "paired":
                rows = self.rows
            case "difference":
                rows = self.intervened - self.reference
            case "pooled":
                rows = torch.cat([self.reference, self.intervened])
        return normalize(rows, dim=1)

    def cosines(
        self, decoder: tuple[Float[Tensor, "latent _"], ...], reads: Reads = "paired"
    ) -> Float[Tensor, "latent feature"]:
        """Cosine of each latent's decoder rows (raw units, laid end to end) with each feature."""
        templates = self.templates(reads)
        cosines = normalize(torch.cat(decoder, dim=1).to(templates), dim=1) @ templates.T
        return cosines.unflatten(1, (-1, len(self.kinds))).amax(dim=1)

    def matches(
        self,
        decoder: tuple[Float[Tensor, "latent _"], ...],
        reads: Reads = "paired",
        cosine: float = 0.7,
    ) -> list[int]:
        """For each latent the planted feature it is nearest to, or -1 where none is nearer than `cosine`."""
        best = self.cosines(decoder, reads).max(dim=1)
        near = torch.where(best.values > cosine, best.indices, -1)
        return near.tolist()

    def swapped(self) -> Self:
        """The truth of the pair with the models exchanged: new is lost and lost is new."""
        return replace(
            self,
            kinds=tuple(_EXCHANGED.get(kind, kind) for kind in self.kinds),
            reference=self.intervened,
            intervened=self.reference,
            model_rates=self.model_rates.flip(0),
        )


NullKind = Literal["identity", "noise", "drift"]
"""
identity    the same activations twice
noise       the same features, and noise of its own in each model
drift       a change as large as the pair's that carries no feature
"""
