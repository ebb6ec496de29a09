"""Sources of training tokens: shards, on a disk or at a URL (`store_source`), a user's own arrays, or the models themselves."""

from collections.abc import Iterator
from copy import copy
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationReader
from crosscoder.activations.shard_store import StoreReader, open_shards
from crosscoder.activations.shards import DOCUMENTS, Manifest
from crosscoder.activations.user_files import open_files
from crosscoder.config import CachedActivations, FileActivations, RunConfig, StreamedActivations
from crosscoder.errors import ConfigError, DataError, FormatError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.process_group import ProcessGroup
from crosscoder.text.documents import Documents

from .block_order import PASS_STREAM, SAMPLE_STREAM, BlockSource, SeededSource, SourceState, half_of
from .extraction import (
    Batch,
    extract,
    group_batches,
    pack_documents,
    plan_batches,
    sample_documents,
)
from .harvest_identity import check_identity, harvest_settings
from .shared_stream import SharedBlocks
from .store_source import StoreSource


@runtime_checkable
class TrainingTokens(Protocol):
    """What one training reads: training tokens in a seeded random order, and held-out tokens."""

    d_models: tuple[int, ...]
    """Width of each model."""

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """Yield batches endlessly, each with the state after it.

        Every training token occurs exactly once per pass, and each pass has its own order. A batch that crosses the end of a
        pass continues with the next pass. The batches that follow a state are reproduced bit for bit.
        """
        ...

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """Draw up to `n_tokens` training tokens without replacement, independently of the batches."""
        ...

    def held_out(self) -> ActivationReader:
        """Reader of the tokens that are never trained on."""
        ...


@runtime_checkable
class TokenSource(TrainingTokens, Protocol):
    """The tokens of a run, for all of its trainings."""

    n_train_tokens: int
    """Tokens of one pass. An upper bound for streamed activations, whose norm outliers are dropped during the pass."""

    def reordered(self, seed: int) -> Self:
        """The same source with its passes in the order of another seed, and the same tokens held out."""
        ...

    def half(self, number: int) -> Self:
        """One half of the training documents (0 or 1), the same for every seed; together the halves are the whole. Held-out tokens stay
        the same.

        Raises:
            DataError: A half would have no tokens.
        """
        ...


