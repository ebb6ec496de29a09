"""Elements of change: what a planted pair differs in beside its features."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

ElementKind = Literal["subspace", "noise", "offset", "low_rank_map", "turned_plane", "gain", "rounding"]
"""
subspace      one model writes into these dimensions on some tokens, in a direction that is new on every token
noise         one model has additional noise in these dimensions on every token
offset        a constant vector, added to one model on some tokens
low_rank_map  one model's space is mapped by I + VᵀSU: what it holds along the rows of V is written again along the rows of U
turned_plane  a plane of the reference whose content the intervened model holds turned within it
gain          all activations of one model are multiplied by a factor on some tokens
rounding      one model's activations are rounded
"""

SWAPPED_LABELS = {"new": "lost", "lost": "new"}


@dataclass(frozen=True)
class Element:
    """One element of change and the model that has it."""

    name: str
    kind: ElementKind
    model: int
    """0: the reference, 1: the intervened model."""

    directions: Float[Tensor, "direction d_model"]
    """Orthonormal rows that span what the element writes, in the space of its model; no row if that is the whole space."""

    share: float
    """Expected share of the tokens on which it acts."""

    reads: Float[Tensor, "direction d_model"] | None = None
    """Orthonormal rows that a map reads; None if the element is no map."""

    true_of_features: frozenset[str] = frozenset()
    """Labels that are no false claim about any feature, because the element makes them true: `rescaled` for a gain."""

    true_of_latents: frozenset[str] = frozenset()
    """Labels that are no false claim about a latent that writes what the element writes: `new` for an offset."""

    @property
    def dimension(self) -> int:
        """Number of dimensions that the element writes into; 0 if that is the whole space."""
        return len(self.directions)

    def alignment(
        self, decoder: tuple[Float[Tensor, "latent _"], ...], *, paired: bool
    ) -> Float[Tensor, " latent"]:
        """Return the length of each latent's part within the element's directions, relative to all its raw decoder rows.

        1: the latent writes within these directions, and in the other model of a paired dictionary nothing. 0: it writes
        nothing there, or the element has no directions.
        """
        whole = normalize(torch.cat(decoder, dim=1).to(self.directions), dim=1)
        if paired and self.model == 0:
            part = whole[:, : self.directions.shape[1]]
        else:
            part = whole[:, whole.shape[1] - self.directions.shape[1] :]
        return (part @ self.directions.T).norm(dim=1)

    def overlap(self, directions: Float[Tensor, "found d_model"]) -> float:
        """Return how much the span of linearly independent rows found has in common with the element's directions, from 0 to 1.

        The sum of the squared cosines of the principal angles between the two, divided by the larger dimension (Björck and
        Golub 1973): 1 for the same span, 3/4 if one of four dimensions is missing.
        """
        basis = torch.linalg.qr(directions.T.to(self.directions)).Q
        return float((self.directions @ basis).square().sum()) / max(self.dimension, len(directions))

    def swapped(self) -> Self:
        """Return the element with the models swapped."""
        features, latents = (
            frozenset(SWAPPED_LABELS.get(label, label) for label in labels)
            for labels in (self.true_of_features, self.true_of_latents)
        )
        return replace(self, model=1 - self.model, true_of_features=features, true_of_latents=latents)
