"""The latents whose directions lie nearest to a latent's own: splits of one feature, or its companions."""

from typing import NamedTuple

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from ..tables.columns import NEIGHBORS, NEIGHBORS_KEPT
from .dictionary_view import DictionaryView

# Cosines that are held at a time.
_ENTRIES = 2**26


class Neighbors(NamedTuple):
    """Of each latent that fires, in the order of their number, the nearest first; columns as long as there are pairs."""

    latent: Int64[Tensor, " pair"]
    neighbor: Int64[Tensor, " pair"]
    cosine: Float[Tensor, " pair"]

    def table(self) -> pa.Table:
        """As Arrow."""
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
    """The `count` others of largest cosine between rows, among those that fire and write anything."""
    there = (alive & (rows.norm(dim=1) > 0)).nonzero().flatten()
    unit = normalize(rows[there], dim=1)
    count = min(count, len(there) - 1)
    if count < 1:
        nothing = torch.zeros(0, dtype=torch.int64)
        return Neighbors(nothing, nothing, torch.zeros(0))
    places, cosines = [], []
    for part in torch.arange(len(there), device=rows.device).split(max(1, _ENTRIES // len(there))):
        similarity = unit[part] @ unit.T
        similarity[torch.arange(len(part)), part] = -torch.inf
        best = similarity.topk(count, dim=1)
        places.append(best.indices)
        cosines.append(best.values)
    return Neighbors(
        there.repeat_interleave(count).cpu(),
        there[torch.cat(places).flatten()].cpu(),
        torch.cat(cosines).flatten().cpu(),
    )


def neighbors_of(view: DictionaryView, documents: Int64[Tensor, " latent"]) -> pa.Table:
    """Of the latents of a dictionary, by their decoder rows: those of all models end to end, in training space."""
    crosscoder = view.crosscoder
    widths = torch.tensor(crosscoder.config.d_models, device=view.device)
    scale = crosscoder.score_scale.to(view.device).repeat_interleave(widths)
    rows = crosscoder.W_dec.detach().float() * scale
    return neighbors(rows, documents.to(view.device) > 0).table()
