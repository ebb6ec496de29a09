"""Whether other dictionaries found the same directions: those of other seeds, and a diff-SAE."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from ..tables.analysis_files import SAME_DIRECTION

_CHUNK = 4096


class Nearest(NamedTuple):
    """For each direction the nearest of others."""

    latent: Int64[Tensor, " latent"]
    """Its number; -1 where a direction is zero."""

    cosine: Float[Tensor, " latent"]
    """NaN where a direction is zero."""


def nearest(directions: Float[Tensor, "latent width"], others: Float[Tensor, "other width"]) -> Nearest:
    """The other direction of largest cosine, for each."""
    unit = normalize(others, dim=1)
    best = [(normalize(part, dim=1) @ unit.T).max(dim=1) for part in directions.split(_CHUNK)]
    latent = torch.cat([found.indices for found in best])
    cosine = torch.cat([found.values for found in best])
    nothing = directions.norm(dim=1) == 0
    return Nearest(latent.masked_fill(nothing, -1), cosine.masked_fill(nothing, torch.nan))


def seed_stability(
    rows: Float[Tensor, "latent width"], seeds: Sequence[Float[Tensor, "_ width"]]
) -> Float[Tensor, " latent"]:
    """Share of the other seeds' dictionaries in which a latent is found again; NaN without other seeds."""
    if not seeds:
        return torch.full((len(rows),), torch.nan)
    found = torch.stack([nearest(rows, others).cosine > SAME_DIRECTION for others in seeds])
    return found.float().mean(dim=0)
