"""Whether independent trainings find the same latents: the seeds of a run, each on its own half of the training documents.

Paulo and Belrose 2025 (arXiv 2501.16615) find that two SAEs that differ in their seed alone share a minority of their latents. What one
training finds, another may not, so a claim of change is made only if every other training makes it too, of the same directions. A change
that no direction carries, such as a random vector on rare tokens, gives latents in every training, but other ones in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from crosscoder.config import LabelRule

from .rule import LABELS, Label

_CHUNK = 4096

# A model counts for a latent's direction if its decoder norm is at least this share of the larger one.
_WRITES_BOTH = 0.5


class Replica(NamedTuple):
    """What another training on the same pair found."""

    name: str
    directions: tuple[Float[Tensor, "latent _"], ...]
    """Decoder rows in each model, training space; once if both models share them."""
    labels: tuple[Label, ...]
    """Labels by the rule, without q-values."""


@dataclass(frozen=True)
class Replication:
    """How many other trainings find each latent again."""

    n_trainings: int
    """Number of other trainings."""
    by_direction: Float[np.ndarray, " latent"]
    """Share of the other trainings with a latent of the same directions; NaN without other trainings."""
    by_label: Float[np.ndarray, "latent label"]
    """Share of the other trainings with such a latent that has a given label, in the order of `LABELS`."""

    @classmethod
    def unknown(cls, n_latents: int) -> "Replication":
        """Return the result without other trainings."""
        return cls(0, np.full(n_latents, np.nan), np.full((n_latents, len(LABELS)), np.nan))

    def share(
        self, labels: Int[np.ndarray, "*resample latent"], rule: LabelRule, latents: slice = slice(None)
    ) -> Float[np.ndarray, "*resample latent"]:
        """Return the share of the other trainings that find each latent again with this label; NaN if there are fewer trainings than the rule
        asks for.

        Args:
            labels: Labels as indices into `LABELS`, of the given latents.
        """
        if self.n_trainings < rule.replications:
            return np.full(labels.shape, np.nan)
        by_label = self.by_label[latents]
        return by_label[np.arange(len(by_label)), labels]


class NearestDirections(NamedTuple):
    """For each direction, the nearest of another dictionary."""

    latent: Int64[Tensor, " latent"]
    """Number of the nearest latent; -1 for a zero direction."""

    cosine: Float[Tensor, " latent"]
    """NaN for a zero direction."""


def nearest_directions(
    directions: Float[Tensor, "latent width"], others: Float[Tensor, "other width"]
) -> NearestDirections:
    """Return, for each direction, the other direction with the largest cosine."""
    unit = normalize(others, dim=1)
    best = [(normalize(part, dim=1) @ unit.T).max(dim=1) for part in directions.split(_CHUNK)]
    latent = torch.cat([found.indices for found in best])
    cosine = torch.cat([found.values for found in best])
    nothing = directions.norm(dim=1) == 0
    return NearestDirections(latent.masked_fill(nothing, -1), cosine.masked_fill(nothing, torch.nan))


def replication(
    directions: tuple[Float[Tensor, "latent _"], ...], replicas: Sequence[Replica], cosine: float
) -> Replication:
    """Return how many of the other trainings find each latent again.

    A latent is found again by one that writes the same direction, with at least this cosine, into every model that the latent writes into.

    Args:
        directions: Decoder rows in each model, training space.
        cosine: Smallest cosine of two directions that count as the same.
    """
    if not replicas:
        return Replication.unknown(len(directions[0]))
    found = [_found_again(directions, replica, cosine) for replica in replicas]
    by_label = torch.stack(found).double().mean(dim=0).numpy()
    by_direction = torch.stack([one.any(dim=1) for one in found]).double().mean(dim=0).numpy()
    return Replication(len(replicas), by_direction, by_label)


def models_written(directions: tuple[Float[Tensor, "latent _"], ...]) -> Bool[Tensor, "model latent"]:
    """Return whether each latent writes into each model, so that its direction there counts: at least half as strongly as into the model
    where its norm is largest.

    Args:
        directions: Decoder rows in each model, training space.
    """
    norms = torch.stack([rows.norm(dim=1) for rows in directions])
    return (norms >= _WRITES_BOTH * norms.amax(dim=0)) & (norms > 0)


def _found_again(
    directions: tuple[Float[Tensor, "latent _"], ...], replica: Replica, least: float
) -> Bool[Tensor, "latent label"]:
    """Return whether one training has a latent of the same directions, by the label that it has there."""
    counts = models_written(directions)
    theirs = torch.tensor([LABELS.index(label) for label in replica.labels])
    has_label = torch.nn.functional.one_hot(theirs, len(LABELS)).float()
    units = [normalize(rows, dim=1).T for rows in replica.directions]
    found = []
    for part in torch.arange(counts.shape[1]).split(_CHUNK):
        same = counts[:, part].any(dim=0)[:, None].repeat(1, len(theirs))
        for rows, unit, in_model in zip(directions, units, counts, strict=True):
            same &= (normalize(rows[part], dim=1) @ unit >= least) | ~in_model[part, None]
        found.append(same.float() @ has_label > 0)
    return torch.cat(found)
