"""Datasets of the `datasets` library: the same documents as from files, at a named revision, resumed where a stream was stopped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from crosscoder.config import TextConfig, TextSource, TokenPolicy
from crosscoder.errors import ConfigError, DataError
from crosscoder.text import stream_copies
from crosscoder.text.documents import tokenize
from crosscoder.text.source_datasets import SourceDataset
from crosscoder.text.stream_copies import StreamCopy
from crosscoder.text.text_files import check_sources, pinned, read_source, read_texts
from tests.tiny_pairs import CHAT_TEMPLATE, save_tokenizer

N = 40
CHATS = [
    {
        "messages": [{"role": "user", "content": f"{n} oak?"}, {"role": "assistant", "content": f"{n} rose"}],
        "id": n,
        "text": None,
    }
    for n in range(N)
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """The same dataset in all the ways in which it can lie on disk."""
    for kind in ("parquet", "jsonl", "saved", "splits"):
        (tmp_path / kind / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(CHATS)
    # Two files in one split, and groups of few rows, so that a stream can stop inside each.
    for part, rows in enumerate((slice(0, 25), slice(25, N))):
        piece = table.slice(rows.start, rows.stop - rows.start)
        pq.write_table(piece, tmp_path / f"parquet/data/train-0000{part}-of-00002.parquet", row_group_size=10)
    pq.write_table(table.slice(0, 3), tmp_path / "parquet/data/test-00000-of-00001.parquet")
    lines = "".join(json.dumps(chat) + "\n" for chat in CHATS)
    (tmp_path / "jsonl/data/train.jsonl").write_text(lines)
    (tmp_path / "plain.jsonl").write_text(lines)
    dataset = datasets.Dataset.from_list(CHATS)
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0, 1])}).save_to_disk(tmp_path / "splits")
    return {kind: tmp_path / kind for kind in ("parquet", "jsonl", "saved", "splits")}


def source(place: Path | str, **settings: Any) -> TextSource:
    return TextSource.model_validate({"dataset": str(place), "name": "chats", **settings})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "saved", "splits"])
def test_a_dataset_gives_the_documents_of_a_file(
    tmp_path: Path, places: dict[str, Path], kind: str, streaming: bool
) -> None:
    save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")

    def digest(one: TextSource) -> str:
        return tokenize(TextConfig(sources=(one,)), TokenPolicy(), tokenizer, CHAT_TEMPLATE, 0).digest()

    plain = TextSource(path=tmp_path / "plain.jsonl", name="chats")
    settings = {"streaming": True, "limit": N + 5} if streaming else {}
    check_sources(TextConfig(sources=(source(places[kind], **settings),)))
    assert digest(source(places[kind], **settings)) == digest(plain)
    limited = plain.model_copy(update={"limit": 7})
    assert digest(source(places[kind], **settings | {"limit": 7})) == digest(limited)


def test_split_and_fields_are_those_of_the_source(places: dict[str, Path]) -> None:
    assert len(read_texts(source(places["parquet"], split="test"))) == 3
    assert len(read_texts(source(places["splits"], split="test"))) == 2
    assert len(read_texts(source(places["parquet"], split="train[:10]"))) == 10
    texts, reading = read_source(source(places["parquet"], limit=5))
    assert [text.origin for text in texts][:2] == [f"{places['parquet']}, train, record {n}" for n in (1, 2)]
    described = reading.describe()
    assert described.pop("fingerprint")
    assert described == {
        "dataset": str(places["parquet"]), "config": None, "split": "train", "revision": None, "position": 5, "left_out": {}, "altered": {},
    }  # fmt: skip
    with pytest.raises(DataError, match=r"train, record 1: 'id' is int '0'; it must be a string"):
        read_texts(source(places["parquet"], text_field="id"))


def test_columns_that_are_not_read_are_not_loaded(places: dict[str, Path]) -> None:
    dataset = SourceDataset(source(places["parquet"]), "here", lambda name: name == "messages")
    assert next(dataset.records()).value.keys() == {"messages"}
    stream = source(places["parquet"], streaming=True, limit=3)
    dataset = SourceDataset(stream, "here", lambda name: name == "messages")
    assert next(dataset.records()).value.keys() == {"messages"}


class Opened:
    """Counts how often a stream is opened, and how many records are taken from it."""

    def __init__(self, place: Path) -> None:
        self.place, self.times, self.taken = place, 0, 0

    def __call__(self) -> Any:
        stream: Any = datasets.load_dataset_builder(str(self.place)).as_streaming_dataset(split="train")
        self.times += 1
        opened = self

        class Counted:
            load_state_dict, state_dict = stream.load_state_dict, stream.state_dict

            def __iter__(self) -> Iterator[Any]:
                for row in stream:
                    opened.taken += 1
                    yield row

        return Counted()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("stops", [[1], [8, 16], [7, 13, 29], [25, 26], [N - 1, N], [N + 5, 3]])
def test_a_stream_continues_where_it_was_stopped(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, stops: list[int]
) -> None:
    monkeypatch.setattr(stream_copies, "PART_RECORDS", 8)
    opened = Opened(places[kind])
    expected = [{"messages": chat["messages"], "id": chat["id"]} for chat in CHATS]

    def read(count: int) -> list[Any]:
        rows = StreamCopy({"place": kind, "stops": stops}, opened).records()
        found = [row for row, _ in zip(rows, range(count), strict=False)]
        rows.close()
        return [{"messages": row["messages"], "id": row["id"]} for row in found]

    for stop in stops:
        assert read(stop) == expected[:stop]
    # zip takes one more from the stream before it ends. All else is read once.
    assert opened.taken <= min(max(stops) + len(stops), N)
    assert read(N + 1) == expected
    before = opened.taken, opened.times
    assert read(N + 1) == expected
    assert (opened.taken, opened.times) == before, "a stream that was read to its end is not opened again"


def test_two_readers_at_once_write_the_same_copy(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_copies, "PART_RECORDS", 8)
    one, other = (StreamCopy({"place": "both"}, Opened(places["parquet"])) for _ in range(2))
    pairs = list(zip(one.records(), other.records(), strict=True))
    assert len(pairs) == N
    assert all(mine == theirs for mine, theirs in pairs)
    assert len(list(StreamCopy({"place": "both"}, Opened(places["parquet"])).records())) == N


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header"])
def test_a_damaged_copy_is_read_again(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_copies, "PART_RECORDS", 8)
    opened = Opened(places["parquet"])
    copy = StreamCopy({"place": damage}, opened)
    expected = list(copy.records())
    part = sorted(copy.folder.iterdir())[1]
    content = part.read_bytes()
    part.write_bytes(
        {
            "cut": content[:-20],
            "flip": content.replace(b"10 oak", b"10 ash"),
            "empty": b"",
            "header": b"[]\n" + content,
        }[damage]
    )
    assert part.read_bytes() != content
    assert list(StreamCopy({"place": damage}, opened).records()) == expected
    assert "is damaged and is read again" in caplog.text
    assert opened.times == 2


def test_streamed_documents_need_no_source_once_they_are_read(places: dict[str, Path]) -> None:
    """A pinned revision: what was read needs neither network nor files."""
    one = source(places["parquet"], streaming=True, limit=6)
    texts, _ = read_source(one)
    reading = SourceDataset(one, "here", lambda _: True)
    assert (
        reading.describe()["fingerprint"]
        == SourceDataset(one, "here", lambda _: True).describe()["fingerprint"]
    )
    # More records are needed than before: reading continues.
    more = read_texts(one.model_copy(update={"limit": 20}))
    assert [text.messages for text in more[:6]] == [text.messages for text in texts]
    # Other content is another dataset.
    pq.write_table(pa.Table.from_pylist(CHATS[::-1]), places["parquet"] / "data/train-00000-of-00002.parquet")
    assert read_texts(one)[0].messages != texts[0].messages


def test_a_stream_at_a_commit_is_read_again_without_the_hub(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is reached once; afterwards the copy is enough, also to check that the source exists."""
    one = source("org/name", revision=COMMIT, streaming=True, limit=6)
    with pytest.raises(ConfigError, match="Couldn't reach 'org/name' on the Hub"):
        check_sources(TextConfig(sources=(one,)))
    real, asked = datasets.load_dataset_builder, []

    def builder(name: str, config: str | None, revision: str | None) -> Any:
        asked.append((name, config, revision))
        return real(str(places["parquet"]))

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset_builder", builder)
        expected, reading = read_source(one)
    assert asked == [("org/name", None, COMMIT)]
    # The check reads one record, which is no end.
    assert read_source(one)[0] == expected
    assert reading.describe()["revision"] == COMMIT
    assert reading.describe()["position"] == 6
    check_sources(TextConfig(sources=(one,)))
    assert read_texts(one) == expected
    with pytest.raises(ConfigError, match="Couldn't reach 'org/name' on the Hub"):
        read_texts(one.model_copy(update={"limit": 7}))
    with pytest.raises(ConfigError, match="Couldn't reach 'org/name' on the Hub"):
        read_texts(one.model_copy(update={"revision": "main"}))


