"""Examples of where each latent fires, with its value on every token shown and what it writes into each model there.

Which documents to show is known after the first pass (`peaks`). The tokens around the peaks are then read once more and
encoded again, so that nothing but a few numbers a latent is kept in between.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64

from crosscoder.activations.batch import ActivationBatch, ActivationReader

from ..tables.columns import EXAMPLES
from .dictionary_view import DictionaryView
from .peaks import Peaks
from .token_context import TokenContext

# Rows encoded at a time, and latents whose examples are held in memory at a time.
_ROWS = 4096
_LATENTS = 8192


class RowFinder:
    """Where in a reader the tokens of each document lie; filled while the reader is read through."""

    def __init__(self) -> None:
        self._documents: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []

    def update(self, batch: ActivationBatch) -> None:
        """Add a batch, in the order of the reader."""
        self._documents.append(batch.document.cpu().numpy().astype(np.int64))
        self._positions.append(batch.position.cpu().numpy().astype(np.int64))

    def lookup(self) -> Callable[[np.ndarray, np.ndarray], Int64[np.ndarray, " item"]]:
        """A function from documents and positions to rows; -1 where the reader has no such token (it was masked)."""
        document, position = np.concatenate(self._documents), np.concatenate(self._positions)
        names = np.unique(document)
        span = int(position.max(initial=0)) + 1
        keys = np.searchsorted(names, document) * span + position
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]

        def find(document: np.ndarray, position: np.ndarray) -> np.ndarray:
            inside = (position >= 0) & (position < span)
            wanted = np.searchsorted(names, document) * span + position
            place = np.searchsorted(ordered, wanted).clip(max=len(ordered) - 1)
            return np.where(inside & (ordered[place] == wanted), order[place], -1)

        return find


class Chosen(NamedTuple):
    """Which examples to show: one entry each, by latent."""

    peaks: Peaks
    rank: Int64[np.ndarray, " entry"]
    """From 0, strongest first, among the top examples or among those drawn over the quantiles."""
    quantile: Float32[np.ndarray, " entry"]
    """Where the peak lies among the sampled peaks of the latent, 1 = the largest; NaN for a top example."""

    def part(self, begin: int, end: int) -> Self:
        """The entries from `begin` up to `end`."""
        return type(self)(
            self.peaks.take(np.arange(begin, end)), self.rank[begin:end], self.quantile[begin:end]
        )


def choose(top: Peaks, sample: Peaks, n_quantile: int) -> Chosen:
    """All top examples, and of each latent's sample `n_quantile` more, evenly spaced over the peaks that are left."""
    by_peak = sample.take(np.lexsort((sample.document, -sample.peak, sample.latent)))
    _, first, counts = np.unique(by_peak.latent, return_index=True, return_counts=True)
    size = np.repeat(counts, counts)
    quantile = 1 - (np.arange(len(by_peak)) - np.repeat(first, counts) + 0.5) / np.maximum(size, 1)
    _, document = np.unique(np.concatenate([top.document, by_peak.document]), return_inverse=True)
    pair = np.concatenate([top.latent, by_peak.latent]) * (document.max(initial=0) + 1) + document
    left = ~np.isin(pair[len(top) :], pair[: len(top)])
    rest, quantile = by_peak.take(left), quantile[left]
    _, counts = np.unique(rest.latent, return_counts=True)
    size, rank = np.repeat(counts, counts), rest.rank()
    kept = np.minimum(size, n_quantile)
    spaced = (rank + 1) * kept // np.maximum(size, 1) > rank * kept // np.maximum(size, 1)
    drawn = rest.take(spaced)
    peaks = Peaks.joined([top, drawn])
    rank = np.concatenate([top.rank(), drawn.rank()])
    where = np.concatenate([np.full(len(top), np.nan), quantile[spaced]]).astype(np.float32)
    order = np.lexsort((rank, ~np.isnan(where), peaks.latent))
    return Chosen(peaks.take(order), rank[order], where[order])


