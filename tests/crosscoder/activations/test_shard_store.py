"""Activations at a URL: the bytes of a local harvest, whatever is cut short, altered or removed in between."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from crosscoder.activations.shard_store import StoreReader
from crosscoder.activations.shards import DOCUMENTS, MANIFEST, SPLITS, Manifest, ShardReader
from crosscoder.errors import ConfigError, FormatError, ResourceError
from crosscoder.runtime.parts import Part
from crosscoder.runtime.url_store import UrlStore
from tests.stores import Flaky, damage, flaky

from .planted_shards import join, open_at, upload, values, write_at, write_local

SHARD = 20 * 28 + 512
"""Bytes that are reserved for the largest shard."""


@pytest.fixture
def place() -> Iterator[type[Flaky]]:
    with flaky() as found:
        yield found


@pytest.fixture(params=["memory", "file", "flaky"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with flaky():
        yield (
            f"file://{tmp_path / 'bucket'}"
            if request.param == "file"
            else f"{request.param}://bucket/{tmp_path.name}"
        )
    MemoryFileSystem.store.clear()


def at(url: str) -> dict[str, bytes]:
    """All files at a URL, by their name."""
    system, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


def read_all(reader: ShardReader) -> torch.Tensor:
    return torch.cat([batch.values for batch in reader.batches(7)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_files_at_a_url_are_those_of_a_local_harvest(url: str, tmp_path: Path, dtype: str) -> None:
    local = write_local(tmp_path / "local", dtype)
    store = write_at(url, tmp_path / "run", dtype)
    expected = {
        str(path.relative_to(local)): path.read_bytes() for path in local.rglob("*") if path.is_file()
    }
    found = at(url)
    assert {name: found[name] for name in expected} == expected
    assert found.keys() - expected.keys() == {"plan.json", "parts/1-of-1.json"}
    for split in SPLITS:
        one, other = StoreReader(store, split), ShardReader(local, split)
        assert torch.equal(read_all(one).float(), read_all(other).float())
        assert (one.documents == other.documents).all()
        rows = torch.randint(other.n_tokens, (40,))
        for got, wanted in zip(one.gather(rows), other.gather(rows), strict=True):
            assert torch.equal(got, wanted)


def test_another_folder_takes_a_finished_harvest_over(url: str, tmp_path: Path) -> None:
    write_at(url, tmp_path / "run")
    other = open_at(url, tmp_path / "other")
    found = other.look()
    assert found is not None and found.complete
    other.take(found)
    assert (tmp_path / "other" / MANIFEST).read_bytes() == (tmp_path / "run" / MANIFEST).read_bytes()
    assert torch.equal(read_all(StoreReader(other, "train")), torch.cat(values("train")))
    assert other.look() is None, "from then on the manifest of the folder counts"


def test_parts_from_two_folders_are_joined_in_a_third(url: str, tmp_path: Path) -> None:
    local = write_local(tmp_path / "local")
    upload(open_at(url, tmp_path / "2"), Part(2, 2))
    with pytest.raises(FormatError, match=r"part 1 of 2 is not finished"):
        join(open_at(url, tmp_path / "early"))
    upload(open_at(url, tmp_path / "1"), Part(1, 2))
    join(open_at(url, tmp_path / "3"))
    assert at(url)[MANIFEST] == (local / MANIFEST).read_bytes()


def test_an_upload_that_is_cut_short_never_counts(place: type[Flaky], tmp_path: Path) -> None:
    url, local = "flaky://bucket", write_local(tmp_path / "local")
    names = [
        DOCUMENTS,
        "held_out/00000.safetensors",
        "train/00000.safetensors",
        "train/00009.safetensors",
        MANIFEST,
    ]
    for cut, name in enumerate(names):
        run = tmp_path / f"run{cut}"

        def arrives(path: str, content: bytes, name: str = name) -> bytes | BaseException:
            return OSError("connection reset") if path.endswith(name) else content

        place.store.clear()
        place.on_write = arrives
        with pytest.raises(
            ResourceError, match=rf"flaky://bucket/{name}: cannot be written .*connection reset"
        ):
            write_at(url, run)
        half, whole = at(url)[name], (local / name).read_bytes()
        assert half == whole[: len(whole) // 2], "the control: half of it is there"
        place.on_write = lambda path, content: content
        if name == MANIFEST:
            # A place that shows half of a manifest shows no manifest.
            with pytest.raises(FormatError, match="not a manifest"):
                open_at(url, tmp_path / f"other{cut}").look()
            place.store.pop("/bucket/manifest.json")
        else:
            found = open_at(url, tmp_path / f"other{cut}").look()
            assert found is None or not found.complete
        write_at(url, run)
        assert {key: content for key, content in at(url).items() if (local / key).exists()} == {
            str(path.relative_to(local)): path.read_bytes() for path in local.rglob("*") if path.is_file()
        }


def test_a_disk_that_is_full_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = UrlStore(f"file://{tmp_path}", "url")
    store.write("a/x", b"before")
    fail = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(fail))
    with pytest.raises(ResourceError, match="disk is full"):
        store.write("a/x", b"after")
    assert (tmp_path / "a/x").read_bytes() == b"before"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def test_of_two_plans_the_first_counts(url: str, tmp_path: Path) -> None:
    store = UrlStore(url, "url")
    assert store.create("plan.json", b"one")
    assert not store.create("plan.json", b"two")
    assert store.read("plan.json", 100) == b"one"
    store.write("plan.json", b"three")
    assert store.read("plan.json", 100) == b"three", "the control: writing replaces"


def test_an_altered_shard_is_refused_by_name(place: type[Flaky], tmp_path: Path) -> None:
    write_at("flaky://bucket", tmp_path / "run", cache_gb=SHARD / 1e9)
    other = open_at("flaky://bucket", tmp_path / "other")
    found = other.look()
    assert found is not None
    other.take(found)
    reader = StoreReader(other, "train")
    assert len(reader.gather(torch.tensor([25])).values) == 1, "the control: it was whole"
    damage(place, "/bucket/train/00003.safetensors")
    with pytest.raises(
        FormatError, match=r"flaky://bucket/train/00003\.safetensors: altered since the harvest"
    ):
        read_all(reader)
    assert not (tmp_path / "other/train/00003.safetensors").exists()
    place().rm_file("/bucket/train/00003.safetensors")
    with pytest.raises(FormatError, match=r"flaky://bucket/train/00003\.safetensors: missing, but listed"):
        read_all(reader)


def test_an_altered_manifest_does_not_move_a_run_that_has_its_own(place: type[Flaky], tmp_path: Path) -> None:
    store = write_at("flaky://bucket", tmp_path / "run")
    place().pipe_file("/bucket/manifest.json", b"{}")
    assert store.look() is None
    assert torch.equal(read_all(StoreReader(store, "train")), torch.cat(values("train")))
    with pytest.raises(FormatError, match=r"flaky://bucket/manifest\.json: not a manifest"):
        open_at("flaky://bucket", tmp_path / "other").look()


def test_a_damaged_local_copy_is_downloaded_again(
    place: type[Flaky], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = StoreReader(write_at("flaky://bucket", tmp_path / "run"), "train")
    read_all(reader)
    assert place.read == [] and not caplog.records, "the control: uploaded shards are kept, and are used"
    path = tmp_path / "run/train/00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(read_all(reader), torch.cat(values("train")))
    assert place.read == ["/bucket/train/00002.safetensors"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the local copy was damaged; downloading it again"
    ]


@pytest.mark.parametrize("shards", [1, 3])
def test_local_copies_stay_within_their_limit(
    place: type[Flaky], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    store = write_at("flaky://bucket", tmp_path / "run", cache_gb=shards * SHARD / 1e9)
    held: list[int] = []

    def size() -> int:
        found = 0
        for path in (tmp_path / "run").glob("*/*.safetensors"):
            with suppress(FileNotFoundError):  # removed by another thread meanwhile
                found += path.stat().st_size
        return found

    replace = os.replace

    def replaced(*paths: Any) -> None:
        replace(*paths)
        held.append(size())

    monkeypatch.setattr(os, "replace", replaced)
    reader = StoreReader(store, "train")
    for _ in range(2):
        whole, _ = reader.whole_shards(range(10))
        assert torch.equal(whole, torch.cat(values("train")))
        assert torch.equal(read_all(reader), whole)
    assert held and max(held) <= shards * SHARD
    assert len(place.read) > 20, "the control: copies were removed and downloaded again"


def test_the_copy_that_was_used_longest_ago_goes_first(place: type[Flaky], tmp_path: Path) -> None:
    store = write_at("flaky://bucket", tmp_path / "run", cache_gb=3 * SHARD / 1e9)
    reader = StoreReader(store, "train")
    for shard in (0, 3, 6, 0, 8):
        reader.whole_shards([shard])
    assert "/bucket/train/00003.safetensors" in place.read
    place.read.clear()
    reader.whole_shards([0])
    assert place.read == []
    reader.whole_shards([3])
    assert place.read == ["/bucket/train/00003.safetensors"]


def test_a_limit_below_one_shard_is_refused(place: type[Flaky], tmp_path: Path) -> None:
    store = write_at("flaky://bucket", tmp_path / "run", cache_gb=1e-6)
    with pytest.raises(ConfigError, match=r"activations\.store\.cache_gb: 1e-06 GB cannot hold one shard"):
        StoreReader(store, "train")


def test_a_listing_that_comes_late_is_no_loss(place: type[Flaky], tmp_path: Path) -> None:
    store = open_at("flaky://bucket", tmp_path / "run")
    upload(store)
    place.hidden.add("/bucket/train/00004.safetensors")
    assert store.lacks(["train/00004.safetensors", "train/00005.safetensors"]) == set()
    place().rm_file("/bucket/train/00005.safetensors")
    with pytest.raises(
        FormatError, match=r"flaky://bucket/train/00005\.safetensors: missing, but part 1/1 wrote it"
    ):
        join(store)


def test_what_a_url_returns_is_bounded_and_names_no_path(place: type[Flaky], tmp_path: Path) -> None:
    write_at("flaky://bucket", tmp_path / "run")
    whole = Manifest.load(tmp_path / "run")
    side = whole.sides["train"]
    shards = (side.shards[0].model_copy(update={"file": "../../escaped"}), *side.shards[1:])
    hostile = whole.with_side("train", side.model_copy(update={"shards": shards}))
    place().pipe_file("/bucket/manifest.json", hostile.model_dump_json().encode())
    with pytest.raises(FormatError, match="lists shards by other names"):
        open_at("flaky://bucket", tmp_path / "other").look()
    place().pipe_file("/bucket/train/00000.safetensors", bytes(10**6))
    (tmp_path / "run/train/00000.safetensors").unlink()
    with pytest.raises(FormatError, match=r"train/00000\.safetensors: has 1,000,000 bytes, where at most"):
        StoreReader(open_at("flaky://bucket", tmp_path / "run"), "train").gather(torch.tensor([0]))
    assert not list((tmp_path / "run/train").glob(".*"))


def test_a_plan_that_claims_shards_is_refused(place: type[Flaky], tmp_path: Path) -> None:
    upload(open_at("flaky://bucket", tmp_path / "run"), Part(1, 2))
    claimed = Manifest.load(write_local(tmp_path / "local"))
    side = claimed.sides["train"]
    hostile = claimed.with_side("train", side.model_copy(update={"shards": side.shards[:3]}))
    place().pipe_file("/bucket/plan.json", hostile.model_dump_json().encode())
    with pytest.raises(
        FormatError, match=r"flaky://bucket/plan\.json: does not list as many shards as it should"
    ):
        open_at("flaky://bucket", tmp_path / "other").look()


def test_altered_documents_are_refused(place: type[Flaky], tmp_path: Path) -> None:
    write_at("flaky://bucket", tmp_path / "run")
    for content in (b"x" * 100, place.store["/bucket/documents.safetensors"].getvalue()[:-1] + b"\x07"):
        place().pipe_file("/bucket/documents.safetensors", content)
        other = open_at("flaky://bucket", tmp_path / "other")
        found = other.look()
        assert found is not None
        with pytest.raises(
            FormatError, match=r"flaky://bucket/documents\.safetensors: altered since the harvest"
        ):
            other.take(found)
        assert not (tmp_path / "other" / MANIFEST).exists()


def test_another_harvest_at_the_url_is_refused(place: type[Flaky], tmp_path: Path) -> None:
    upload(open_at("flaky://bucket", tmp_path / "run"))
    place.store.pop("/bucket/plan.json")
    place().pipe_file(
        "/bucket/plan.json",
        (
            Manifest.load(tmp_path / "run").model_copy(update={"identity": {"seed": 1}}).model_dump_json()
        ).encode(),
    )
    with pytest.raises(
        FormatError, match="flaky://bucket: holds other activations than those that the harvest in"
    ):
        open_at("flaky://bucket", tmp_path / "run").look()


@pytest.mark.parametrize(
    ("scheme", "extra"), [("s3", "crosscoder[s3]"), ("gs", "crosscoder[gs]"), ("dropbox", "install it")]
)
def test_a_missing_backend_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str
) -> None:
    monkeypatch.setitem(
        known_implementations, scheme, {"class": "no_such_package.System", "err": "Install it"}
    )
    with pytest.raises(ResourceError) as told:
        UrlStore(f"{scheme}://bucket", "activations.store.url").read("x", 1)
    assert str(told.value).startswith(
        f"activations.store.url: {scheme}:// needs a package that is not installed"
    )
    assert extra in str(told.value)


def test_an_unknown_scheme_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"fsspec cannot open nosuch:// \(Protocol not known: nosuch\)"):
        UrlStore("nosuch://bucket", "activations.store.url").read("x", 1)


def test_errors_of_a_backend_keep_its_secrets(place: type[Flaky], monkeypatch: pytest.MonkeyPatch) -> None:
    store = UrlStore("flaky://bucket", "url")
    store.write("x", b"1")

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("403 for https://host/x?signature=SECRET\nmore")

    monkeypatch.setattr(Flaky, "cat_file", fail)
    with pytest.raises(
        ResourceError, match=r"flaky://bucket/x: cannot be read \(RuntimeError: 403 for …\)"
    ) as told:
        store.read("x", 10)
    assert "SECRET" not in str(told.value)
