"""The record of a run's files: it accepts what the run wrote, at every moment, and nothing else."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosscoder.runtime.file_record
from crosscoder.errors import FormatError, ResourceError
from crosscoder.runtime.digests import content_digest, file_digest, known_digest
from crosscoder.runtime.file_record import FILES, FileRecord
from crosscoder.runtime.files import atomic_file, atomic_folder, remove_file, remove_folder, write_atomic


@pytest.fixture
def record(tmp_path: Path) -> FileRecord:
    """A record with three files."""
    record = FileRecord(tmp_path)
    record.create()
    for name in ("analysis/a.json", "analysis/b.parquet", "survey.json"):
        write_atomic(tmp_path / name, name)
    return record


def problems(record: FileRecord) -> dict[str, str]:
    return dict(record.problems())


def test_written_files_are_recorded(record: FileRecord) -> None:
    assert record.read()["survey.json"] == [content_digest(b"survey.json")]
    assert problems(record) == {}
    write_atomic(record.root / "survey.json", "new")
    with atomic_file(record.root / "analysis" / "c.npy") as partial:
        partial.write_bytes(b"numbers")
    assert record.read()["survey.json"] == [content_digest(b"new")]
    assert record.read()["analysis/c.npy"] == [content_digest(b"numbers")]
    assert problems(record) == {}


@given(content=st.binary(max_size=40))
def test_any_other_content_is_found(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    root = tmp_path_factory.mktemp("run")
    record = FileRecord(root)
    record.create()
    write_atomic(root / "survey.json", b"twelve bytes")
    (root / "survey.json").write_bytes(content)
    assert ("survey.json" in problems(record)) == (content != b"twelve bytes")


def test_a_change_that_keeps_size_and_second_is_found(record: FileRecord) -> None:
    """Digests are kept by size and time; a file that changed just now is read again."""
    path = record.root / "survey.json"
    for _ in range(20):
        assert problems(record) == {}
        path.write_text("survey.jsom")
        assert "survey.json" in problems(record)
        path.write_text("survey.json")


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    os.utime(path, (1, 1))
    read: list[Path] = []
    monkeypatch.setattr(
        "crosscoder.runtime.digests.file_digest", lambda path: read.append(path) or file_digest(path)
    )
    assert known_digest(path) == known_digest(path) == content_digest(b"content")
    assert len(read) == 1


def test_missing_and_foreign_files_are_found(record: FileRecord) -> None:
    (record.root / "analysis" / "a.json").unlink()
    (record.root / "analysis" / "theirs.json").write_text("x")
    (record.root / "notes.txt").write_text("mine")
    found = problems(record)
    assert found.keys() == {"analysis/a.json", "analysis/theirs.json"}
    assert (
        "is missing" in found["analysis/a.json"]
        and "not a file that this run wrote" in found["analysis/theirs.json"]
    )


def test_a_whole_result_may_be_removed(record: FileRecord) -> None:
    """A person may take a behavior back; what is left of one that is there is damage."""
    for name in ("one", "two"):
        for file in ("shift.json", "causal.json"):
            write_atomic(record.root / "behaviors" / name / file, name)
    for file in ("shift.json", "causal.json"):
        (record.root / "behaviors" / "one" / file).unlink()
    (record.root / "behaviors" / "one").rmdir()
    assert problems(record) == {}
    (record.root / "behaviors" / "two" / "causal.json").unlink()
    assert problems(record).keys() == {"behaviors/two/causal.json"}


def test_what_a_verb_removes_is_forgotten(record: FileRecord) -> None:
    remove_file(record.root / "survey.json")
    assert "survey.json" not in record.read()
    remove_folder(record.root / "analysis")
    assert record.read() == {} and problems(record) == {}
    remove_file(record.root / "survey.json")


@pytest.mark.parametrize("killed_at", range(4))
@pytest.mark.parametrize("first", [True, False])
def test_a_kill_between_any_two_steps_leaves_an_accepted_file(
    record: FileRecord, monkeypatch: pytest.MonkeyPatch, killed_at: int, first: bool
) -> None:
    """The steps: note both digests, move the file, note the new one. The next write then ends all doubt."""
    path = record.root / ("new.json" if first else "survey.json")
    steps = 0

    class Killed(BaseException):
        pass

    def dying(source: Path, target: Path) -> None:
        nonlocal steps
        if steps == killed_at:
            raise Killed
        steps += 1
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", dying)
    try:
        write_atomic(path, "second")
    except Killed:
        assert killed_at < 3
    else:
        assert killed_at == 3
    monkeypatch.undo()
    assert problems(record) == {}
    if path.exists():
        content = path.read_text()
        assert content in ("survey.json", "second")
        path.write_text("something else")
        assert path.name in problems(record)
    write_atomic(path, "third")
    assert record.read()[path.name] == [content_digest(b"third")]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": {}}', "flip", "swap"])
def test_a_damaged_record_is_refused(record: FileRecord, damage: str) -> None:
    text = record.path.read_text()
    if damage == "flip":
        place = text.index('"survey.json"') + 3
        damage = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
    elif damage == "swap":
        content = json.loads(text)
        content["files"]["survey.json"] = [content_digest(b"other")]
        damage = json.dumps(content)
    record.path.write_text(damage)
    with pytest.raises(
        FormatError, match=r"files\.json: altered.*; restore it from a copy, or make the run again"
    ):
        problems(record)
    with pytest.raises(FormatError, match=r"files\.json"):
        write_atomic(record.root / "survey.json", "new")
    assert (record.root / "survey.json").read_text() == "survey.json"


def test_a_run_inside_a_run_is_recorded_by_both(record: FileRecord) -> None:
    inner = FileRecord(record.root / "controls" / "drift")
    inner.create()
    write_atomic(inner.root / "manifest.json", "inner")
    assert "controls/drift/manifest.json" not in record.read()
    inner.seal()
    assert record.read()["controls/drift/files.json"] == [file_digest(inner.path)]
    (inner.root / "manifest.json").write_text("other")
    assert problems(record).keys() == {"controls/drift/manifest.json"}
    (inner.root / "manifest.json").write_text("inner")
    theirs = FileRecord(record.root.parent / "theirs")
    theirs.create()
    inner.path.write_bytes(theirs.path.read_bytes())
    assert "controls/drift/files.json" in problems(record)


def test_an_appended_file_is_checked_once_it_is_finished(record: FileRecord) -> None:
    path = record.root / "metrics.jsonl"
    record.begin(path)
    path.write_text("one\n")
    assert problems(record) == {}
    record.finish(path)
    path.write_text("two\n")
    assert problems(record).keys() == {"metrics.jsonl"}


def test_a_folder_is_replaced_whole(record: FileRecord) -> None:
    final = record.root / "checkpoints" / "step_1"
    for text in ("first", "second"):
        with atomic_folder(final, recorded=("state.json",)) as partial:
            (partial / "state.json").write_text(text)
        record.require(final / "state.json", "remove it")

    def fail() -> None:
        with atomic_folder(final, recorded=()) as partial:
            (partial / "state.json").write_text("third")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (final / "state.json").read_text() == "second"
    (final / "state.json").write_text("fourth")
    with pytest.raises(FormatError, match=r"altered .*; remove it$"):
        record.require(final / "state.json", "remove it")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: full (os error 28)")]
)
def test_a_library_that_finds_the_disk_full_is_reported_in_one_line(
    record: FileRecord, error: Exception
) -> None:
    """safetensors raises an error of its own, whose text has the number of the system's error."""

    def fill() -> None:
        with atomic_file(record.root / "weights") as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(
        ResourceError, match=r"weights: the disk is full; free some space and run the same command again$"
    ):
        fill()
    assert not (record.root / "weights").exists()
    assert not list(record.root.glob("*.partial")) and not list(record.root.glob(".*.partial"))


def test_a_record_is_found_from_anywhere_inside(record: FileRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(record.root)
    found = FileRecord.of(Path("analysis/a.json"))
    assert found is not None and found.name_of(Path("analysis/a.json")) == "analysis/a.json"
    assert FileRecord.of(record.root / "config.yaml") is None
    assert FileRecord.of(record.root.parent / "elsewhere.json") is None
    assert crosscoder.runtime.file_record.FILES == FILES
