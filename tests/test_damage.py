"""Damage to any file of a finished run: a verb refuses it in one line, or never reads the file and gives the same result.

Every file is altered, truncated, removed and swapped with that of another run. `NOT_RECORDED` lists the files that the record
(files.json) leaves out and which verbs read them; every other file of a run has to be in the record. A new kind of file that is in neither
fails here.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from crosscoder.runtime.file_record import FileRecord
from tests.small_runs import Said, crosscoder, make

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

QUICK = ("report", "browse", "export", "plot", "compare")
"""Verbs that only read, and what they write can be compared."""
THOROUGH = ("analyze", "attribute", "explain", "run")
"""Verbs that write results; the damage has to be found before they do."""

NOT_RECORDED: dict[str, tuple[str, ...]] = {
    "config.yaml": (*QUICK, *THOROUGH),
    "files.json": (*QUICK, *THOROUGH),
    ".lock": (),
    ".files.lock": (),
    "crosscoder/model.safetensors": ("export", "analyze", "attribute"),
    "checkpoints/*/state.json": ("run",),
    "checkpoints/*/state.safetensors": ("run",),
    "activations/train/*": ("run",),
    "activations/held_out/*": ("analyze", "run"),
    "controls/*/config.yaml": (),
    "controls/*/files.json": (*QUICK, *THOROUGH),
    "controls/*/.lock": (),
    "controls/*/.files.lock": (),
    "controls/*/crosscoder/model.safetensors": ("analyze",),
    "discovery/behaviors/*.yaml": (),  # people edit them; `attribute` reads the one that it is given
    "report/appendix.html": (),
    "report/appendix.md": (),
    "report/report.html": (),
    "report/report.md": (),
    "report/report.schema.json": (),
    "browser/*": (),
    "plots/*": (),
    "exports/*": (),
}
TOLD: dict[str, tuple[str, ...]] = {
    "crosscoder/model.safetensors": ("compare",),
    "report/report.html": ("compare",),  # a link, where it is there
}
"""Files whose damage a verb tells in its tables, and goes on (tests/analysis/comparison/test_compare.py)."""

LATE = {"crosscoder/model.safetensors", "activations/held_out/*", "controls/*/crosscoder/model.safetensors"}
"""Files that a verb checks only once it loads them, because they can be large."""


def flipped(content: bytes, other: bytes | None) -> bytes | None:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else None


def truncated(content: bytes, other: bytes | None) -> bytes | None:
    return content[: len(content) // 2] if content else None


def removed(content: bytes, other: bytes | None) -> bytes | None:
    return None


def swapped(content: bytes, other: bytes | None) -> bytes | None:
    return other


DAMAGE: dict[str, Callable[[bytes, bytes | None], bytes | None]] = {
    "flip": flipped, "truncate": truncated, "remove": removed, "swap": swapped,
}  # fmt: skip


class Runs(NamedTuple):
    one: Path
    other: Path
    outputs: dict[str, str]
    """Digest of what each quick verb writes for the undamaged run."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two finished runs that differ in their seed."""
    root = tmp_path_factory.mktemp("runs")
    one, other = make(root / "one"), make(root / "other", "seed=1")
    return Runs(one, other, {verb: written(one, other, verb) for verb in QUICK})


def call(one: Path, other: Path, verb: str) -> Said:
    words: dict[str, list[str | Path]] = {
        "compare": [one, other, "--output", one.parent / "comparison"],
        "plot": [one, "--format", "png"],
        "explain": [one, "author.kind=local", f"author.model={one.parent / 'no such model'}"],
    }
    return crosscoder(verb, *words.get(verb, [one]))


def written(one: Path, other: Path, verb: str) -> str:
    """Run a quick verb, and return a digest of its output."""
    said = call(one, other, verb)
    assert said == Said(0, ""), (verb, said)
    places = {
        "report": one / "report",
        "browse": one / "browser",
        "export": one / "exports",
        "plot": one / "plots",
    }
    place = places.get(verb, one.parent / "comparison")
    total = hashlib.blake2b()
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(place)).encode() + path.read_bytes())
    return total.hexdigest()


@contextmanager
def damaged(one: Path, other: Path, name: str, kind: str) -> Iterator[bool]:
    """Damage a file inside the block; yields whether that changes it."""
    path, counterpart = one / name, other / name
    content = path.read_bytes()
    new = DAMAGE[kind](content, counterpart.read_bytes() if counterpart.is_file() else None)
    if kind in ("flip", "truncate", "swap") and new is None:
        yield False
        return
    if new is None:
        path.unlink()
    else:
        path.write_bytes(new)
    try:
        yield new != content
    finally:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)


