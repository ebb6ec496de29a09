"""Examples of where each latent fires: its value on every token shown, and what it writes into each model there.

The first pass selects the documents (`peaks`). The tokens around the peaks are then read and encoded again, so only a few numbers per
latent are kept between the passes.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, ActivationReader

from ..tables.columns import EXAMPLES
from .dictionary_view import DictionaryView
from .peaks import DocumentPeaks
from .token_context import TokenContext

# Rows encoded at a time, and latents whose examples are in memory at a time.
_ROWS = 4096
_LATENTS = 8192


class RowFinder:
    """Finds the rows of a reader by document and position; filled during a pass over the reader."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._n_rows = 0

    def update(self, batch: ActivationBatch, rows: Int64[np.ndarray, " token"] | None = None) -> None:
        """Add a batch.

        Args:
            rows: Its rows in the reader; by default those after the batch before.
        """
        document, position = (
            column.cpu().numpy().astype(np.int64) for column in (batch.document, batch.position)
        )
        if rows is None:
            rows = np.arange(self._n_rows, self._n_rows + len(document))
        self._parts.append((rows, document, position))
        self._n_rows += len(document)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `join` in another process."""
        names = ("rows", "document", "position")
        return {name: torch.from_numpy(column) for name, column in zip(names, self._columns(), strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the rows that another process read."""
        rows, document, position = (tensors[name].numpy() for name in ("rows", "document", "position"))
        self._parts.append((rows, document, position))
        self._n_rows += len(rows)

    def lookup(self) -> Callable[[np.ndarray, np.ndarray], Int64[np.ndarray, " item"]]:
        """Return a function from documents and positions to rows; -1 if the reader has no such token (it was masked)."""
        rows, document, position = self._columns()
        names = np.unique(document)
        span = int(position.max(initial=0)) + 1
        keys = np.searchsorted(names, document) * span + position
        order = np.argsort(keys, kind="stable")
        ordered, row_of = keys[order], rows[order]

        def find(document: np.ndarray, position: np.ndarray) -> np.ndarray:
            inside = (position >= 0) & (position < span)
            wanted = np.searchsorted(names, document) * span + position
            place = np.searchsorted(ordered, wanted).clip(max=len(ordered) - 1)
            return np.where(inside & (ordered[place] == wanted), row_of[place], -1)

        return find

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nothing = np.zeros(0, dtype=np.int64)
        rows, document, position = (
            np.concatenate(column) for column in zip((nothing,) * 3, *self._parts, strict=True)
        )
        return rows, document, position


class ExampleSelection(NamedTuple):
    """The examples to show, one entry each, sorted by latent."""

    peaks: DocumentPeaks
    rank: Int64[np.ndarray, " entry"]
    """Rank from 0, strongest first, among the top examples or among those sampled across quantiles."""
    quantile: Float32[np.ndarray, " entry"]
    """Quantile of the peak among the sampled peaks of the latent, 1: the largest; NaN for a top example."""

    def part(self, begin: int, end: int) -> Self:
        """Return the entries from `begin` up to `end`."""
        return type(self)(
            self.peaks.take(np.arange(begin, end)), self.rank[begin:end], self.quantile[begin:end]
        )


def select_examples(top: DocumentPeaks, sample: DocumentPeaks, n_quantile: int) -> ExampleSelection:
    """Return all top examples and, for each latent, `n_quantile` more, evenly spaced over the other peaks of its sample."""
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
    peaks = DocumentPeaks.joined([top, drawn])
    rank = np.concatenate([top.rank(), drawn.rank()])
    where = np.concatenate([np.full(len(top), np.nan), quantile[spaced]]).astype(np.float32)
    order = np.lexsort((rank, ~np.isnan(where), peaks.latent))
    return ExampleSelection(peaks.take(order), rank[order], where[order])


def examples_table(
    reader: ActivationReader,
    view: DictionaryView,
    context: TokenContext,
    finder: RowFinder,
    selection: ExampleSelection,
    context_tokens: int,
    progress: Callable[[int], object] = lambda _: None,
) -> pa.Table:
    """Return one row per example (columns: `EXAMPLES`), with `context_tokens` tokens on each side of the peak.

    The value is 0 on masked tokens and where the latent does not fire. `progress` receives the number of rows read.
    """
    find = finder.lookup()
    bounds = np.searchsorted(selection.peaks.latent, np.arange(0, view.n_latents + _LATENTS, _LATENTS))
    wide = np.abs(selection.peaks.document).max(initial=0) > np.iinfo(np.int32).max
    tables = []
    for begin, end in pairwise(bounds.tolist()):
        group = selection.part(begin, end)
        tables.append(_group_table(reader, view, context, find, group, context_tokens, progress))
    kind = pa.int64() if wide else pa.int32()
    return pa.concat_tables(tables).cast(EXAMPLES.schema(document=kind))


def _group_table(
    reader: ActivationReader,
    view: DictionaryView,
    context: TokenContext,
    find: Callable[[np.ndarray, np.ndarray], np.ndarray],
    selection: ExampleSelection,
    context_tokens: int,
    progress: Callable[[int], object],
) -> pa.Table:
    peaks = selection.peaks
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
        "rank": pa.array(selection.rank, pa.int16()),
        "quantile": pa.array(selection.quantile, from_pandas=True),
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
    """Return value and contributions of one latent on one row, for every cell; reads each row once, in stored order."""
    values, reference, intervened = (np.zeros(len(rows), dtype=np.float32) for _ in range(3))
    needed, inverse = np.unique(rows, return_inverse=True)
    by_row = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[by_row], np.arange(len(needed) + 1))
    # Row -1, a token that the reader does not have, sorts first.
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
