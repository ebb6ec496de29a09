"""Training tokens in a seeded random order that takes three numbers to resume; and the order of blocks that are shuffled one by one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Self, TypedDict, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationReader
from crosscoder.errors import DataError

# First entry of every seed, so that no two random streams coincide (documents.py has 1, extraction.py 2, 3, 8).
PASS_STREAM = 4
SAMPLE_STREAM = 5
_BLOCK_STREAM = 6
_HALF_STREAM = 9

HALVES = 2
"""Parts of the training documents that `TokenSource.half` chooses from."""


class SourceState(TypedDict):
    """Position in a stream of batches. Everything else follows from the seed, so three numbers are enough."""

    pass_index: int
    """Complete passes over the training tokens so far."""
    block: int
    """Block of the pass, where blocks are shuffled; 0 for a source that shuffles a pass as a whole."""
    offset: int
    """Tokens of the block (or of the pass) that were already returned."""


class SeededSource:
    """Base of all sources: the seed determines the order of the tokens, but not which are held out."""

    _held_out: ActivationReader
    _seed: int

    def held_out(self) -> ActivationReader:
        """See `TokenSource.held_out`."""
        return self._held_out

    def reordered(self, seed: int) -> Self:
        """See `TokenSource.reordered`."""
        other = copy(self)
        other._seed = seed
        return other


class BlockSource(SeededSource):
    """Base of the sources that split a pass into blocks, and shuffle each of them. A state holds no tokens: on resuming, its block is
    made again."""

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """See `TokenSource.batches`."""
        state = state or SourceState(pass_index=0, block=0, offset=0)
        parts: list[Tensor] = []
        missing, offset = batch_tokens, state["offset"]
        blocks = self._blocks(state["pass_index"], state["block"])
        for pass_index, block, rows in prefetch(blocks) if self._prefetches() else blocks:
            order = torch.from_numpy(
                np.random.default_rng([self._seed, _BLOCK_STREAM, pass_index, block]).permutation(len(rows))
            )
            while offset < len(rows):
                parts.append(rows[order[offset : offset + missing]])
                offset += len(parts[-1])
                missing -= len(parts[-1])
                if not missing:
                    yield torch.cat(parts), SourceState(pass_index=pass_index, block=block, offset=offset)
                    parts, missing = [], batch_tokens
            offset = 0

    def _blocks(self, pass_index: int, block: int) -> Iterator[tuple[int, int, Float[Tensor, "token width"]]]:
        """Yield unshuffled blocks in order, pass after pass, beginning with `block` of `pass_index`."""
        raise NotImplementedError

    def _prefetches(self) -> bool:
        """Whether a block is made on another thread while the one before it is used."""
        raise NotImplementedError


def half_of(documents: Int64[np.ndarray, " document"], number: int) -> Int64[np.ndarray, " chosen"]:
    """Return one half of the documents, by a draw that depends on their number alone."""
    if len(documents) < HALVES:
        raise DataError(
            f"controls.seeds: every other training reads its own half of the training documents, but there are {len(documents)}; "
            "add documents, or set controls.seeds to 0"
        )
    order = np.random.default_rng(_HALF_STREAM).permutation(documents)
    return np.sort(order[number::HALVES])


Item = TypeVar("Item")


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the same items, computing the next one on another thread meanwhile; at most two are held."""
    done = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next block") as executor:
        upcoming = executor.submit(next, items, done)
        while (item := upcoming.result()) is not done:
            upcoming = executor.submit(next, items, done)
            yield cast(Item, item)
