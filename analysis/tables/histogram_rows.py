"""The histograms of a run, read back: histograms.parquet, or in its place what runs of before it have, without sources of text."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from .columns import HISTOGRAMS
from .latent_rows import read_rows, rows_in_order

COLUMNS = tuple(HISTOGRAMS.schema().names)


class Histogram(NamedTuple):
    """Of the values of a latent where it fires, on each source of text."""

    edges: Float64[np.ndarray, " edge"]
    """Of the bins, from 0; a value that is an edge is in the bin above."""

    counts: dict[str | None, Int64[np.ndarray, " bin"]]
    """Firings by source; the only one is None where they are not known by source."""


class HistogramRows:
    """Where the histograms of a run lie. Rows as `columns.HISTOGRAMS` describes them; source and tokens are null in runs of before."""

    def __init__(self, folder: RunFolder) -> None:
        """Raises `FormatError` where there are none."""
        self.path = folder.histograms
        self._before = before_sources(folder)
        if not self.path.is_file() and not self._before.is_file():
            raise FormatError(f"{self.path}: not found; run crosscoder analyze first")

    def of(self, latent: int) -> Histogram | None:
        """None where the latent never fired. Raises `FormatError` where the file is damaged."""
        if self.path.is_file():
            table = read_rows(self.path, COLUMNS, [latent])
        else:
            table = _whole(self._before).filter(pc.field("latent") == latent)
        rows = table.to_pylist()
        if not rows:
            return None
        edges = np.arange(len(rows[0]["counts"]) + 1) * rows[0]["width"]
        return Histogram(edges, {row["source"]: np.asarray(row["counts"], dtype=np.int64) for row in rows})

    def in_order(self, n_latents: int, size: int) -> Iterator[pa.Table]:
        """Rows of the first `size` latents, of the next, and so on up to `n_latents`; little is held at a time."""
        if self.path.is_file():
            return rows_in_order(self.path, COLUMNS, n_latents, size)
        return _parts(_whole(self._before), n_latents, size)


def before_sources(folder: RunFolder) -> Path:
    """Where runs of before histograms.parquet have those of all sources together."""
    return folder.analysis / "histograms.json"


def _parts(table: pa.Table, n_latents: int, size: int) -> Iterator[pa.Table]:
    begins = np.searchsorted(table["latent"].to_numpy(), np.arange(0, n_latents + size, size))
    for begin, end in zip(begins, begins[1:], strict=False):
        yield table.slice(begin, end - begin)


def _whole(path: Path) -> pa.Table:
    """histograms.json: {"activation": {latent: {"edges": [...], "counts": [...]}}}, edges evenly from 0 to the largest value."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["activation"]
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
