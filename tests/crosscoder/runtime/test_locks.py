"""Locks of a folder: one process writes or several read, and a lock ends with its process."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crosscoder.runtime import locks
from crosscoder.runtime.locks import HeldElsewhere, hold
from tests.processes import start_python

HOLD = """
import sys, time
from pathlib import Path
from crosscoder.runtime.locks import hold
with hold(Path(sys.argv[1]), shared=sys.argv[2] == "shared", about="the other process"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def other_process(path: Path, kind: str) -> subprocess.Popen[str]:
    process = start_python("-c", HOLD, path, kind, folder=path.parent)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(("theirs", "ours", "free"), [
    ("exclusive", False, False), ("exclusive", True, False), ("shared", False, False), ("shared", True, True),
])  # fmt: skip
def test_who_may_hold_a_lock_beside_another_process(path: Path, theirs: str, ours: bool, free: bool) -> None:
    with other_process(path, theirs) as process:
        try:
            if free:
                with hold(path, shared=ours):
                    pass
            else:
                with pytest.raises(HeldElsewhere) as caught, hold(path, shared=ours):
                    pass
                assert caught.value.holder == ("the other process" if theirs == "exclusive" else "")
        finally:
            process.kill()
    with hold(path):
        pass


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(path: Path, sign: signal.Signals) -> None:
    with other_process(path, "exclusive") as process:
        process.send_signal(sign)
    with hold(path, shared=True):
        pass
    assert path.read_text() == "", "what the killed process wrote is gone, so that no later message names it"


def test_a_process_may_hold_a_lock_several_times(path: Path) -> None:
    program = f"from pathlib import Path; from crosscoder.runtime.locks import hold; hold(Path({str(path)!r})).__enter__()"

    def taken() -> bool:
        return (
            subprocess.run(
                [sys.executable, "-c", program],
                cwd=Path(__file__).parents[3],
                capture_output=True,
                check=False,
            ).returncode
            != 0
        )

    with hold(path, shared=True):
        with hold(path), hold(path, shared=True):
            assert taken()
        assert taken(), "the outermost block still holds it"
    assert not taken()
    assert not locks._held


def test_an_error_inside_frees_the_lock(path: Path) -> None:
    with pytest.raises(RuntimeError), hold(path):
        raise RuntimeError
    assert not locks._held


def test_a_file_system_without_locks_gives_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    assert locks.fcntl is not None
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with hold(path):
        assert "this file system has no locks; start only one process in a run folder" in caplog.text


def test_a_reader_of_a_folder_that_it_cannot_write_to_needs_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with hold(path, shared=True):
        pass
    with pytest.raises(OSError, match="Read-only"), hold(path):
        pass
