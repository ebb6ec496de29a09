"""Reads the histograms of a run: histograms.parquet, or histograms.json of older runs, which has no text sources."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.json_text import json_of

from .columns import HISTOGRAMS
from .latent_rows import read_rows, rows_in_order

COLUMNS = tuple(HISTOGRAMS.schema().names)


class Histogram(NamedTuple):
    """Histogram of the values of a latent where it fires, for each text source."""

    edges: Float64[np.ndarray, " edge"]
    """Edges of the bins, from 0; a value equal to an edge is in the bin above it."""

    counts: dict[str | None, Int64[np.ndarray, " bin"]]
    """Firings by source; the only key is None if the sources are unknown."""


class HistogramRows:
    """The histograms of a run, as rows of `columns.HISTOGRAMS`; source and tokens are null in older runs."""

    def __init__(self, folder: RunFolder) -> None:
        """Raise `FormatError` if the run has no histograms."""
        self.path = folder.histograms
        self._legacy = legacy_histograms_path(folder)
        if not self.path.is_file() and not self._legacy.is_file():
            raise FormatError(f"{self.path}: not found; run crosscoder analyze first")

    def of(self, latent: int) -> Histogram | None:
        """Return the histogram of a latent; None if it never fired. Raises `FormatError` if the file is damaged."""
        if self.path.is_file():
            table = read_rows(self.path, COLUMNS, [latent])
        else:
            table = _read_legacy(self._legacy).filter(pc.field("latent") == latent)
        rows = table.to_pylist()
        if not rows:
            return None
        edges = np.arange(len(rows[0]["counts"]) + 1) * rows[0]["width"]
        return Histogram(edges, {row["source"]: np.asarray(row["counts"], dtype=np.int64) for row in rows})

    def in_order(self, n_latents: int, size: int) -> Iterator[pa.Table]:
        """Yield the rows of `size` latents at a time, up to `n_latents`, in little memory."""
        if self.path.is_file():
            return rows_in_order(self.path, COLUMNS, n_latents, size)
        return _slices(_read_legacy(self._legacy), n_latents, size)


def legacy_histograms_path(folder: RunFolder) -> Path:
    """Return the path of histograms.json, in which older runs store histograms over all sources."""
    return folder.analysis / "histograms.json"


def _slices(table: pa.Table, n_latents: int, size: int) -> Iterator[pa.Table]:
    begins = np.searchsorted(table["latent"].to_numpy(), np.arange(0, n_latents + size, size))
    for begin, end in zip(begins, begins[1:], strict=False):
        yield table.slice(begin, end - begin)


def _read_legacy(path: Path) -> pa.Table:
    """Read histograms.json: {"activation": {latent: {"edges": [...], "counts": [...]}}}, with evenly spaced edges from 0 to the largest value."""
    try:
        found = json_of(path)["activation"]
        rows = sorted((int(latent), one["edges"][-1], one["counts"]) for latent, one in found.items())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(
            f"{path}: not a file of histograms ({error!r}); run crosscoder analyze again"
        ) from error
    widths: Sequence[float] = [largest / len(counts) for _, largest, counts in rows]
    return HISTOGRAMS.build(
        {
            "latent": [latent for latent, _, _ in rows],
            "source": [None] * len(rows),
            "tokens": [None] * len(rows),
            "width": widths,
            "counts": [counts for _, _, counts in rows],
        }
    )
