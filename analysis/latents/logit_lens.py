"""The logit lens of each latent: its raw decoder directions through a model's final norm and unembedding.

The logit lens (nostalgebraist 2020) of d^reference through the reference, of d^intervened through the intervened model, and of their
difference through the intervened model. It ignores all later layers, so it is exact at the last layer and a hint before it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..tables.columns import LOGITS
from .dictionary_view import DictionaryView
from .geometry import NEGLIGIBLE_NORM
from .readable_lists import DRAWS, DirectionReader, ListTests, NullLists, TokenLists, null_lists, token_lists


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


def n_read(view: DictionaryView, alive: Bool[Tensor, " latent"]) -> int:
    """Return how many directions `lens_nulls` and `logits_table` go through, for a progress bar."""
    tables = lens_directions(view)
    return len(tables) * int(alive.sum()) + len({model for _, model, _ in tables.values()}) * DRAWS


def lens_nulls(
    view: DictionaryView,
    reader: DirectionReader,
    alive: Bool[Tensor, " latent"],
    count: int,
    seed: int,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[int, NullLists]:
    """Return, for each model that directions are read through, the lists of random directions made of its alive latents.

    The difference of two directions is compared with random directions of the intervened model, where there are any: all differences of
    a small intervention can lie along a few directions, and mixtures of these read as tokens as well as they do.

    Args:
        count: Tokens of the longest list that is compared with them.
    """
    nulls: dict[int, NullLists] = {}
    for directions, model, _ in lens_directions(view).values():
        present = alive.to(directions.device) & (directions.norm(dim=1) > 0)
        if model not in nulls and bool(present.any()):
            nulls[model] = null_lists(reader, directions[present], model, count, seed, progress)
    return nulls


def logits_table(
    view: DictionaryView,
    reader: DirectionReader,
    alive: Bool[Tensor, " latent"],
    count: int,
    vocabularies: tuple[Sequence[str], Sequence[str]],
    nulls: Mapping[int, NullLists],
    rate: float,
    progress: Callable[[int], object] = lambda _: None,
) -> pa.Table:
    """Return the `count` top and bottom tokens of each alive latent and table, without directions that are too short.

    Args:
        vocabularies: Display texts of the token ids of reference and intervened model.
        nulls: `lens_nulls` of the same latents.
        rate: False-discovery rate of the lists that are called readable, within each table and side.
    """
    parts = []
    texts = [pa.array(list(vocabulary), pa.string()) for vocabulary in vocabularies]
    for model, (directions, index, empty) in lens_directions(view).items():
        latents = (alive & ~empty.cpu()).nonzero().flatten()
        progress(int(alive.sum()) - len(latents))
        if not len(latents):
            continue
        found = token_lists(reader, directions[latents.to(directions.device)], index, count, progress)
        for side, lists in found.items():
            tests = nulls[index].test(side, lists.cosines, rate)
            parts.append(_rows(latents, model, side, lists, tests, texts[index]))
    return pa.concat_tables([LOGITS.schema().empty_table(), *parts]).sort_by(
        [(name, "ascending") for name in ("latent", "model", "side", "rank")]
    )


def _rows(
    latents: Tensor, model: str, side: str, lists: TokenLists, tests: ListTests, text: pa.Array
) -> pa.Table:
    n_latents, count = lists.token_ids.shape
    flat = lists.token_ids.flatten().numpy()
    if len(flat) and flat.max() >= len(text):
        # An unembedding can have more rows than the vocabulary has tokens.
        more = pa.array([f"<id {token}>" for token in range(len(text), int(flat.max()) + 1)])
        text = pa.concat_arrays([text, more])
    return LOGITS.build(
        {
            "latent": np.repeat(latents.numpy(), count),
            "model": [model] * len(flat),
            "side": [side] * len(flat),
            "rank": np.tile(np.arange(count), n_latents),
            "token_id": flat,
            "token": text.take(pa.array(flat)),
            "value": lists.values.flatten().numpy(),
            "alignment": np.repeat(tests.alignments, count),
            "p_value": np.repeat(tests.p_values, count),
            "q_value": np.repeat(tests.q_values, count),
            "readable": np.repeat(tests.readable, count),
        }
    )


def count_readable(logits: pa.Table) -> dict[str, dict[str, dict[str, int]]]:
    """Return, for summary.json, the lists of each table and side, and how many of them read as tokens."""
    first = logits.filter(pc.field("rank") == 0)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for model, side, readable in zip(
        *(first[name].to_pylist() for name in ("model", "side", "readable")), strict=True
    ):
        count = counts.setdefault(model, {}).setdefault(side, {"lists": 0, "readable": 0})
        count["lists"] += 1
        count["readable"] += int(readable)
    return counts