def test_a_check_of_a_stream_reads_one_record(places: dict[str, Path], tmp_path: Path) -> None:
    one = source(places["parquet"], streaming=True, limit=6)
    check_sources(TextConfig(sources=(one,)))
    (part,) = (tmp_path / "cache").rglob("records-*.jsonl")
    assert json.loads(part.read_text().splitlines()[0])["n_records"] == 1
    assert [text.messages for text in read_texts(one)] == [tuple(chat["messages"]) for chat in CHATS[:6]]
    with pytest.raises(DataError, match="has no field 'gone', which text_field names"):
        check_sources(TextConfig(sources=(source(places["saved"], text_field="gone"),)))


def test_the_revision_of_a_run_is_kept(places: dict[str, Path]) -> None:
    sources = (source("org/open"), source("org/named", revision="v1"), source(places["saved"]))
    config = TextConfig(
        sources=tuple(one.model_copy(update={"name": str(n)}) for n, one in enumerate(sources))
    )
    recorded = {"sources": {"0": {"revision": COMMIT}, "1": {"revision": COMMIT}, "2": {"revision": None}}}
    assert [one.revision for one in pinned(config, recorded).sources] == [COMMIT, "v1", None]
    assert pinned(config, None) == config
    assert pinned(config, {"sources": {}}) == config


