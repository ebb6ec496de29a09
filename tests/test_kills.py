"""A run that dies again and again while it writes, or finds the disk full, ends with the bytes of one that was never stopped.

Each attempt dies at a random one of the moments at which a process can leave something half done: before a file is flushed, renamed,
or appended to. `CLOCKS` lists every file that two equal runs may differ in, and what they differ in; docs/large_runs.md has the same list.
"""

import json
import os
import random
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.chat_endpoint import ChatHandler, serving
from tests.processes import run_python, start_python
from tests.small_runs import SETTINGS

# Not part of the suite yet: it has not been seen whole on an idle machine.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("CROSSCODER_KILLS"), reason="set CROSSCODER_KILLS=1 to run it"),
]

DYING = """
import os, signal, sys
how, left = sys.argv[1], int(sys.argv[2])

def strike():
    global left
    left -= 1
    if how == "kill" and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "full" and left <= 0:
        raise OSError(28, "No space left on device")

def dying(function):
    def call(*words, **named):
        strike()
        return function(*words, **named)
    return call

for name in ("fsync", "replace", "rename"):
    setattr(os, name, dying(getattr(os, name)))
from crosscoder.runtime import files
import crosscoder.run.tracking, analysis.judges.reply_cache
for module in (files, crosscoder.run.tracking, analysis.judges.reply_cache):
    module.append_line = dying(files.append_line)
from crosscoder.command.app import main
sys.argv = ["crosscoder", *sys.argv[3:]]
main()
"""

CLOCKS: dict[str, str] = {
    "manifest.json": "when each stage began and how long it took, and the command lines",
    "files.json": "the digests of the other files of this list",
    "controls/*/manifest.json": "as manifest.json",
    "controls/*/files.json": "as files.json",
    ".lock": "the process that worked last",
    "controls/*/.lock": "as .lock",
    "report/report.json": "times of manifest.json",
    "report/appendix.html": "times of manifest.json",
    "report/appendix.md": "times of manifest.json",
    "report/report.md": "times of manifest.json",
    "report/report.html": "times of manifest.json",
    "browser/index.html": "times of manifest.json",
}
"""Files of two equal runs that may differ, and in what."""

VARIABLES = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


class Author(ChatHandler):
    """Explains every latent with a digest of its prompt, and judges by it."""

    def reply_to(self, prompt: str) -> str | None:
        return f"words of {len(prompt)} letters" if "explanation" not in prompt.lower() else "yes"


def steps(url: str) -> list[list[str]]:
    """The commands of a whole run."""
    explain = ["author.kind=endpoint", f"author.url={url}", "author.model=tiny", "latents=top", "limit=2"]
    return [
        ["demo", "run", "--toy", *SETTINGS],
        ["explain", "run", *explain],
        ["report", "run"],
        ["browse", "run"],
        ["plot", "run", "--format", "png"],
        # Last, because a verb that writes results removes what killed readers left half written.
        ["attribute", "run"],
    ]


def attempt(folder: Path, words: list[str], how: str, after: int) -> subprocess.CompletedProcess[str]:
    return run_python("-c", DYING, how, str(after), *words, folder=folder, timeout=400, variables=VARIABLES)


def dies_and_ends(
    folder: Path, words: list[str], how: str, chance: random.Random, reach: tuple[int, int]
) -> int:
    """Repeat a command until it ends, and return how often it died before."""
    for deaths in range(60):
        done = attempt(folder, words, how, chance.randint(*reach))
        if done.returncode == 0:
            return deaths
        if how == "kill":
            assert done.returncode == -9, done.stderr
        else:
            assert done.returncode == 2, done.stderr
            told = [line for line in done.stderr.splitlines() if line.startswith("crosscoder: ")]
            assert len(told) == 1 and "the disk is full" in told[0], done.stderr
            assert "Traceback" not in done.stderr
    raise AssertionError(f"{words[0]} never ended")


def differences(one: Path, other: Path) -> dict[str, bool]:
    """Every file that is not the same in both folders; false if one of them lacks it."""
    names = {
        path.relative_to(run).as_posix() for run in (one, other) for path in run.rglob("*") if path.is_file()
    }
    found = {}
    for name in sorted(names):
        both = (one / name).is_file() and (other / name).is_file()
        if not both or (one / name).read_bytes() != (other / name).read_bytes():
            found[name] = both
    return found


def allowed(name: str) -> bool:
    """Whether the list names a file."""
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]+"), name) for pattern in CLOCKS)


def without_clocks(value: Any) -> Any:
    """A manifest without times, commands and whatever an interrupted attempt does not repeat."""
    if isinstance(value, dict):
        clocks = ("command", "started", "wall_seconds", "data_wait_share", "tokens")
        return {key: without_clocks(part) for key, part in value.items() if key not in clocks}
    return value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs are made: settings hold the paths of texts."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def uninterrupted(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with serving(Author) as url:
        for words in steps(url):
            done = attempt(place, words, "never", 0)
            assert done.returncode == 0, done.stderr
    return (place / "run").rename(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("how", ["kill", "full"])
def test_a_run_that_dies_at_random_ends_as_one_that_does_not(
    uninterrupted: Path, place: Path, how: str
) -> None:
    shutil.rmtree(place / "run", ignore_errors=True)
    chance, deaths = random.Random(how), {}
    with serving(Author) as url:
        for words in steps(url):
            reach = (40, 300) if words[0] == "demo" else (1, 25)
            deaths[words[0]] = dies_and_ends(place, words, how, chance, reach)
    assert deaths["demo"] >= 2 and sum(deaths.values()) >= 5, f"too few deaths to show anything: {deaths}"
    run = place / "run"
    differ = differences(run, uninterrupted)
    assert not [name for name in differ if not allowed(name)]
    assert all(differ.values()), "both have the same files"
    one, other = (json.loads((folder / "manifest.json").read_text()) for folder in (run, uninterrupted))
    assert without_clocks(one) == without_clocks(other)


def test_of_ten_starts_on_one_folder_one_works(uninterrupted: Path, place: Path) -> None:
    """The others say which process works there, and what it makes is what one start makes."""
    shutil.rmtree(place / "run", ignore_errors=True)
    chance, words = random.Random(0), ["-m", "crosscoder", "demo", "run", "--toy", *SETTINGS]
    started = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        for _ in range(10):
            started.append(start_python(*words, folder=place))
            time.sleep(chance.uniform(0, 1.5))
    ends = [(*process.communicate(timeout=500), process.returncode) for process in started]
    (worked,) = [process.pid for process, end in zip(started, ends, strict=True) if end[2] == 0]
    for _, errors, code in ends:
        if code != 0:
            assert code == 2
            (line,) = [line for line in errors.splitlines() if line.startswith("crosscoder: ")]
            assert (
                f": process {worked} on " in line and "works in this run folder; wait until it ends" in line
            )
    differ = differences(place / "run", uninterrupted)
    later = ("explanations/", "plots/", "analysis/features.parquet", "analysis/rules.parquet")
    unexpected = [name for name in differ if not (allowed(name) or name.startswith(later))]
    assert not unexpected


def test_the_docs_list_the_same_files() -> None:
    text = (Path(__file__).parents[1] / "docs" / "large_runs.md").read_text(encoding="utf-8")
    for name in CLOCKS:
        assert f"`{name}`" in text, name
