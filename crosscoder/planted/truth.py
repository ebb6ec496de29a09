"""The ground truth of a planted pair: the kind, directions and firing rates of each feature, and elements of change beside them."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from ..dictionary.views import View
from .elements import SWAPPED_LABELS, Element

KINDS = ("shared", "rotated", "rescaled", "new", "lost", "reweighted", "split", "merged", "replaced")
"""
shared      same direction, same strength            rotated     rotated by an angle, same strength
rescaled    same direction, multiplied by a factor   reweighted  same direction, other firing rate or magnitudes
new         only in the intervened model             lost        only in the reference
split       two features that never fire together, with one common direction in the reference and two in the
            intervened model
merged      the reverse of split
replaced    a direction of the reference and another one of the intervened model at a right angle, on the same tokens. A
            dictionary may have one latent for both, or one for each.
"""

_SWAPPED = {**SWAPPED_LABELS, "split": "merged", "merged": "split"}

NOTICEABLE_ANGLE = 30.0
"""Angle in degrees from which `rotated` is no false label, whatever the kind: half a split is 45°, a low-rank map can turn a feature."""

NOTICEABLE_FACTOR = 1.25
"""Factor from which `rescaled` is no false label of a feature that both models have, nor `reweighted` of a ratio of firing rates."""


@dataclass(frozen=True)
class PlantedTruth:
    """The planted features, one row per feature."""

    kinds: tuple[str, ...]
    """Kind of each feature, one of `KINDS`."""

    reference: Float[Tensor, "feature reference"]
    """Direction times strength in the reference; zero for a new feature."""

    intervened: Float[Tensor, "feature intervened"]
    """Direction times strength in the intervened model; zero for a lost feature."""

    model_rates: Float[Tensor, "model feature"]
    """Firing rate of each feature in each model; zero if it is absent."""

    comparable: bool = True
    """Whether both models write a shared feature in the same direction. If not (a rotated, mapped or wider space), only new
    and lost are defined: rotation and rescaling then affect the whole space."""

    elements: tuple[Element, ...] = ()
    """What the models differ in beside features."""

    @property
    def rates(self) -> Float[Tensor, " feature"]:
        """Firing rate of each feature in the model where it fires more often."""
        return self.model_rates.amax(dim=0)

    @property
    def rows(self) -> Float[Tensor, "feature width"]:
        """Directions in both models, concatenated."""
        return torch.cat([self.reference, self.intervened], dim=1)

    @property
    def angles(self) -> Float[Tensor, " feature"]:
        """Angle between the directions in the two models, in degrees; NaN if one is absent or the spaces are not comparable."""
        if not self.comparable:
            return torch.full((len(self.kinds),), torch.nan)
        cosine = cosine_similarity(self.reference.double(), self.intervened.double()).clamp(-1, 1)
        present = (self.reference.norm(dim=1) > 0) & (self.intervened.norm(dim=1) > 0)
        return torch.where(present, cosine.acos().rad2deg(), torch.nan).float()

    @property
    def factors(self) -> Float[Tensor, " feature"]:
        """Strength in the intervened model divided by strength in the reference: infinite for new, zero for lost."""
        return self.intervened.norm(dim=1) / self.reference.norm(dim=1)

    @property
    def changed(self) -> Bool[Tensor, " feature"]:
        """Features present in the difference of the models; all of them if the spaces are not comparable."""
        if not self.comparable:
            return torch.ones(len(self.kinds), dtype=torch.bool)
        moved = (self.reference != self.intervened).any(dim=1)
        return moved | torch.tensor([kind == "reweighted" for kind in self.kinds])

    def is_kind(self, kind: str) -> Bool[Tensor, " feature"]:
        """Return a mask of the features of a kind."""
        return torch.tensor([other == kind for other in self.kinds])

    def features_of(self, kind: str) -> set[int]:
        """Return the indices of the features of a kind."""
        return {index for index, other in enumerate(self.kinds) if other == kind}

    def true_labels(self, feature: int) -> frozenset[str]:
        """Return the labels that are no false claim about a latent that matches this feature.

        Its kind; what holds of its directions and of what is written on average, by `NOTICEABLE_ANGLE` and `NOTICEABLE_FACTOR`
        (a feature that one model writes on half of its tokens is, on average, half as strong there); for a replaced feature also new
        and lost, which its two directions are; and what an element of change makes true of all features.
        """
        labels = {self.kinds[feature]} | {
            label for element in self.elements for label in element.true_of_features
        }
        if self.kinds[feature] == "replaced":
            labels |= {"new", "lost"}
        if float(self.angles[feature]) >= NOTICEABLE_ANGLE:
            labels.add("rotated")
        in_models = self.model_rates[:, feature]
        if bool((in_models > 0).all()):
            rate_ratio = float(in_models[1] / in_models[0])
            if _differs(rate_ratio):
                labels.add("reweighted")
            if _differs(rate_ratio * float(self.factors[feature])):
                labels.add("rescaled")
        return frozenset(labels)

    def l0(self, reads: View = "paired") -> float:
        """Return the mean number of active features per row of a view, i.e. the L0 of an ideal dictionary."""
        match reads:
            case "paired":
                return float(self.rates.sum())
            case "difference":
                return float(self.rates[self.changed].sum())
            case "pooled":
                return float(self.model_rates.sum(dim=1).mean())

    def templates(self, reads: View = "paired") -> Float[Tensor, "template _"]:
        """Return unit vectors to compare a latent's decoder rows with, in blocks of one row per feature.

        paired: both directions, concatenated; then, for features that a dictionary may divide into one latent per model or more
        (replaced and reweighted), the direction in the reference alone and that in the intervened model alone. difference:
        intervened minus reference direction. pooled: a block of reference directions, then a block of intervened directions.
        Absent directions are zero.
        """
        match reads:
            case "paired":
                divided = (self.is_kind("replaced") | self.is_kind("reweighted")).unsqueeze(1)
                first, second = self.reference * divided, self.intervened * divided
                alone = (
                    torch.block_diag(first, second) if divided.any() else torch.zeros(0, self.rows.shape[1])
                )
                rows = torch.cat([self.rows, alone])
            case "difference":
                rows = self.intervened - self.reference
            case "pooled":
                rows = torch.cat([self.reference, self.intervened])
        return normalize(rows, dim=1)

    def cosines(
        self, decoder: tuple[Float[Tensor, "latent _"], ...], reads: View = "paired"
    ) -> Float[Tensor, "latent feature"]:
        """Return the cosine of each latent's decoder rows (raw units, concatenated) with each feature."""
        templates = self.templates(reads)
        cosines = normalize(torch.cat(decoder, dim=1).to(templates), dim=1) @ templates.T
        return cosines.unflatten(1, (-1, len(self.kinds))).amax(dim=1)

    def matches(
        self,
        decoder: tuple[Float[Tensor, "latent _"], ...],
        reads: View = "paired",
        cosine: float = 0.7,
    ) -> list[int]:
        """Return, for each latent, the planted feature of largest cosine, or -1 if none exceeds `cosine`."""
        best = self.cosines(decoder, reads).max(dim=1)
        near = torch.where(best.values > cosine, best.indices, -1)
        return near.tolist()

    def alignments(
        self, decoder: tuple[Float[Tensor, "latent _"], ...], reads: View = "paired"
    ) -> Float[Tensor, "latent element"]:
        """Return how much of what each latent writes (raw units) lies within the directions of each element, from 0 to 1."""
        columns = [element.alignment(decoder, paired=reads == "paired") for element in self.elements]
        return torch.stack(columns, dim=1) if columns else torch.zeros(len(decoder[0]), 0)

    def swapped(self) -> Self:
        """Return the truth with the models swapped: new becomes lost, and lost becomes new."""
        return replace(
            self,
            kinds=tuple(_SWAPPED.get(kind, kind) for kind in self.kinds),
            reference=self.intervened,
            intervened=self.reference,
            model_rates=self.model_rates.flip(0),
            elements=tuple(element.swapped() for element in self.elements),
        )


def _differs(ratio: float) -> bool:
    return not 1 / NOTICEABLE_FACTOR <= ratio <= NOTICEABLE_FACTOR


NullKind = Literal["identity", "noise", "drift"]
"""
identity    the same activations twice
noise       the same features, with independent noise in each model
drift       a change as large as the pair's, in no feature
"""