def test_a_commit_is_found_in_the_addresses_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    class Builder:
        hash = "abc"

        class config:
            data_files = {"train": [f"hf://datasets/org/name@{COMMIT}/train.parquet"]}  # noqa: RUF012

    dataset = SourceDataset(source("org/name"), "here", lambda _: True)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: Builder())
    assert dataset.describe() == {"dataset": "org/name", "config": None, "split": "train", "revision": COMMIT}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "/gone/folder"}, "the folder /gone/folder of a dataset does not exist"),
        ({"dataset": "plain.jsonl"}, "is a file; give it as path:"),
        ({"dataset": "org/name"}, "cannot be opened: Couldn't reach 'org/name' on the Hub"),
        ({"dataset": "parquet", "split": "trian"}, "has no split 'trian' (did you mean 'train'?); give one of train, test"),
        ({"dataset": "splits", "split": "dev"}, "has no split 'dev'; give one of train, test"),
        ({"dataset": "saved", "split": "test"}, "was saved without splits, so it has no split 'test'; remove split"),
        ({"dataset": "parquet", "config": "fr"}, "BuilderConfig 'fr' not found"),
        ({"dataset": "saved", "config": "fr"}, "was saved with save_to_disk, so it has no config"),
        ({"dataset": "empty"}, "cannot be opened"),
        ({"dataset": "script"}, "Dataset scripts are no longer supported"),
    ],
)  # fmt: skip
def test_a_dataset_that_cannot_be_read_is_named(
    tmp_path: Path, places: dict[str, Path], settings: dict[str, Any], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    place = settings["dataset"]
    if (tmp_path / place).exists():
        settings = settings | {"dataset": str(tmp_path / place)}
    config = TextConfig(sources=(TextSource.model_validate({"name": "chats", **settings}),))
    with pytest.raises(ConfigError) as caught:
        check_sources(config)
    assert said in str(caught.value)
    assert str(caught.value).startswith("text.sources, 'chats': ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_dataset_is_named(places: dict[str, Path]) -> None:
    path = places["parquet"] / "data/train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-300])
    for settings in ({}, {"streaming": True, "limit": 5}):
        with pytest.raises((DataError, ConfigError)) as caught:
            read_texts(source(places["parquet"], **settings))
        assert str(places["parquet"]) in str(caught.value)
        assert "\n" not in str(caught.value)
