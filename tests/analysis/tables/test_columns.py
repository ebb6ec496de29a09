"""The descriptions of tables. The tests of the stages check that written tables match them (`described`)."""

import numpy as np
import pyarrow as pa
import pytest

from analysis.tables.analysis_files import FEATURE_COLUMNS, LABELS
from analysis.tables.columns import EXAMPLES, FEATURES, TABLES
from analysis.tables.described_table import Table

from ..table_checks import described


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_is_described(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(names) == len(set(names))
    for column in table.columns:
        assert column.meaning.endswith(".") and column.unit, column.name
        assert table.column(column.name) is column


def test_a_family_covers_all_its_names() -> None:
    assert FEATURES.column("density/a chat").name == "density/SOURCE"
    assert FEATURES.column("density").prefix is None
    with pytest.raises(ValueError, match=r"features\.parquet: column 'densities' is not described"):
        FEATURES.column("densities")
    with pytest.raises(ValueError, match="is not described"):
        FEATURES.build({"latent": [0], "surprise": [1.0]})


def test_required_columns_are_described() -> None:
    assert set(FEATURE_COLUMNS) <= set(FEATURES.schema().names)
    labels = FEATURES.column("label").unit.split(", ")
    assert set(labels) == set(LABELS)


def test_types_match_the_description() -> None:
    table = FEATURES.build(
        {"latent": np.arange(2), "twin": np.array([1.0, np.nan]), "density": np.array([np.nan, 0.5])}
    )
    assert table.schema.types == [pa.int32(), pa.int32(), pa.float64()]
    assert table.to_pydict() == {"latent": [0, 1], "twin": [1, None], "density": [None, 0.5]}
    assert EXAMPLES.schema(document=pa.int64()).field("document").type == pa.int64()


def test_the_check_can_fail(tmp_path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "features.parquet"
    whole = {
        name: pa.nulls(1, kind)
        for name, kind in zip(FEATURES.schema().names, FEATURES.schema().types, strict=True)
    }
    pq.write_table(pa.table(whole), path)
    with pytest.raises(AssertionError, match="latent: has nulls"):
        described(path, FEATURES)
    filled = {"latent": pa.array([0], pa.int32())}
    pq.write_table(pa.table(filled), path)
    with pytest.raises(AssertionError, match="documented, but not written"):
        described(path, FEATURES)
    pq.write_table(pa.table({"latent": pa.array([0], pa.int64())}), path)
    with pytest.raises(AssertionError, match="latent: int64, but int32"):
        described(path, FEATURES)
