"""The latents with the most similar directions to each latent: splits of one feature, or related features."""

from typing import NamedTuple

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from ..tables.columns import NEIGHBORS, NEIGHBORS_KEPT
from .dictionary_view import DictionaryView

# Cosines in memory at a time.
_ENTRIES = 2**26


class Neighbors(NamedTuple):
    """Pairs of latent and neighbor, for latents that fire; sorted by latent, nearest first."""

    latent: Int64[Tensor, " pair"]
    neighbor: Int64[Tensor, " pair"]
    cosine: Float[Tensor, " pair"]

    def table(self) -> pa.Table:
        """Return an Arrow table."""
        first = torch.searchsorted(self.latent, self.latent)
        return NEIGHBORS.build(
            {
                "latent": self.latent.numpy(),
                "rank": (torch.arange(len(self.latent)) - first).numpy(),
                "neighbor": self.neighbor.numpy(),
                "cosine": self.cosine.double().numpy(),
            }
        )


def neighbors(
    rows: Float[Tensor, "latent width"], alive: Bool[Tensor, " latent"], count: int = NEIGHBORS_KEPT
) -> Neighbors:
    """Return the `count` other latents with the largest cosine, among those that fire and have a nonzero row."""
    candidates = (alive & (rows.norm(dim=1) > 0)).nonzero().flatten()
    unit = normalize(rows[candidates], dim=1)
    count = min(count, len(candidates) - 1)
    if count < 1:
        nothing = torch.zeros(0, dtype=torch.int64)
        return Neighbors(nothing, nothing, torch.zeros(0))
    nearest, cosines = [], []
    for part in torch.arange(len(candidates), device=rows.device).split(max(1, _ENTRIES // len(candidates))):
        similarity = unit[part] @ unit.T
        similarity[torch.arange(len(part)), part] = -torch.inf
        best = similarity.topk(count, dim=1)
        nearest.append(best.indices)
        cosines.append(best.values)
    return Neighbors(
        candidates.repeat_interleave(count).cpu(),
        candidates[torch.cat(nearest).flatten()].cpu(),
        torch.cat(cosines).flatten().cpu(),
    )


def neighbors_of(view: DictionaryView, documents: Int64[Tensor, " latent"]) -> pa.Table:
    """Return the neighbors table of a dictionary, by the concatenated decoder rows of all models in training space."""
    crosscoder = view.crosscoder
    widths = torch.tensor(crosscoder.config.d_models, device=view.device)
    scale = crosscoder.score_scale.to(view.device).repeat_interleave(widths)
    rows = crosscoder.W_dec.detach().float() * scale
    return neighbors(rows, documents.to(view.device) > 0).table()
