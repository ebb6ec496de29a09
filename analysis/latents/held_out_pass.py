"""The pass over held-out tokens: everything that is accumulated from its batches."""

from collections.abc import Iterator
from typing import NamedTuple

from crosscoder.activations.batch import ActivationBatch, ActivationReader
from crosscoder.config import AnalysisConfig

from .checkpoint_statistics import ChainAccumulator, ChainStatistics
from .dictionary_view import DictionaryView, PairedView
from .examples import RowFinder
from .mean_difference import DifferenceAccumulator, DifferenceMoments
from .peaks import DocumentPeaks, PeakAccumulator
from .statistics import Statistics, StatisticsAccumulator
from .token_context import TokenContext

# Documents sampled per quantile example, so that quantiles are over many peaks.
_SAMPLED_PER_EXAMPLE = 8

# Largest number of tokens per batch, and of tokens times latents, so that even a dense code fits in memory.
_MAX_BATCH = 2048
_BATCH_ENTRIES = 2**26


def batches_for(view: DictionaryView, reader: ActivationReader) -> Iterator[ActivationBatch]:
    """Return the batches of a reader, in sizes that suit the view."""
    return reader.batches(max(1, min(_MAX_BATCH, _BATCH_ENTRIES // view.n_latents)))


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

    def update(self, batch: ActivationBatch) -> None:
        """Add a batch, in the order of the reader."""
        observation = self.view.observe(batch.values)
        self.statistics.update(batch, observation)
        self.peaks.update(batch, observation.codes.sparse_latents)
        self.finder.update(batch)
        if self.difference is not None:
            self.difference.update(batch)
        if self.chain is not None:
            self.chain.update(batch, observation)

    def result(self) -> Pass:
        """Return the result of all batches added so far."""
        difference = None if self.difference is None else self.difference.result()
        chain = None if self.chain is None else self.chain.result()
        return Pass(
            self.statistics.result(), self.peaks.top, self.peaks.sample, self.finder, difference, chain
        )
