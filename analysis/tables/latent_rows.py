"""Reads Parquet files that are sorted by latent, a few latents at a time.

`analyze` writes examples and logit tables sorted by latent. Going through the dictionary in order therefore takes one pass over the file, a
batch of rows at a time, and memory depends neither on the number of latents nor on the size of the file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError

from .parquet import readable

# Columns of token texts. Texts repeat, so dictionary encoding takes a fraction of the memory.
_REPEATED = ("token", "tokens")

BATCH_ROWS = 1024
"""Rows decoded at a time: the most in memory in addition to the requested rows."""

# Bytes of the compressed file read at a time, per column. By default pyarrow reads whole row groups of a million rows.
_BUFFERED = {"buffer_size": 1 << 20, "pre_buffer": False}


def read_rows(path: Path, columns: Sequence[str], latents: Sequence[int] | None = None) -> pa.Table:
    """Return all rows of these latents (None: of all), with every column, in the order of the file.

    Raises `FormatError` if the file is missing or damaged, or lacks one of `columns`.
    """
    with _reading(path):
        repeated = _checked_columns(path, columns)
        if latents is None:
            return pq.read_table(path, read_dictionary=repeated)
        # A filter of `read_table` would decode the whole file before it drops any row.
        with pq.ParquetFile(path, **_BUFFERED) as file:
            wanted = np.asarray(latents, dtype=np.int64)
            parts = [
                batch.filter(pa.array(np.isin(batch["latent"].to_numpy(), wanted)))
                for batch in file.iter_batches(BATCH_ROWS)
            ]
            return pa.Table.from_batches(parts, file.schema_arrow)


def rows_in_order(path: Path, columns: Sequence[str], n_latents: int, size: int) -> Iterator[pa.Table]:
    """Yield the rows of `size` latents at a time, up to `n_latents`; a table may be empty.

    Raises `FormatError` as `read_rows` does, and if the latents do not ascend or reach `n_latents`.
    """
    with _reading(path):
        repeated = _checked_columns(path, columns)
        with pq.ParquetFile(path, read_dictionary=repeated, **_BUFFERED) as file:
            batches = _ascending(path, file.iter_batches(BATCH_ROWS), n_latents)
            rest = file.schema_arrow.empty_table()
            for end in range(size, n_latents + size, size):
                parts = []
                while True:
                    inside = int(np.searchsorted(rest["latent"].to_numpy(), end))
                    parts.append(rest.slice(0, inside))
                    rest = rest.slice(inside)
                    following = None if len(rest) else next(batches, None)
                    if following is None:
                        break
                    rest = following
                yield pa.concat_tables(parts)


def _ascending(path: Path, batches: Iterator[pa.RecordBatch], n_latents: int) -> Iterator[pa.Table]:
    last = -1
    for batch in batches:
        table = pa.Table.from_batches([batch])
        found = np.concatenate([[last], table["latent"].to_numpy()])
        (falls,) = np.nonzero(np.diff(found) < 0)
        if len(falls):
            before, after = found[falls[0] : falls[0] + 2]
            raise FormatError(
                f"{path}: latent {after} comes after latent {before}, but rows must be sorted by latent; "
                "run crosscoder analyze again"
            )
        last = int(found[-1])
        if last >= n_latents:
            raise FormatError(
                f"{path}: holds latent {last}, but the dictionary has {n_latents}; run crosscoder analyze again"
            )
        yield table


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise FormatError(f"{path}: not found; run crosscoder analyze first")
    with readable(path, "analyze"):
        yield


def _checked_columns(path: Path, columns: Sequence[str]) -> list[str]:
    """Check that the file has `columns`; return its columns of token texts, by Parquet's names for the leaves of lists."""
    schema = pq.read_metadata(path).schema
    leaves = [schema.column(index).path for index in range(len(schema))]
    roots = {leaf.partition(".")[0] for leaf in leaves}
    missing = [name for name in columns if name not in roots]
    if missing:
        raise FormatError(f"{path}: no column {', '.join(missing)}; run crosscoder analyze again")
    return [leaf for leaf in leaves if leaf.partition(".")[0] in _REPEATED]
