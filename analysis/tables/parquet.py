"""Parquet files, written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.runtime.files import write_atomic


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table. Raises ResourceError when the disk is full."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


@contextmanager
def readable(path: Path, verb: str) -> Iterator[None]:
    """While a table is read: FormatError where the file is damaged; `verb` says what makes it anew."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FormatError(
            f"{path}: not a readable Parquet file ({reason}); run crosscoder {verb} again"
        ) from error


def read_table(path: Path, verb: str) -> pa.Table:
    """A whole table. Raises FormatError where the file is missing or damaged; `verb` says what makes it anew."""
    with readable(path, verb):
        return pq.read_table(path)
