"""Reads columns of a Parquet file as arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from crosscoder.errors import FormatError

from .parquet import readable


def read_columns(
    path: Path, names: Sequence[str], verb: str, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return these columns, and the optional ones that exist; null in numbers becomes NaN.

    Raises `FormatError` if the file is damaged or lacks a column; `verb` is the verb that writes it.
    """
    with readable(path, verb):
        held = pq.read_schema(path).names
        missing = [name for name in names if name not in held]
        if missing:
            raise FormatError(f"{path}: no column {', '.join(missing)}; run crosscoder {verb} again")
        table = pq.read_table(path, columns=[*names, *(name for name in optional if name in held)])
    return {name: table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in table.column_names}
