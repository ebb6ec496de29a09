"""What an inference server would write for a pair: recorded from the pair's own passes of a harvest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from crosscoder.language_models.pair import ModelPair

Change = Callable[[Tensor], Tensor]
Recorded = dict[str, dict[tuple[int, ...], Tensor]]
"""Activations `[token, d_model]` of each model by its name, for each document by its token ids."""


@contextmanager
def recorded(pair: ModelPair) -> Iterator[Recorded]:
    """Record what the pair computes inside the block; a document that is read twice counts as it is read last."""
    found: Recorded = {name: {} for name in pair.model_names}
    together, alone = pair.activations, pair.activations_of

    def keep(model: int, ids: Tensor, mask: Tensor, values: Tensor) -> None:
        for row, real, value in zip(ids, mask, values, strict=True):
            found[pair.model_names[model]][tuple(row[real].tolist())] = value[real].clone()

    def of_all(ids: Tensor, mask: Tensor, n_prefix: int = 0) -> tuple[Tensor, ...]:
        outputs = together(ids, mask, n_prefix)
        for model, values in enumerate(outputs):
            keep(model, ids, mask, values)
        return outputs

    def of_one(model: int, ids: Tensor, mask: Tensor) -> Tensor:
        values = alone(model, ids, mask)
        keep(model, ids, mask, values)
        return values

    own: Any = pair
    own.activations, own.activations_of = of_all, of_one
    try:
        yield found
    finally:
        del own.activations, own.activations_of


def write_files(
    folder: Path, found: Recorded, before: tuple[int, ...] = (), changes: dict[str, Change] | None = None
) -> Path:
    """Write one file for each document and model, under names that say nothing.

    Args:
        before: Token ids of a context that the intervened model reads; their activations are zeros.
        changes: What is done to the activations of a model.
    """
    for model, documents in found.items():
        (folder / model).mkdir(parents=True)
        own = before if model == "intervened" else ()
        change = (changes or {}).get(model, lambda values: values)
        for number, (ids, values) in enumerate(sorted(documents.items(), reverse=True)):
            values = change(torch.cat([values.new_zeros(len(own), values.shape[1]), values]))
            tensors = {"token_ids": torch.tensor([*own, *ids]), "hidden_states": values.contiguous()}
            save_file(tensors, folder / model / f"request-{number}.safetensors")
    return folder
