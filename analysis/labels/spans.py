"""Whether latents that claim the same change tile one subspace instead of being features of their own.

A change that fills a subspace, such as a random vector of a few dimensions on rare tokens or a circle that is turned, has no directions of its
own. A dictionary covers it with as many latents as pay off: more than the subspace has dimensions, so that each lies in the span of the others.
In few dimensions other trainings even find some of them again, because any direction is near one of theirs.

The *span residual* of a latent is the share of its squared direction outside the span of the other latents of its kind, divided by the same
share for random directions, as many and as long in each model. With unit rows D, Gram matrix G = D Dᵀ and a ridge λ, the share is
1 / ((G + λ)⁻¹)_jj - λ (leave-one-out residual of least squares; Belsley, Kuh and Welsch 1980, section 3.2). Latents that write nearly the same
direction count once: a feature that is split into two latents is no subspace.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from .rule import LABELS, Label

# Limits the weights of the others: a direction that only large, cancelling weights reach counts as outside.
_RIDGE = 0.01


def span_residuals(
    directions: Sequence[Float[Tensor, "latent _"]],
    labels: Int[np.ndarray, " latent"],
    families: Sequence[Sequence[Label]],
    same: float,
) -> Float[np.ndarray, " latent"]:
    """Return the span residual of each latent among those whose label is in the same family; NaN for labels in none.

    Args:
        directions: What each latent writes into each model.
        labels: Labels as indices into `LABELS`.
        same: Cosine from which two directions count as one.
    """
    found = np.full(len(labels), np.nan)
    for family in families:
        members = np.flatnonzero(np.isin(labels, [LABELS.index(label) for label in family]))
        if len(members):
            found[members] = _residuals([rows[members].double() for rows in directions], same).numpy()
    return found


def _residuals(directions: Sequence[Float[Tensor, "member _"]], same: float) -> Float[Tensor, " member"]:
    unit = normalize(torch.cat(list(directions), dim=1), dim=1)
    chosen = _representatives(unit, same)
    kept = unit[chosen]
    generator = torch.Generator().manual_seed(len(chosen))
    random = [
        normalize(torch.randn(rows[chosen].shape, generator=generator, dtype=rows.dtype), dim=1)
        * rows[chosen].norm(dim=1, keepdim=True)
        for rows in directions
    ]
    by_chance = _outside(normalize(torch.cat(random, dim=1), dim=1)).median()
    nearest = (unit @ kept.T).argmax(dim=1)
    return _outside(kept)[nearest] / by_chance


def _outside(unit: Float[Tensor, "chosen width"]) -> Float[Tensor, " chosen"]:
    """Return the share of each direction outside the span of the others."""
    gram = unit @ unit.T + _RIDGE * torch.eye(len(unit), dtype=unit.dtype)
    return (1 / torch.linalg.inv(gram).diagonal() - _RIDGE).clamp_min(0.0)


def _representatives(unit: Float[Tensor, "member width"], same: float) -> Int64[Tensor, " chosen"]:
    """Return members of which no two have a cosine of at least `same`, such that every other member is that near to one of them."""
    near: Bool[Tensor, "member member"] = unit @ unit.T >= same
    covered = torch.zeros(len(unit), dtype=torch.bool)
    chosen = []
    for member in range(len(unit)):
        if not covered[member]:
            chosen.append(member)
            covered |= near[member]
    return torch.tensor(chosen)