class CachedSource(SeededSource):
    """Training tokens from a reader with random access: shards, or any other `ActivationReader`."""

    def __init__(self, train: ActivationReader, held_out: ActivationReader, seed: int) -> None:
        if not train.n_tokens:
            raise DataError(
                "activations: no token is left to train on; raise tokens.outlier_multiple, or add more text"
            )
        self.d_models = train.d_models
        self.n_train_tokens = train.n_tokens
        self._train = train
        self._held_out = held_out
        self._seed = seed
        self._rows: Int64[np.ndarray, " token"] | None = None
        """Stored rows to train on; None: all."""

    def half(self, number: int) -> Self:
        """See `TokenSource.half`."""
        document = self._train.documents
        rows = np.flatnonzero(np.isin(document, half_of(np.unique(document), number)))
        other = copy(self)
        other._rows, other.n_train_tokens = rows, len(rows)
        return other

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
            batch = self._train.gather(self._stored(rows))
            yield batch.values, SourceState(pass_index=pass_index, block=0, offset=offset)

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`."""
        order = np.random.default_rng([self._seed, SAMPLE_STREAM]).permutation(self.n_train_tokens)
        return self._train.gather(self._stored(np.sort(order[:n_tokens]))).values

    def _stored(self, rows: Int64[np.ndarray, " token"]) -> Int64[Tensor, " token"]:
        """Return the stored rows of rows of this source."""
        return torch.from_numpy(rows if self._rows is None else self._rows[rows])

    def _order(self, pass_index: int) -> Int64[np.ndarray, " token"]:
        return np.random.default_rng([self._seed, PASS_STREAM, pass_index]).permutation(self.n_train_tokens)


class FileSource(CachedSource):
    """Training tokens from a user's own arrays; whole documents are held out.

    Raises:
        DataError, ConfigError, FormatError: See `open_files`.
    """

    def __init__(self, config: FileActivations, seed: int) -> None:
        sides = open_files(config, seed)
        super().__init__(sides.train, sides.held_out, seed)


class StreamedSource(BlockSource):
    """Training tokens directly from the models, shuffled in blocks of about `buffer_tokens`.

    A pass covers all training documents in a seeded order, split into blocks in advance. Each block is extracted, shuffled as
    a whole and split into batches.
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
        """`max_norms` and `held_out` come from the harvest of the held-out documents."""
        self.d_models = pair.d_models
        self.n_train_tokens = int(documents.unmasked[documents.split(held_out=False)].sum())
        self._pair = pair
        self._documents = documents
        self._config = config
        self._seed = seed
        self._held_out = held_out
        self._max_norms = max_norms
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._sampled: tuple[int, Tensor] | None = None
        self.shared: SharedBlocks | None = None
        """The blocks that other ranks train on, too, if this source has the same."""

    def share(self, group: ProcessGroup) -> Self:
        """The same source, whose blocks all ranks compute together (`training.shared_stream`). Its halves, and its tokens in the order of
        another seed, are other blocks, which each rank computes for itself."""
        other = copy(self)
        other.shared = SharedBlocks(group, self._planned, self._rows, sum(self.d_models), self._dtype)
        return other

    def reordered(self, seed: int) -> Self:
        """See `TokenSource.reordered`."""
        other = super().reordered(seed)
        other.shared = self.shared if seed == self._seed else None
        return other

    def half(self, number: int) -> Self:
        """See `TokenSource.half`."""
        chosen = half_of(self._documents.split(held_out=False), number)
        other = copy(self)
        other._documents = self._documents.training_on(chosen)
        other.n_train_tokens = int(self._documents.unmasked[chosen].sum())
        other._sampled = other.shared = None
        return other

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`. Extracts whole documents until there are enough tokens, and caches the last sample."""
        if self._sampled is None or self._sampled[0] != n_tokens:
            chosen = sample_documents(self._documents, n_tokens, self._seed)
            batches = pack_documents(chosen, self._documents, self._config.batch_tokens)
            rows = self._extract(batches)
            chosen = np.random.default_rng([self._seed, SAMPLE_STREAM, n_tokens]).permutation(len(rows))[
                :n_tokens
            ]
            self._sampled = n_tokens, rows[torch.from_numpy(np.sort(chosen))]
        return self._sampled[1]

    def _prefetches(self) -> bool:
        # On a CPU, prefetching would only take cores away from the training step.
        return self._pair.device.type == "cuda"

    def _blocks(self, pass_index: int, block: int) -> Iterator[tuple[int, int, Float[Tensor, "token width"]]]:
        """See `BlockSource`."""
        if self.shared is not None:
            yield from self.shared.follow(pass_index, block)
            return
        for number, index, batches in self._planned(pass_index, block):
            yield number, index, self._extract(batches)

    def _planned(self, pass_index: int, block: int) -> Iterator[tuple[int, int, list[Batch]]]:
        """Yield the batches of blocks in order, without end, beginning with `block` of `pass_index`."""
        settings = self._config
        while True:
            plan = plan_batches(self._documents, False, settings.batch_tokens, self._seed, pass_index)
            blocks = group_batches(plan, self._documents, settings.buffer_tokens)
            for index in range(block, len(blocks)):
                yield pass_index, index, blocks[index]
            pass_index, block = pass_index + 1, 0

    def _extract(self, batches: list[Batch]) -> Float[Tensor, "token width"]:
        """Extract the rows of `batches` into one buffer, so that memory holds a single copy."""
        size = sum(int(self._documents.unmasked[batch].sum()) for batch in batches)
        buffer = torch.empty(size, sum(self.d_models), dtype=self._dtype)
        filled = 0
        for batch in batches:
            rows = self._rows(batch)
            buffer[filled : filled + len(rows)] = rows
            filled += len(rows)
        return buffer[:filled]

    def _rows(self, batch: Batch) -> Float[Tensor, "token width"]:
        return extract(self._pair, self._documents, batch, self._max_norms, self._dtype).values


def open_source(folder: RunFolder, config: RunConfig, pair: ModelPair | None = None) -> TokenSource:
    """Open the source of a run's training tokens. Cached and streamed activations need a finished harvest, in the run folder or at a URL.

    Args:
        pair: The models, for streamed activations; loaded here if not given.

    Raises:
        FormatError: The harvest is missing, unfinished, damaged, or was made with other settings.
        DataError, ConfigError: See `FileSource`.
    """
    settings = config.activations
    if isinstance(settings, FileActivations):
        return FileSource(settings, config.seed)
    harvest_folder = folder.activations
    manifest = Manifest.load(harvest_folder)
    check_identity(manifest, {"settings": harvest_settings(config)}, str(harvest_folder))
    if pair is not None:
        check_identity(manifest, {"pair": pair.identity()}, str(harvest_folder))
    held_out = open_shards(settings, harvest_folder, "held_out")
    if isinstance(settings, CachedActivations):
        train = open_shards(settings, harvest_folder, "train")
        if not isinstance(train, StoreReader) or settings.store is None:
            return CachedSource(train, held_out, config.seed)
        documents = harvest_folder / DOCUMENTS
        return StoreSource(train, held_out, config.seed, settings.store.buffer_tokens, documents)
    if config.pair is None:
        raise ConfigError("pair: missing; streamed activations need both models")
    pair = pair or load_pair(config.pair)
    check_identity(manifest, {"pair": pair.identity()}, str(harvest_folder))
    documents = Documents.load(harvest_folder / DOCUMENTS)
    if documents.digest() != manifest.documents_digest:
        raise FormatError(
            f"{harvest_folder / DOCUMENTS}: changed since the harvest; remove {harvest_folder} and run the harvest again"
        )
    return StreamedSource(pair, documents, settings, config.seed, held_out, manifest.max_norms)
