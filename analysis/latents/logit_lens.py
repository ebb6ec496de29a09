"""The logit lens of each latent: its raw decoder directions through a model's final norm and unembedding.

The logit lens (nostalgebraist 2020) of d^reference through the reference, of d^intervened through the intervened model, and of their
difference through the intervened model. It ignores all later layers, so it is exact at the last layer and a hint before it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..tables.columns import LOGITS
from .dictionary_view import DictionaryView
from .geometry import NEGLIGIBLE_NORM

_CHUNK = 256


@runtime_checkable
class DirectionReader(Protocol):
    """The part of `ModelPair` that the logit lens needs."""

    def direction_logits(
        self, directions: Float[Tensor, "latent d_model"], model: int
    ) -> Float[Tensor, "latent vocabulary"]:
        """Return directions through the final norm and the unembedding of a model."""
        ...


def lens_directions(
    view: DictionaryView,
) -> dict[str, tuple[Float[Tensor, "latent d_model"], int, Bool[Tensor, " latent"]]]:
    """Return, for each table, the directions in raw units, the index of the model to read them through, and which are too short to read."""
    if view.reads == "difference":
        return {"difference": (view.raw[0], 1, view.raw[0].norm(dim=1) == 0)}
    if view.reads == "pooled":
        empty = view.raw[0].norm(dim=1) == 0
        return {"reference": (view.raw[0], 0, empty), "intervened": (view.raw[0], 1, empty)}
    reference, intervened = view.raw[:2]
    norms = reference.norm(dim=1), intervened.norm(dim=1)
    limit = NEGLIGIBLE_NORM * torch.maximum(*norms)
    tables = {
        "reference": (reference, 0, norms[0] <= limit),
        "intervened": (intervened, 1, norms[1] <= limit),
    }
    if view.comparable:
        difference = view.shift_directions()
        tables["difference"] = (difference, 1, difference.norm(dim=1) <= limit)
    return tables


def logits_table(
    view: DictionaryView,
    reader: DirectionReader,
    alive: Bool[Tensor, " latent"],
    count: int,
    vocabularies: tuple[Sequence[str], Sequence[str]],
    progress: Callable[[int], object] = lambda _: None,
) -> pa.Table:
    """Return the `count` top and bottom tokens of each alive latent and table, without directions that are too short.

    Args:
        vocabularies: Display texts of the token ids of reference and intervened model.
    """
    parts = []
    texts = [pa.array(list(vocabulary), pa.string()) for vocabulary in vocabularies]
    for model, (directions, index, empty) in lens_directions(view).items():
        latents = (alive & ~empty.cpu()).nonzero().flatten()
        progress(int(alive.sum()) - len(latents))
        text = texts[index]
        for chunk in latents.split(_CHUNK):
            logits = reader.direction_logits(directions[chunk.to(directions.device)], index)
            if logits.shape[1] > len(text):
                # An unembedding can have more rows than the vocabulary has tokens.
                text = pa.concat_arrays(
                    [text, pa.array([f"<id {i}>" for i in range(len(text), logits.shape[1])])]
                )
            for side, largest in (("top", True), ("bottom", False)):
                ends = logits.topk(min(count, logits.shape[1]), dim=1, largest=largest)
                parts.append(_rows(chunk, model, side, ends.indices.cpu(), ends.values.float().cpu(), text))
            progress(len(chunk))
    return pa.concat_tables([LOGITS.schema().empty_table(), *parts]).sort_by(
        [(name, "ascending") for name in ("latent", "model", "side", "rank")]
    )


def _rows(latents: Tensor, model: str, side: str, ids: Tensor, values: Tensor, text: pa.Array) -> pa.Table:
    n_latents, count = ids.shape
    flat = ids.flatten().numpy()
    return LOGITS.build(
        {
            "latent": np.repeat(latents.numpy(), count),
            "model": [model] * len(flat),
            "side": [side] * len(flat),
            "rank": np.tile(np.arange(count), n_latents),
            "token_id": flat,
            "token": text.take(pa.array(flat)),
            "value": values.flatten().numpy(),
        }
    )
