"""The pass over held-out tokens: everything that is accumulated from its batches."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, ActivationReader
from crosscoder.config import AnalysisConfig

from .block_groups import BlockGroup, batches_of
from .checkpoint_statistics import ChainAccumulator, ChainStatistics
from .dictionary_view import DictionaryView, PairedView
from .examples import RowFinder
from .mean_difference import DifferenceAccumulator, DifferenceMoments
from .ordered_sums import under, with_prefixes
from .peaks import DocumentPeaks, PeakAccumulator
from .statistics import Statistics, StatisticsAccumulator
from .token_context import TokenContext

# Documents sampled per quantile example, so that quantiles are over many peaks.
_SAMPLED_PER_EXAMPLE = 8

# Largest number of tokens per batch, and of tokens times latents, so that even a dense code fits in memory.
_MAX_BATCH = 2048
_BATCH_ENTRIES = 2**26


def batch_tokens_for(view: DictionaryView) -> int:
    """Return the number of tokens of a batch that suits the view."""
    return max(1, min(_MAX_BATCH, _BATCH_ENTRIES // view.n_latents))


def batches_for(view: DictionaryView, reader: ActivationReader) -> Iterator[ActivationBatch]:
    """Return the batches of a reader, in sizes that suit the view."""
    return reader.batches(batch_tokens_for(view))


class Pass(NamedTuple):
    """The result of a pass over the held-out tokens."""

    statistics: Statistics
    top: DocumentPeaks
    sample: DocumentPeaks
    finder: RowFinder
    difference: DifferenceMoments | None
    """Moments of intervened - reference; None if the models share no space."""
    chain: ChainStatistics | None = None
    """Statistics of all checkpoints; None without snapshots."""


@runtime_checkable
class _Joined(Protocol):
    """What is accumulated by several processes, each from other groups of documents."""

    def tensors(self) -> dict[str, Tensor]: ...

    def join(self, tensors: Mapping[str, Tensor]) -> None: ...


class PassAccumulator:
    """Accumulates a `Pass` from batches. The rows of a document must be contiguous."""

    def __init__(
        self, view: DictionaryView, context: TokenContext, settings: AnalysisConfig, seed: int
    ) -> None:
        self.view = view
        self.statistics = StatisticsAccumulator(view, context, settings.bootstrap_blocks, seed)
        self.peaks = PeakAccumulator(
            settings.top_examples, settings.quantile_examples * _SAMPLED_PER_EXAMPLE, seed
        )
        self.finder = RowFinder()
        self.difference = DifferenceAccumulator(view.d_models) if view.comparable else None
        self.chain = (
            ChainAccumulator(view, settings.bootstrap_blocks, seed)
            if isinstance(view, PairedView) and len(view.d_models) > 2
            else None
        )

    def update(self, batch: ActivationBatch, rows: Int64[np.ndarray, " token"] | None = None) -> None:
        """Add a batch to the current group, in the order of the reader.

        Args:
            rows: Its rows in the reader; by default those after the batch before.
        """
        observation = self.view.observe(batch.values)
        self.statistics.update(batch, observation)
        self.peaks.update(batch, observation.codes.sparse_latents)
        self.finder.update(batch, rows)
        if self.difference is not None:
            self.difference.update(batch)
        if self.chain is not None:
            self.chain.update(batch, observation)

    def read(
        self, reader: ActivationReader, group: BlockGroup, progress: Callable[[int], object] = lambda _: None
    ) -> None:
        """Add a group of blocks of documents. `progress` receives the number of tokens of each batch."""
        start = 0
        for batch in batches_of(reader, group, batch_tokens_for(self.view)):
            end = start + len(batch.values)
            self.update(batch, group.rows[start:end])
            progress(end - start)
            start = end
        for part in (self.statistics, self.difference, self.chain):
            if part is not None:
                part.end_group(group.number)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that was read as named tensors, for `join` in another process."""
        return with_prefixes({name: part.tensors() for name, part in self._parts().items()})

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the groups that another process read, none of which this one did."""
        for name, part in self._parts().items():
            part.join(under(tensors, name))

    def result(self) -> Pass:
        """Return the result of all batches added so far."""
        difference = None if self.difference is None else self.difference.result()
        chain = None if self.chain is None else self.chain.result()
        return Pass(
            self.statistics.result(), self.peaks.top, self.peaks.sample, self.finder, difference, chain
        )

    def _parts(self) -> dict[str, _Joined]:
        found: dict[str, _Joined | None] = {
            "statistics": self.statistics,
            "peaks": self.peaks,
            "finder": self.finder,
            "difference": self.difference,
            "chain": self.chain,
        }
        return {name: part for name, part in found.items() if part is not None}
