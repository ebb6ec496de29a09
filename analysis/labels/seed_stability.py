"""Whether other dictionaries find the same directions: other seeds, and a diff-SAE."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from ..tables.analysis_files import SAME_DIRECTION

_CHUNK = 4096


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


def seed_stability(
    rows: Float[Tensor, "latent width"], seeds: Sequence[Float[Tensor, "_ width"]]
) -> Float[Tensor, " latent"]:
    """Return the share of the other seeds' dictionaries that find each latent again; NaN without other seeds.

    Found again: a decoder row with a cosine above `SAME_DIRECTION`.
    """
    if not seeds:
        return torch.full((len(rows),), torch.nan)
    found = torch.stack([nearest_directions(rows, others).cosine > SAME_DIRECTION for others in seeds])
    return found.float().mean(dim=0)
