"""Where the tokens of a training step come from: shards, a user's own arrays, or the models themselves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Protocol, Self, TypedDict, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationReader
from crosscoder.activations.shards import DOCUMENTS, Manifest, ShardReader
from crosscoder.activations.user_files import open_files
from crosscoder.config import FileActivations, RunConfig, StreamedActivations
from crosscoder.errors import ConfigError, DataError, FormatError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents

from .extraction import (
    Batch,
    extract,
    group_batches,
    pack_documents,
    plan_batches,
    sample_documents,
)
from .harvest import check_identity, harvest_settings

# First word of every seed, so that no two uses of randomness share a stream (documents.py has 1, extraction.py 2, 3, 8).
_PASS_STREAM = 4
_SAMPLE_STREAM = 5
_BLOCK_STREAM = 6


class SourceState(TypedDict):
    """Where a stream of batches stands. Everything else follows from the seed, so three numbers are enough."""

    pass_index: int
    """Full passes over the training tokens before this one."""
    block: int
    """Block of the pass, for streamed activations; 0 for the others."""
    offset: int
    """Tokens of the block (or of the pass) that were handed out."""


@runtime_checkable
class TokenSource(Protocol):
    """Training tokens in a seeded random order, and the held-out ones beside them."""

    d_models: tuple[int, ...]
    """Width of each model."""

    n_train_tokens: int
    """Tokens of one pass; with streamed activations an upper bound, as outliers are found only on the way."""

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """Batches without end, each with the state after it.

        Every training token occurs exactly once a pass; each pass has its own order. A batch that the end of a pass
        leaves short is filled up from the beginning of the next. From a state, the same batches follow, bit for bit.
        """
        ...

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """Training tokens drawn without replacement (all, where there are fewer); independent of the batches."""
        ...

    def held_out(self) -> ActivationReader:
        """The tokens that are never trained on."""
        ...

    def reordered(self, seed: int) -> Self:
        """The same tokens in the orders of another seed; the same ones are held out."""
        ...


class _SeededSource:
    """What all sources have: an order that follows from a seed, and held-out tokens that do not."""

    _held_out: ActivationReader
    _seed: int

    def held_out(self) -> ActivationReader:
        """See `TokenSource.held_out`."""
        return self._held_out

    def reordered(self, seed: int) -> Self:
        """See `TokenSource.reordered`."""
        twin = copy(self)
        twin._seed = seed
        return twin


class CachedSource(_SeededSource):
    """Training tokens from a reader with random access. Made for shards; serves any `ActivationReader`."""

    def __init__(self, train: ActivationReader, held_out: ActivationReader, seed: int) -> None:
        if not train.n_tokens:
            raise DataError(
                "activations: no token is left to train on; raise tokens.outlier_multiple, or give more text"
            )
        self.d_models = train.d_models
        self.n_train_tokens = train.n_tokens
        self._train = train
        self._held_out = held_out
        self._seed = seed

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """See `TokenSource.batches`."""
        state = state or SourceState(pass_index=0, block=0, offset=0)
        pass_index, offset = state["pass_index"], state["offset"]
        order = self._order(pass_index)
        while True:
            rows = order[offset : offset + batch_tokens]
            offset += len(rows)
            while len(rows) < batch_tokens:
                pass_index, order = pass_index + 1, self._order(pass_index + 1)
                offset = min(batch_tokens - len(rows), len(order))
                rows = np.concatenate([rows, order[:offset]])
            batch = self._train.gather(torch.from_numpy(rows))
            yield batch.values, SourceState(pass_index=pass_index, block=0, offset=offset)

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`."""
        order = np.random.default_rng([self._seed, _SAMPLE_STREAM]).permutation(self.n_train_tokens)
        return self._train.gather(torch.from_numpy(np.sort(order[:n_tokens]))).values

    def _order(self, pass_index: int) -> Int64[np.ndarray, " token"]:
        return np.random.default_rng([self._seed, _PASS_STREAM, pass_index]).permutation(self.n_train_tokens)


class FileSource(CachedSource):
    """Training tokens from a user's own arrays; whole documents are held out. Raises what `open_files` raises."""

    def __init__(self, config: FileActivations, seed: int) -> None:
        sides = open_files(config, seed)
        super().__init__(sides.train, sides.held_out, seed)