def examples_table(
    reader: ActivationReader,
    view: DictionaryView,
    context: TokenContext,
    finder: RowFinder,
    chosen: Chosen,
    context_tokens: int,
    progress: Callable[[int], object] = lambda _: None,
) -> pa.Table:
    """One row an example (columns: `EXAMPLES`); `context_tokens` tokens on each side of the peak.

    A token that is masked shows 0, as does one on which the latent does not fire. `progress` is told of rows read.
    """
    find = finder.lookup()
    bounds = np.searchsorted(chosen.peaks.latent, np.arange(0, view.n_latents + _LATENTS, _LATENTS))
    wide = np.abs(chosen.peaks.document).max(initial=0) > np.iinfo(np.int32).max
    tables = []
    for begin, end in pairwise(bounds.tolist()):
        group = chosen.part(begin, end)
        tables.append(_group_table(reader, view, context, find, group, context_tokens, progress))
    kind = pa.int64() if wide else pa.int32()
    return pa.concat_tables(tables).cast(EXAMPLES.schema(document=kind))


def _group_table(
    reader: ActivationReader,
    view: DictionaryView,
    context: TokenContext,
    find: Callable[[np.ndarray, np.ndarray], np.ndarray],
    chosen: Chosen,
    context_tokens: int,
    progress: Callable[[int], object],
) -> pa.Table:
    peaks = chosen.peaks
    start = np.maximum(peaks.position - context_tokens, 0)
    end = np.minimum(peaks.position + context_tokens + 1, context.length_of(peaks.document))
    lengths = end - start
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - start, lengths)
    document, latent = np.repeat(peaks.document, lengths), np.repeat(peaks.latent, lengths)
    values, reference, intervened = _encode(reader, view, find(document, position), latent, progress)
    shown = context.show(document, position)
    source = context.source_of(torch.from_numpy(peaks.document)).numpy()

    def lists(flat: pa.Array | np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, flat if isinstance(flat, pa.Array) else pa.array(flat))

    columns = {
        "latent": pa.array(peaks.latent, pa.int32()),
        "rank": pa.array(chosen.rank, pa.int16()),
        "quantile": pa.array(chosen.quantile, from_pandas=True),
        "document": pa.array(peaks.document),
        "source": pa.array(list(context.source_names), pa.string()).take(pa.array(source)),
        "start": pa.array(start, pa.int32()),
        "position": pa.array(peaks.position, pa.int32()),
        "token_ids": lists(shown.token_ids),
        "tokens": lists(shown.tokens),
        "special": lists(shown.special),
        "template": lists(shown.template),
        "values": lists(values),
        "reference": lists(reference),
        "intervened": lists(intervened),
        "peak": pa.array(peaks.peak.astype(np.float32)),
    }
    return pa.table(columns, schema=EXAMPLES.schema(document=pa.int64()))


def _encode(
    reader: ActivationReader,
    view: DictionaryView,
    rows: Int64[np.ndarray, " cell"],
    latent: Int64[np.ndarray, " cell"],
    progress: Callable[[int], object],
) -> tuple[Float32[np.ndarray, " cell"], Float32[np.ndarray, " cell"], Float32[np.ndarray, " cell"]]:
    """Value and contributions of one latent on one row, for every cell; each row is read once, in stored order."""
    values, reference, intervened = (np.zeros(len(rows), dtype=np.float32) for _ in range(3))
    needed, inverse = np.unique(rows, return_inverse=True)
    by_row = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[by_row], np.arange(len(needed) + 1))
    # Row -1 sorts first: a token that the reader does not have.
    first = int(len(needed) > 0 and needed[0] < 0)
    for begin in range(first, len(needed), _ROWS):
        end = min(begin + _ROWS, len(needed))
        cells = by_row[starts[begin] : starts[end]]
        codes = view.encode(reader.gather(torch.from_numpy(needed[begin:end])).values)
        token = torch.from_numpy(inverse[cells] - begin).to(view.device)
        latents = torch.from_numpy(latent[cells]).to(view.device)
        written = (codes.sparse_latents, *view.contributions(codes))
        for target, code in zip((values, reference, intervened), written, strict=True):
            target[cells] = code.at(token, latents).float().cpu().numpy()
        progress(end - begin)
    return values, reference, intervened
