"""Tables of a run as pandas, with types that keep what the files say."""

from typing import Any

import pandas as pd
import pyarrow as pa

from ..tables.described_table import Table


def with_types(frame: pd.DataFrame, described: Table) -> pd.DataFrame:
    """Integers that can be null as pandas' nullable ones, so that null does not turn them into floats; the rest as it is.

    Columns that are not described, as a table of a later release may have, are left alone.
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
