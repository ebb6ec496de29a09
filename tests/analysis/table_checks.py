"""Whether a file holds the columns that are documented, and no others."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.tables.described_table import Table


def described(path: Path, by: Table) -> set[str]:
    """Asserts that every column is documented, with its type, and null only where that is said; the names of the columns found."""
    table = pq.read_table(path)
    fields = {field.name: field.type for field in table.schema}
    found = set()
    for name, kind in fields.items():
        column = by.column(name)
        wide = name == "document" and kind == pa.int64()
        assert kind == column.type or wide, f"{name}: {kind}, but {column.type} is documented"
        assert column.null or not table[name].null_count, f"{name}: has nulls, which is not documented"
        found.add(column.name)
    missing = {column.name for column in by.columns if not column.condition and not column.prefix} - found
    assert not missing, f"documented, but not written: {missing}"
    return found
