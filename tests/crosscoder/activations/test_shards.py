import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosscoder.activations.shards import Manifest, ShardReader, ShardWriter, SplitRecord
from crosscoder.errors import FormatError

ROWS = (7, 1, 0, 12, 5)


def write_folder(
    folder: Path, dtype: Any = "float32", rows: tuple[int, ...] = ROWS
) -> tuple[Tensor, Tensor, Tensor]:
    """Write training shards of the given sizes, and return their content."""
    manifest = Manifest(
        identity={"seed": 0},
        dtype=dtype,
        d_models=(3, 2),
        documents_digest="",
        median_norms=(1.0, 1.0),
        max_norms=(10.0, 10.0),
        sides={"train": SplitRecord(n_planned=len(rows)), "held_out": SplitRecord(n_planned=1)},
    )
    writer = ShardWriter(folder, manifest)
    values = torch.randn(sum(rows), 5).to(getattr(torch, dtype))
    document = torch.arange(sum(rows)) // 4
    position = torch.arange(sum(rows)) % 4
    start = 0
    for size in rows:
        part = slice(start, start + size)
        writer.write("train", values[part], document[part], position[part], n_outliers=2)
        start += size
    return values, document, position


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Tensor, Tensor, Tensor]]:
    folder = tmp_path_factory.mktemp("shards")
    return folder, write_folder(folder)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, sum(ROWS) - 1), max_size=40))
def test_gather_returns_rows_in_the_requested_order(
    shared: tuple[Path, tuple[Tensor, Tensor, Tensor]], wanted: list[int]
) -> None:
    folder, written = shared
    rows = torch.tensor(wanted, dtype=torch.long)
    gathered = ShardReader(folder, "train").gather(rows)
    for read, expected in zip(gathered, written, strict=True):
        assert torch.equal(read, expected[rows])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_sequential_reading_returns_what_was_written(tmp_path: Path, dtype: str) -> None:
    written = write_folder(tmp_path, dtype)
    reader = ShardReader(tmp_path, "train")
    assert reader.n_tokens == sum(ROWS)
    assert reader.d_models == (3, 2)
    for size in (1, 6, 100):
        batches = list(reader.batches(size))
        assert [len(batch.values) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        for field, expected in enumerate(written):
            together = torch.cat([batch[field] for batch in batches])
            assert together.dtype == expected.dtype
            assert torch.equal(together, expected)


def test_rows_out_of_range_are_a_bug(shared: tuple[Path, Any]) -> None:
    reader = ShardReader(shared[0], "train")
    for row in (-1, sum(ROWS)):
        with pytest.raises(IndexError, match="there are 25"):
            reader.gather(torch.tensor([0, row]))


class CountingArray(np.ndarray):
    """An array that records every index."""

    indices: list[Any] = []  # noqa: RUF012

    def __getitem__(self, index: Any) -> Any:
        CountingArray.indices.append(index)
        return np.asarray(self)[index]


def test_gather_uses_one_fancy_index_per_shard(shared: tuple[Path, tuple[Tensor, Tensor, Tensor]]) -> None:
    """Peers' defect 9: one Python call for each token is five times slower."""
    reader = ShardReader(shared[0], "train")
    reader._shards = [shard._replace(values=shard.values.view(CountingArray)) for shard in reader._shards]
    CountingArray.indices.clear()
    rows = torch.randint(sum(ROWS), (500,))
    assert torch.equal(reader.gather(rows).values, shared[1][0][rows])
    assert len(CountingArray.indices) == sum(size > 0 for size in ROWS)
    assert sum(len(index) for index in CountingArray.indices) == 500


def test_equal_tensors_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        torch.manual_seed(3)
        write_folder(tmp_path / name)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_the_manifest_counts_what_was_left_out(shared: tuple[Path, Any]) -> None:
    record = Manifest.load(shared[0]).sides["train"]
    assert record.n_outliers == 2 * len(ROWS)
    assert [shard.rows for shard in record.shards] == list(ROWS)
    assert record.complete
    assert not Manifest.load(shared[0]).complete


def test_an_unfinished_split_is_refused(shared: tuple[Path, Any]) -> None:
    with pytest.raises(FormatError, match="harvest of held_out is not finished \\(0 of 1 shards\\)"):
        ShardReader(shared[0], "held_out")


SHARD = "train/00003.safetensors"


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_shard_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    write_folder(tmp_path)
    content = (tmp_path / SHARD).read_bytes()
    (tmp_path / SHARD).write_bytes(content[:keep])
    for verify in (True, False):
        with pytest.raises(FormatError, match=r"train/00003\.safetensors"):
            ShardReader(tmp_path, "train", verify=verify)


def test_a_flipped_bit_is_refused_by_name(tmp_path: Path) -> None:
    written = write_folder(tmp_path)
    content = bytearray((tmp_path / SHARD).read_bytes())
    content[-5] ^= 4
    (tmp_path / SHARD).write_bytes(content)
    with pytest.raises(FormatError, match=r"train/00003\.safetensors: altered since the harvest"):
        ShardReader(tmp_path, "train")
    # The positive control: without digests, the wrong values are read.
    unverified = ShardReader(tmp_path, "train", verify=False).gather(torch.arange(sum(ROWS)))
    assert not all(torch.equal(read, expected) for read, expected in zip(unverified, written, strict=True))


def test_a_missing_or_exchanged_shard_is_refused_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / SHARD).write_bytes((tmp_path / "train/00000.safetensors").read_bytes())
    with pytest.raises(FormatError, match=r"train/00003\.safetensors: contains"):
        ShardReader(tmp_path, "train")
    (tmp_path / SHARD).unlink()
    with pytest.raises(FormatError, match=r"train/00003\.safetensors: missing"):
        ShardReader(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        (json.dumps({"models": ["a", "b"], "shards": 4}), "Field required"),
        ("version", "schema_version"),
        ("stranger", "Extra inputs"),
    ],
)
def test_a_manifest_of_another_program_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    write_folder(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    if content == "version":
        content = json.dumps(manifest | {"schema_version": 2})
    if content == "stranger":
        content = json.dumps(manifest | {"format": "another tool"})
    path.write_text(content)
    with pytest.raises(FormatError, match=r"manifest\.json: not a manifest of activations") as caught:
        ShardReader(tmp_path, "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json: does not exist; run the harvest first"):
        ShardReader(tmp_path, "train")
