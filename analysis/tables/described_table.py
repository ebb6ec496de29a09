"""Tables with a description of every column: its type, meaning, unit, and when it is null."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa


class Column(NamedTuple):
    """The description of one column."""

    name: str
    """Name of the column. In a family of columns, a part in capitals stands for a name of the run, as SOURCE in `density/SOURCE`."""

    type: pa.DataType
    meaning: str
    unit: str
    """Unit, range or possible values."""

    null: str
    """When the column is null; empty: never."""

    condition: str = ""
    """When the table has this column; empty: always."""

    @property
    def prefix(self) -> str | None:
        """Prefix of the names of a family of columns; None for a single column."""
        before, slash, after = self.name.partition("/")
        return before + slash if after.isupper() else None


class Table(NamedTuple):
    """The description of one Parquet file."""

    name: str
    path: str
    """Path in the run folder."""

    row: str
    """What a row stands for, and how rows are sorted."""

    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """Return the description of a column. Raises ValueError if there is none, which is a bug, not a user's error."""
        for column in self.columns:
            if name == column.name or (column.prefix and name.startswith(column.prefix)):
                return column
        raise ValueError(f"{self.path}: column {name!r} is not described in analysis/tables/columns.py")

    def schema(self, **types: pa.DataType) -> pa.Schema:
        """Return the types of the columns that the table always has; `types` overrides some."""
        return pa.schema(
            [
                (column.name, types.get(column.name, column.type))
                for column in self.columns
                if not column.condition
            ]
        )

    def build(self, columns: Mapping[str, Sequence[Any] | np.ndarray | pa.Array]) -> pa.Table:
        """Return an Arrow table of these columns with their types; NaN becomes null.

        Raises ValueError for a column without a description.
        """
        return pa.table({name: _array(values, self.column(name).type) for name, values in columns.items()})


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    mask = np.isnan(values) if isinstance(values, np.ndarray) and values.dtype.kind == "f" else None
    return pa.array(values, kind, mask=mask)
