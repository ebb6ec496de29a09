"""Rows of a file sorted by latent: every row once, a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.browser.payload import CHUNK_LATENTS
from analysis.tables import latent_rows
from analysis.tables.analysis_files import EXAMPLE_COLUMNS
from analysis.tables.latent_rows import BATCH_ROWS, rows_in_order
from crosscoder.errors import FormatError
from tests.processes import run_python

from ..run_folder import make_run_folder

# Runs in a fresh process: Arrow's threads release memory with a delay, so an earlier read can distort the measurement.
PEAKS = """
import sys
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
from analysis.browser.payload import CHUNK_LATENTS
from analysis.tables.latent_rows import rows_in_order
path, n_latents = Path(sys.argv[1]), int(sys.argv[2])
for _ in rows_in_order(path, ("latent", "values"), n_latents, CHUNK_LATENTS):
    pass
print(pa.default_memory_pool().max_memory())
pq.read_table(path)
print(pa.default_memory_pool().max_memory())
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Latents with no row, one row, and more rows than a batch."""
    counts = np.zeros(300, dtype=int)
    counts[[0, 3, 63, 64, 130, 299]] = 1, 5, 2, 1, BATCH_ROWS + 7, 3
    latent = np.repeat(np.arange(300), counts)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"latent": latent, "value": np.arange(len(latent))}), path, row_group_size=100)
    return path


def test_rows_in_order_are_all_rows_each_with_its_latents(rows: Path) -> None:
    parts = list(rows_in_order(rows, ("latent", "value"), 300, 64))
    assert len(parts) == 5
    for index, part in enumerate(parts):
        assert set(part["latent"].to_numpy() // 64) <= {index}
    assert pa.concat_tables(parts).equals(pq.read_table(rows))


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([0, 5, 4], "latent 4 comes after latent 5, but rows must be sorted by latent"),
        ([0, 5, 300], "holds latent 300, but the dictionary has 300"),
    ],
)
def test_rows_out_of_order_or_of_no_latent_are_named(
    tmp_path: Path, latents: list[int], message: str
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"latent": latents}), path)
    with pytest.raises(FormatError, match=message) as caught:
        list(rows_in_order(path, ("latent",), 300, 64))
    assert str(caught.value).startswith(str(path))


def test_memory_does_not_grow_with_the_length_of_the_file(tmp_path: Path) -> None:
    """Arrow's peak memory is the same for four times the rows in one row group, as analyze writes them. The positive control: reading the
    whole file takes four times as much."""
    in_parts, whole = zip(peaks(tmp_path, 60_000), peaks(tmp_path, 240_000), strict=True)
    assert in_parts[1] < 1.25 * in_parts[0]
    assert whole[1] > 3.5 * whole[0]


def peaks(folder: Path, n_rows: int) -> tuple[int, int]:
    """Arrow's peak memory in bytes for reading these rows in parts, and as a whole."""
    path = folder / f"{n_rows}.parquet"
    values = np.random.default_rng(0).random(40 * n_rows, dtype=np.float32)
    offsets = np.arange(0, 40 * n_rows + 1, 40, dtype=np.int32)
    columns = {
        "latent": np.arange(n_rows) // 20,
        "values": pa.ListArray.from_arrays(offsets, pa.array(values)),
    }
    pq.write_table(pa.table(columns), path, compression="zstd")
    done = run_python("-c", PEAKS, path, str(n_rows // 20))
    assert done.returncode == 0, done.stderr
    in_parts, whole = map(int, done.stdout.split())
    return in_parts, whole


def test_rows_in_memory_are_those_of_a_pack_and_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run_folder(tmp_path / "run")
    read, handed = [0], [0]
    ascending = latent_rows._ascending

    def counted(path: Path, batches: Any, n_latents: int) -> Iterator[pa.Table]:
        for table in ascending(path, batches, n_latents):
            read[0] += len(table)
            yield table

    monkeypatch.setattr(latent_rows, "BATCH_ROWS", 50)
    monkeypatch.setattr(latent_rows, "_ascending", counted)
    for part in rows_in_order(folder.examples, EXAMPLE_COLUMNS, 200, CHUNK_LATENTS):
        assert read[0] - handed[0] <= len(part) + 50
        handed[0] += len(part)
    assert handed[0] == pq.read_metadata(folder.examples).num_rows
