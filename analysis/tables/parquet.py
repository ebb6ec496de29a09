"""Reads Parquet files, and writes them atomically."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError, first_line
from crosscoder.runtime.files import write_atomic


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically. Raises ResourceError if the disk is full."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


@contextmanager
def readable(path: Path, verb: str) -> Iterator[None]:
    """Turn read errors into FormatError; `verb` is the verb that writes the file."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(
            f"{path}: not a readable Parquet file ({first_line(error)}); run crosscoder {verb} again"
        ) from error


def read_table(path: Path, verb: str) -> pa.Table:
    """Read a whole table. Raises FormatError if the file is missing or damaged; `verb` is the verb that writes it."""
    with readable(path, verb):
        return pq.read_table(path)
