"""Readers and statistics of tensors in memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from analysis.latents.dictionary_view import DictionaryView
from analysis.latents.statistics import Statistics, StatisticsAccumulator
from analysis.latents.token_context import RowContext
from crosscoder.activations.batch import ActivationBatch

BLOCKS = 16


class MemoryReader:
    """An `ActivationReader` with documents of equal length."""

    def __init__(
        self, values: Float[Tensor, "token width"], d_models: tuple[int, ...], document_tokens: int = 20
    ) -> None:
        self.values = values
        self.d_models = d_models
        self.n_tokens = len(values)
        row = torch.arange(self.n_tokens)
        self.document, self.position = row // document_tokens, row % document_tokens

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        return self.document.numpy()

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        return ActivationBatch(self.values[rows], self.document[rows], self.position[rows])

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        for start in range(0, self.n_tokens, size):
            yield self.gather(torch.arange(start, min(start + size, self.n_tokens)))

    def context(self) -> RowContext:
        return RowContext(self.document.numpy().astype(np.int64))


def collect(
    view: DictionaryView,
    reader: MemoryReader,
    batches: Sequence[ActivationBatch] | None = None,
    seed: int = 0,
) -> Statistics:
    """Return the statistics of all tokens of a reader, or of the given batches."""
    accumulator = StatisticsAccumulator(view, reader.context(), BLOCKS, seed)
    for batch in [reader.gather(torch.arange(reader.n_tokens))] if batches is None else batches:
        accumulator.update(batch, view.observe(batch.values))
    return accumulator.result()