def files_of(run: Path) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def pattern_of(name: str) -> str | None:
    return next((pattern for pattern in NOT_RECORDED if fnmatchcase(name, pattern)), None)


def recorded(run: Path, name: str) -> bool:
    record = FileRecord.of(run / name)
    return record is not None and record.name_of(run / name) in record.read()


def test_every_file_is_recorded_or_listed(runs: Runs) -> None:
    """A new kind of file takes its place in the list, with the verbs that read it."""
    names = files_of(runs.one)
    unknown = [name for name in names if not recorded(runs.one, name) and pattern_of(name) is None]
    assert not unknown
    for pattern in NOT_RECORDED:
        assert any(fnmatchcase(name, pattern) for name in names), f"no file is like {pattern}"


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_verb_reads_a_damaged_file(runs: Runs, kind: str) -> None:
    """Every file that is in the record is refused by every verb, and every other one by those that read it."""
    seen: set[str] = set()
    # The newest of several checkpoints first: training reads no other.
    for name in sorted(files_of(runs.one), reverse=True):
        pattern = None if recorded(runs.one, name) else pattern_of(name)
        if pattern is not None and pattern in seen:
            continue  # one of many alike
        seen.add(pattern or name)
        readers = (*QUICK, *THOROUGH) if pattern is None else NOT_RECORDED[pattern]
        with damaged(runs.one, runs.other, name, kind) as changed:
            for verb in readers if changed else ():
                if made_again(name, pattern, kind, verb):
                    continue
                before = files_of(runs.one)
                said = call(runs.one, runs.other, verb)
                assert said.code == 2, f"{verb} accepts {name} ({kind}): {said}"
                assert said.error.startswith("crosscoder: ") and said.error.count("\n") == 0, (
                    name,
                    verb,
                    said,
                )
                assert pattern in LATE or files_of(runs.one) == before, f"{verb} wrote something"


def made_again(name: str, pattern: str | None, kind: str, verb: str) -> bool:
    """Whether a verb makes a missing file again, which is no damage to its result."""
    if name == "config.yaml" and kind == "flip":
        return True  # a byte of a number or of a comment: tests/crosscoder/run/test_folder.py has the edits of settings
    if kind != "remove" or name == "manifest.json":
        return False
    own = {"analyze": "analysis/", "attribute": "behaviors/", "report": "report/", "browse": "report/"}
    return (verb in own and name.startswith(own[verb])) or (verb == "run" and not name.endswith("files.json"))


@pytest.mark.parametrize("verb", QUICK)
@pytest.mark.parametrize("kind", ["flip", "remove"])
def test_what_a_verb_does_not_read_changes_nothing(runs: Runs, verb: str, kind: str) -> None:
    """All files that no list says a verb reads are damaged at once: its output has the same bytes."""
    unread = [
        name
        for name in files_of(runs.one)
        if not recorded(runs.one, name)
        and verb not in (*NOT_RECORDED[pattern_of(name) or ""], *TOLD.get(name, ()))
    ]
    kept = runs.one.parent / "kept"
    shutil.copytree(runs.one, kept)
    try:
        for name in unread:
            new = DAMAGE[kind]((runs.one / name).read_bytes(), None)
            if new is None:
                (runs.one / name).unlink()
            else:
                (runs.one / name).write_bytes(new)
        assert written(runs.one, runs.other, verb) == runs.outputs[verb]
    finally:
        shutil.rmtree(runs.one)
        kept.rename(runs.one)


def test_a_file_of_another_run_is_refused(runs: Runs) -> None:
    """A behavior that was copied into a run is none of its results."""
    copied = runs.one / "behaviors" / "copied"
    shutil.copytree(runs.other / "behaviors" / "visitor", copied)
    try:
        said = call(runs.one, runs.other, "report")
    finally:
        shutil.rmtree(copied)
    assert said.code == 2 and "is not a file that this run wrote; restore it, or remove it" in said.error


def test_missing_results_are_made_again(runs: Runs) -> None:
    """`analyze` needs none of its own files, and the report is then the same."""
    for path in (runs.one / "analysis").iterdir():
        path.unlink()
    assert call(runs.one, runs.other, "report").code == 2
    assert call(runs.one, runs.other, "analyze") == Said(0, "")
    assert call(runs.one, runs.other, "attribute") == Said(0, "")
    assert written(runs.one, runs.other, "plot") == runs.outputs["plot"]
