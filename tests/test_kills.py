"""A run that dies again and again while it writes, or finds the disk full, ends with the bytes of one that was never stopped.

A sample of the moments at which a process can leave something half done, drawn by a seed over every stage and every command; `command_forks` says
what they are. `CLOCKS` lists every file that two equal runs may differ in, and what they differ in; docs/large_runs.md has the same list.
"""

import json
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.analysis.chat_endpoint import ChatHandler, serving
from tests.command_forks import Ended, Forks
from tests.documents import ROOT
from tests.small_runs import BEHAVIOR, SETTINGS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch"),
]

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


class Author(ChatHandler):
    """Explains every latent with a digest of its prompt, and judges by it."""

    def reply_to(self, prompt: str) -> str | None:
        return f"words of {len(prompt)} letters" if "explanation" not in prompt.lower() else "yes"


class Step(NamedTuple):
    """A command of a whole run, and how often it dies before it is left alone."""

    words: list[str]
    deaths: int


TRAIN = [*SETTINGS, "training.n_tokens=10240", "discovery.prompts=16", "behaviors=[]"]
VISITOR = str(ROOT / "crosscoder" / "demo" / "behaviors" / "visitor.yaml")


def steps(url: str) -> list[Step]:
    """The commands of a whole run."""
    explain = ["author.kind=endpoint", f"author.url={url}", "author.model=tiny", "latents=top", "limit=2"]
    return [
        Step(["demo", "run", "--toy", *TRAIN], 8),
        Step(["explain", "run", *explain], 3),
        Step(["report", "run"], 2),
        Step(["browse", "run"], 2),
        Step(["plot", "run", "--format", "png"], 1),
        # Last, because a verb that writes results removes what killed readers left half written.
        Step(["attribute", "run", VISITOR, *BEHAVIOR], 3),
    ]


def dies_and_ends(forks: Forks, step: Step, moments: int, chance: random.Random) -> list[str]:
    """Let a command die at random moments, again and again, and then end; return how it died.

    Args:
        moments: At how many moments it could die if it never did.
    """
    deaths: list[str] = []
    while len(deaths) < step.deaths:
        how = chance.choice(["kill", "full"])
        after = chance.randint(1, max(1, 2 * moments // (step.deaths + 1)))
        done = forks.end_of(forks.start(*step.words, how=how, after=after))
        if done.code == 0:
            return deaths
        deaths.append(how)
        assert_died(done, how)
    done = forks.end_of(forks.start(*step.words))
    assert done.code == 0, done.output
    return deaths


def assert_died(done: Ended, how: str) -> None:
    """Check that a killed command was killed, and that one without disk says so in one line."""
    if how == "kill":
        assert done.code == -9, done.output
        return
    assert done.code == 2, done.output
    (told,) = [line for line in done.output.splitlines() if line.startswith("crosscoder: ")]
    assert "the disk is full" in told, done.output
    assert "Traceback" not in done.output


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
def forks(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(place, tmp_path_factory.mktemp("outputs"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """One for all runs, because they record its address."""
    with serving(Author) as url:
        yield url


@pytest.fixture(scope="module")
def trained(place: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped, before the later commands change its tables."""
    counts = place / "demo.count"
    done = forks.end_of(forks.start("demo", "run", "--toy", *TRAIN, counts=counts))
    assert done.code == 0, done.output
    return Path(shutil.copytree(place / "run", tmp_path_factory.mktemp("trained") / "run"))


@pytest.fixture(scope="module")
def uninterrupted(
    place: Path, forks: Forks, trained: Path, endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    for words, _ in steps(endpoint)[1:]:
        done = forks.end_of(forks.start(*words, counts=place / f"{words[0]}.count"))
        assert done.code == 0, done.output
    return (place / "run").rename(tmp_path_factory.mktemp("whole") / "run")


def test_a_run_that_dies_at_random_ends_as_one_that_does_not(
    uninterrupted: Path, place: Path, forks: Forks, endpoint: str
) -> None:
    chance, deaths = random.Random(0), {}
    for step in steps(endpoint):
        moments = int((place / f"{step.words[0]}.count").read_text())
        deaths[step.words[0]] = dies_and_ends(forks, step, moments, chance)
    assert all(deaths.values()), f"each command has to die at least once: {deaths}"
    assert len(deaths["demo"]) >= 4 and {"kill", "full"} <= set(deaths["demo"]), deaths
    run = place / "run"
    differ = differences(run, uninterrupted)
    assert not [name for name in differ if not allowed(name)]
    assert all(differ.values()), "both have the same files"
    one, other = (json.loads((folder / "manifest.json").read_text()) for folder in (run, uninterrupted))
    assert without_clocks(one) == without_clocks(other)


def test_of_ten_starts_on_one_folder_one_works(trained: Path, place: Path, forks: Forks) -> None:
    """The others say which process works there, and what it makes is what one start makes."""
    chance = random.Random(0)
    started = []
    for _ in range(10):
        started.append(forks.start("train", trained / "config.yaml", "output=ten"))
        time.sleep(chance.uniform(0, 0.3))
    ends = [forks.end_of(process) for process in started]
    (worked,) = [process for process, end in zip(started, ends, strict=True) if end.code == 0]
    for end in ends:
        if end.code != 0:
            assert end.code == 2, end.output
            (line,) = [line for line in end.output.splitlines() if line.startswith("crosscoder: ")]
            assert (
                f": process {worked} on " in line and "works in this run folder; wait until it ends" in line
            )
    made = place / "ten"
    assert (made / "crosscoder" / "model.safetensors").is_file()
    for path in made.rglob("*"):
        name = path.relative_to(made).as_posix()
        # Settings name their own folder.
        if path.is_file() and not allowed(name) and path.name != "config.yaml":
            assert path.read_bytes() == (trained / name).read_bytes(), name


def test_the_docs_list_the_same_files() -> None:
    text = (ROOT / "docs" / "large_runs.md").read_text(encoding="utf-8")
    for name in CLOCKS:
        assert f"`{name}`" in text, name
