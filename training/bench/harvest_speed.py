"""The speed of reading both models, compared with that of their forward passes alone."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crosscoder.activations.shards import Manifest, ShardWriter, SplitRecord
from crosscoder.language_models.hooks import read_output
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

from ..extraction import Batch, Extracted, extract, pack_documents, pad

# Documents that are read, evenly spaced over all of them.
_N_DOCUMENTS = 256

Padded = tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]


def harvest_passes(pair: ModelPair, documents: Documents, batch_tokens: int) -> dict[str, Callable[[], int]]:
    """Functions that read the same batches, by name; each returns the number of unmasked tokens.

    `bare` runs the forward passes of both models up to the hookpoint and nothing else. `extract` is what the harvest does before
    writing. `harvest` also writes a shard to a temporary folder.
    """
    side = documents.split(held_out=False)
    chosen = side[np.unique(np.linspace(0, len(side) - 1, min(_N_DOCUMENTS, len(side))).astype(np.int64))]
    batches = pack_documents(chosen, documents, batch_tokens)
    # As in `extract`: no longer than the longest document of a batch.
    padded = [pad(documents, batch, int(documents.lengths[batch].max())) for batch in batches]
    n_tokens = int(documents.unmasked[chosen].sum())

    def bare() -> int:
        for token_ids, mask in padded:
            _pass(pair, token_ids.to(pair.device), mask.to(pair.device))
        return n_tokens

    def extracted() -> int:
        return sum(len(rows.values) for rows in _extract(pair, documents, batches))

    def harvested() -> int:
        return _write(pair, _extract(pair, documents, batches))

    return {"bare": bare, "extract": extracted, "harvest": harvested}


def _pass(
    pair: ModelPair, token_ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"]
) -> None:
    for model, hookpoint in enumerate(pair.hookpoints):
        with pair.switched(model) as network:
            read_output(network, network.get_submodule(hookpoint), token_ids, mask)
    if pair.device.type == "cuda":
        torch.cuda.synchronize(pair.device)


def _extract(pair: ModelPair, documents: Documents, batches: list[Batch]) -> list[Extracted]:
    no_limits = (float("inf"),) * len(pair.d_models)
    return [extract(pair, documents, batch, no_limits, torch.bfloat16) for batch in batches]


def _write(pair: ModelPair, parts: list[Extracted]) -> int:
    manifest = Manifest(
        identity={},
        dtype="bfloat16",
        d_models=pair.d_models,
        documents_digest="",
        median_norms=(1.0, 1.0),
        max_norms=(1.0, 1.0),
        sides={"train": SplitRecord(n_planned=1)},
    )
    with tempfile.TemporaryDirectory() as folder:
        writer = ShardWriter(Path(folder), manifest)
        writer.write(
            "train",
            torch.cat([part.values for part in parts]),
            torch.cat([part.document for part in parts]),
            torch.cat([part.position for part in parts]),
            0,
        )
        return writer.record.sides["train"].shards[0].rows