class StreamedSource(_SeededSource):
    """Training tokens straight from the models, shuffled in blocks of about `buffer_tokens`.

    A pass goes over all training documents in a seeded order, cut into blocks before it starts. A block is computed,
    shuffled as a whole and handed out. So a state needs no tokens in it: on resuming, its block is computed again.
    """

    def __init__(
        self,
        pair: ModelPair,
        documents: Documents,
        config: StreamedActivations,
        seed: int,
        held_out: ActivationReader,
        max_norms: tuple[float, ...],
    ) -> None:
        """`max_norms` and `held_out` are from the harvest of the held-out documents."""
        self.d_models = pair.d_models
        self.n_train_tokens = int(documents.unmasked[documents.side(held_out=False)].sum())
        self._pair = pair
        self._documents = documents
        self._config = config
        self._seed = seed
        self._held_out = held_out
        self._max_norms = max_norms
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._sampled: tuple[int, Tensor] | None = None

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """See `TokenSource.batches`."""
        state = state or SourceState(pass_index=0, block=0, offset=0)
        parts: list[Tensor] = []
        missing, offset = batch_tokens, state["offset"]
        blocks = self._blocks(state["pass_index"], state["block"])
        # On a CPU the models would only take the cores from the training step.
        for pass_index, block, rows in ahead(blocks) if self._pair.device.type == "cuda" else blocks:
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

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`. Whole documents are read until there are enough tokens; the last sample is kept."""
        if self._sampled is None or self._sampled[0] != n_tokens:
            chosen = sample_documents(self._documents, n_tokens, self._seed)
            batches = pack_documents(chosen, self._documents, self._config.batch_tokens)
            rows = self._extract(batches)
            chosen = np.random.default_rng([self._seed, _SAMPLE_STREAM, n_tokens]).permutation(len(rows))[
                :n_tokens
            ]
            self._sampled = n_tokens, rows[torch.from_numpy(np.sort(chosen))]
        return self._sampled[1]

    def _blocks(self, pass_index: int, block: int) -> Iterator[tuple[int, int, Float[Tensor, "token width"]]]:
        """Blocks in order from the given one on, pass after pass, not yet shuffled."""
        settings = self._config
        while True:
            plan = plan_batches(self._documents, False, settings.batch_tokens, self._seed, pass_index)
            blocks = group_batches(plan, self._documents, settings.buffer_tokens)
            for index in range(block, len(blocks)):
                yield pass_index, index, self._extract(blocks[index])
            pass_index, block = pass_index + 1, 0

    def _extract(self, batches: list[Batch]) -> Float[Tensor, "token width"]:
        """Rows of some batches, written into one buffer, so that memory holds them once."""
        size = sum(int(self._documents.unmasked[batch].sum()) for batch in batches)
        buffer = torch.empty(size, sum(self.d_models), dtype=self._dtype)
        filled = 0
        for batch in batches:
            rows = extract(self._pair, self._documents, batch, self._max_norms, self._dtype).values
            buffer[filled : filled + len(rows)] = rows
            filled += len(rows)
        return buffer[:filled]


Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; the next one is made on another thread while one is used, so that two are held at most."""
    done = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next block") as executor:
        upcoming = executor.submit(next, items, done)
        while (item := upcoming.result()) is not done:
            upcoming = executor.submit(next, items, done)
            yield cast(Item, item)


def open_source(folder: RunFolder, config: RunConfig, pair: ModelPair | None = None) -> TokenSource:
    """The tokens a run trains on, as its settings say. For cached and streamed ones the harvest comes first.

    Args:
        pair: The models, for streamed activations; loaded here where they are not given.

    Raises:
        FormatError: The harvest is missing, unfinished, damaged, or of other settings.
        DataError, ConfigError: See `FileSource`.
    """
    settings = config.activations
    if isinstance(settings, FileActivations):
        return FileSource(settings, config.seed)
    place = folder.activations
    manifest = Manifest.load(place)
    check_identity(manifest, {"settings": harvest_settings(config)}, str(place))
    if pair is not None:
        check_identity(manifest, {"pair": pair.identity()}, str(place))
    held_out = ShardReader(place, "held_out")
    if not isinstance(settings, StreamedActivations):
        return CachedSource(ShardReader(place, "train"), held_out, config.seed)
    if config.pair is None:
        raise ConfigError("pair: missing; streamed activations need both models")
    pair = pair or load_pair(config.pair)
    check_identity(manifest, {"pair": pair.identity()}, str(place))
    documents = Documents.load(place / DOCUMENTS)
    if documents.digest() != manifest.documents_digest:
        raise FormatError(
            f"{place / DOCUMENTS}: altered since the harvest; remove {place} and run the harvest again"
        )
    return StreamedSource(pair, documents, settings, config.seed, held_out, manifest.max_norms)
