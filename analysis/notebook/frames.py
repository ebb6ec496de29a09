"""Tables of a run as pandas, with dtypes that preserve nulls."""

from typing import Any

import pandas as pd
import pyarrow as pa

from ..tables.described_table import Table


def with_nullable_integers(frame: pd.DataFrame, described: Table) -> pd.DataFrame:
    """Convert nullable integer columns to pandas' nullable dtypes, so that nulls do not turn them into floats.

    Undescribed columns, as from a later release, are left alone.
    """
    kinds: dict[str, Any] = {}
    for name in frame.columns:
        try:
            column = described.column(str(name))
        except ValueError:
            continue
        if column.null and pa.types.is_integer(column.type):
            kinds[str(name)] = {pa.int32(): "Int32", pa.int64(): "Int64", pa.int16(): "Int16"}[column.type]
    return frame.astype(kinds)
