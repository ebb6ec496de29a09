"""A table whose every column is described: its type, meaning, unit, and when it is null."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa


class Column(NamedTuple):
    """One column."""

    name: str
    """Its name; in a family of columns a part of it in capitals stands for a name of the run, as SOURCE in `density/SOURCE`."""

    type: pa.DataType
    meaning: str
    unit: str
    """Unit, range or the words it may hold."""

    null: str
    """When it is null; empty: never."""

    made_by: str = ""
    """What has to be so for the table to have this column; empty: it always has it."""

    @property
    def prefix(self) -> str | None:
        """What the names of a family begin with; None for a single column."""
        before, slash, after = self.name.partition("/")
        return before + slash if after.isupper() else None


class Table(NamedTuple):
    """One file of rows."""

    name: str
    path: str
    """Where it lies in a run folder."""

    row: str
    """What a row is, and how rows are ordered."""

    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """The description of a column. Raises ValueError for one that is not described: a mistake of the writer, not of a user."""
        for column in self.columns:
            if name == column.name or (column.prefix and name.startswith(column.prefix)):
                return column
        raise ValueError(f"{self.path}: column {name!r} is not described in analysis/tables/columns.py")

    def schema(self, **types: pa.DataType) -> pa.Schema:
        """Types of the columns that it always has; `types` replaces some."""
        return pa.schema(
            [
                (column.name, types.get(column.name, column.type))
                for column in self.columns
                if not column.made_by
            ]
        )

    def build(self, columns: Mapping[str, Sequence[Any] | np.ndarray | pa.Array]) -> pa.Table:
        """A table of these columns, each with its type; NaN becomes null.

        Raises ValueError where one is not described.
        """
        return pa.table({name: _array(values, self.column(name).type) for name, values in columns.items()})


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    mask = np.isnan(values) if isinstance(values, np.ndarray) and values.dtype.kind == "f" else None
    return pa.array(values, kind, mask=mask)


# --- what is said of many columns -------------------------------------------------------------------------------------
