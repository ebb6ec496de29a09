"""Reads the runs that are compared. What a run lacks, or what cannot be read, is recorded with the reason."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, CrosscoderError
from crosscoder.run.folder import RunFolder

from ..behaviors.behavior_files import BehaviorResults, load_behaviors
from ..discovery.findings_file import Discovery, read_discovery
from ..report.behavior_schema import BehaviorShift
from ..report.behavior_shifts import behavior_shifts
from ..report.discovery_grounds import discovery_grounds
from ..report.grounds import Grounds, grounds_of
from ..report.wording import Part, Sentence, listed, named, say
from ..tables.analysis_files import AnalysisResults, load_results
from ..tables.parquet import read_table

Value = TypeVar("Value")
RunPart = Literal["settings", "record", "analysis", "discovery", "behaviors", "answers"]

_STAGE_OF: dict[RunPart, str] = {"analysis": "analyze", "discovery": "discover", "behaviors": "attribute"}


class Problem(NamedTuple):
    """Why a part of a run cannot be compared."""

    state: Literal["missing", "unreadable"]
    short: Sentence
    """A few words for a cell."""
    full: Sentence
    """The whole reason."""


class AnswerPair(NamedTuple):
    """Both models' answers to one prompt."""

    reference: str
    intervened: str


@dataclass(frozen=True)
class ComparedRun:
    """One run, as far as it can be read. A part that is None, or empty for behaviors, has an entry in `problems`."""

    name: str
    folder: RunFolder
    config: RunConfig | None
    manifest: Mapping[str, Any]
    results: AnalysisResults | None
    discovery: Discovery | None
    behaviors: tuple[BehaviorResults, ...]
    answers: tuple[AnswerPair, ...]
    """Both models' answers to every prompt of the search that both answered."""
    problems: Mapping[RunPart, Problem]

    @property
    def pair(self) -> Mapping[str, Any]:
        """What the manifest records of the models; empty if nothing, e.g. because the activations came from files."""
        return self.manifest.get("pair") or {}

    @cached_property
    def shifts(self) -> tuple[BehaviorShift, ...]:
        """The behaviors, as in the run's report."""
        return behavior_shifts(self.behaviors)

    @cached_property
    def grounds(self) -> Grounds:
        """The checks that claims about the run rest on; of its findings alone if it has no analysis."""
        if self.results is None:
            return Grounds(discovery_grounds(self.discovery))
        return grounds_of(self.results, self.shifts, self.discovery)

    @property
    def hookpoint(self) -> str | None:
        """Where the dictionary reads; None if it is not recorded, or the activations came from files."""
        recorded = (self.pair.get("reference") or {}).get("hookpoint")
        if recorded is None and self.config is not None and self.config.pair is not None:
            return self.config.pair.hookpoint
        return recorded

    @property
    def progress(self) -> Sentence:
        """Which stages finished, and which did not."""
        stages = self.manifest.get("stages") or {}
        done, open_ = (
            [name for name in stages if bool(stages[name].get("finished")) == end] for end in (True, False)
        )
        if not stages:
            return say("no stage was recorded")
        parts: list[tuple[str, Sentence]] = []
        if done:
            parts.append(("finished", say("finished: {names}", names=_names(done))))
        if open_:
            parts.append(("unfinished", say("interrupted or still running: {names}", names=_names(open_))))
        return listed(parts, "; ")


def read_runs(paths: Sequence[Path]) -> tuple[ComparedRun, ...]:
    """Read the runs in these folders.

    Raises:
        ConfigError: There are fewer than two, one is given twice, or one is no run folder.
    """
    if len(paths) < 2:
        raise ConfigError(f"compare: found {len(paths)} run folder, expected at least two")
    given: dict[Path, Path] = {}
    for path in paths:
        # Unlike Path.resolve, it passes a loop of links, which opening the run then reports.
        place = Path(os.path.realpath(path))
        if place in given:
            same = "" if path == given[place] else f" (it is the folder {given[place]})"
            raise ConfigError(f"{path}: this run is given twice{same}; name each run once")
        given[place] = path
    folders = [RunFolder.open(path) for path in paths]
    return tuple(
        _read(folder, name) for folder, name in zip(folders, distinct_names(list(given)), strict=True)
    )


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, with as many parts before it as make all names differ."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(folder: RunFolder, name: str) -> ComparedRun:
    problems: dict[RunPart, Problem] = {}

    def part(which: RunPart, read: Callable[[], Value]) -> Value | None:
        try:
            return read()
        except CrosscoderError as error:
            problems[which] = Problem("unreadable", say("cannot be read"), say("{why}", why=named(error)))
            return None

    config = part("settings", folder.read_config)
    manifest = part("record", folder.read_manifest) or {}
    results = part("analysis", lambda: load_results(folder)) if folder.summary.is_file() else None
    discovery = part("discovery", lambda: read_discovery(folder.findings))
    behaviors = part("behaviors", lambda: load_behaviors(folder)) or ()
    answers = part("answers", lambda: _answers(folder)) or ()
    absent: dict[RunPart, bool] = {
        "analysis": results is None,
        "discovery": discovery is None,
        "behaviors": not behaviors,
    }
    for which in absent:
        if absent[which] and which not in problems:
            problems[which] = _absent(which, manifest.get("stages") or {})
    return ComparedRun(name, folder, config, manifest, results, discovery, behaviors, answers, problems)


def _answers(folder: RunFolder) -> tuple[AnswerPair, ...]:
    path = folder.discovery / "answers.parquet"
    if not path.is_file():
        return ()
    table = read_table(path, "discover").select(["subject", "prompt", "answer"])
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    by_model: dict[str, dict[str, str]] = {name: {} for name in AnswerPair._fields}
    for subject, prompt, answer in rows:
        if subject in by_model:
            by_model[subject][prompt] = answer
    reference, intervened = by_model.values()
    return tuple(
        AnswerPair(reference[prompt], intervened[prompt]) for prompt in reference if prompt in intervened
    )


def _absent(which: RunPart, stages: Mapping[str, Any]) -> Problem:
    """Return that a part was not made, and whether the stage that makes it began."""
    verb = _STAGE_OF[which]
    began = any(stage == verb or stage.startswith(f"{verb} ") for stage in stages)
    short = {"analysis": "not analyzed", "discovery": "not searched", "behaviors": "not measured"}[which]
    why = " (the stage did not finish)" if began else ""
    full = say(f"{short}{why}: {{command}}", command=named(f"crosscoder {verb} RUN"))
    return Problem("missing", say(f"{short}{why}"), full)


def _names(names: Sequence[str]) -> Sentence:
    """Return the names of stages; attributions of several behaviors are counted."""
    verbs = Counter(name.partition(" ")[0] for name in names)
    return listed(
        (
            verb,
            say("{verb}{times}", verb=named(verb), times=_times(number)),
        )
        for verb, number in verbs.items()
    )


def _times(number: int) -> Part:
    return "" if number == 1 else say(" ({behaviors:counted behavior})", behaviors=number)
