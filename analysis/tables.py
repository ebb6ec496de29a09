"""Parquet files, written whole or not at all."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.folder import write_atomic


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table. Raises ResourceError when the disk is full."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())
