"""Training tokens from shards at a URL, where a single row cannot be read: whole shards are, in a seeded order."""

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationReader
from crosscoder.activations.shard_store import StoreReader
from crosscoder.errors import DataError
from crosscoder.text.documents import Documents

from .block_order import PASS_STREAM, SAMPLE_STREAM, BlockSource, half_of

SAMPLED_SHARDS = 8
"""Shards that a sample is drawn from, at least."""


class StoreSource(BlockSource):
    """Training tokens from shards at a URL, shuffled in blocks of up to `buffer_tokens`.

    Each pass takes all shards in an order of its own, as many to a block as fit (at least one). The next block is downloaded while one is
    used. A shard holds documents in a seeded order (`extraction.plan_batches`), so a block mixes documents of all texts; two tokens of
    a pass that are far apart in this order meet in no block, unlike where a pass is shuffled as a whole.
    """

    def __init__(
        self, train: StoreReader, held_out: ActivationReader, seed: int, buffer_tokens: int, documents: Path
    ) -> None:
        """`documents`: their file in the run folder, read only to halve them."""
        if not train.n_tokens:
            raise DataError(
                "activations: no token is left to train on; raise tokens.outlier_multiple, or add more text"
            )
        self.d_models = train.d_models
        self.n_train_tokens = train.n_tokens
        self._train = train
        self._held_out = held_out
        self._seed = seed
        self._buffer_tokens = buffer_tokens
        self._documents_file = documents
        self._half: Int64[np.ndarray, " document"] | None = None
        """Documents to train on; None: all."""

    def describe_order(self) -> dict[str, Any]:
        """How the tokens of a pass are mixed, for the manifest of the run."""
        rows = self._train.shard_rows
        return {
            "shuffled": "in blocks of whole shards",
            "buffer_tokens": self._buffer_tokens,
            "shards": len(rows),
            "largest_shard_tokens": int(rows.max()),
            "blocks_of_first_pass": len(self._grouped(0)),
        }

    def half(self, number: int) -> Self:
        """See `TokenSource.half`. Its number of tokens is an upper bound: those that were dropped for their norm count."""
        documents = Documents.load(self._documents_file)
        chosen = half_of(documents.split(held_out=False), number)
        other = copy(self)
        other._half, other.n_train_tokens = chosen, int(documents.unmasked[chosen].sum())
        return other

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`. Draws from the tokens of some shards, of as many as it takes."""
        generator = np.random.default_rng([self._seed, SAMPLE_STREAM])
        order = generator.permutation(len(self._train.shard_rows))
        parts, n_read = list[Tensor](), 0
        for place, index in enumerate(order.tolist()):
            if place >= SAMPLED_SHARDS and n_read >= n_tokens:
                break
            parts.append(self._rows_of([index]))
            n_read += len(parts[-1])
        rows = torch.cat(parts)
        return rows[torch.from_numpy(np.sort(generator.permutation(n_read)[:n_tokens]))]

    def _prefetches(self) -> bool:
        return True

    def _blocks(self, pass_index: int, block: int) -> Iterator[tuple[int, int, Float[Tensor, "token width"]]]:
        """See `BlockSource`."""
        while True:
            blocks = self._grouped(pass_index)
            for index in range(block, len(blocks)):
                yield pass_index, index, self._rows_of(blocks[index])
            pass_index, block = pass_index + 1, 0

    def _grouped(self, pass_index: int) -> list[list[int]]:
        """Return the shards of each block of a pass."""
        rows = self._train.shard_rows
        order = np.random.default_rng([self._seed, PASS_STREAM, pass_index]).permutation(len(rows))
        blocks: list[list[int]] = []
        room = 0
        for shard in order.tolist():
            if not blocks or rows[shard] > room:
                blocks.append([])
                room = self._buffer_tokens
            blocks[-1].append(shard)
            room -= int(rows[shard])
        return blocks

    def _rows_of(self, shards: list[int]) -> Float[Tensor, "token width"]:
        values, document = self._train.whole_shards(shards)
        if self._half is None:
            return values
        return values[torch.from_numpy(np.isin(document.numpy(), self._half))]
