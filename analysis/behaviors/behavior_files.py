"""Files of a behavior: their paths, and reading them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import read_json, remove_file

SCHEMA_VERSION = 2


class BehaviorFolder:
    """One behavior in RUN/behaviors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def behavior(self) -> Path:
        """The settings of the behavior."""
        return self.path / "behavior.yaml"

    @property
    def shift(self) -> Path:
        """The shift, its interval and its noise floor."""
        return self.path / "shift.json"

    @property
    def prompts(self) -> Path:
        """The claim set of prompts, with both models' values."""
        return self.path / "prompts.parquet"

    @property
    def attribution(self) -> Path:
        """The decomposition of the shift."""
        return self.path / "attribution.json"

    @property
    def latents(self) -> Path:
        """One row per latent."""
        return self.path / "attribution.parquet"

    @property
    def tokens(self) -> Path:
        """One row per firing of a named latent."""
        return self.path / "tokens.parquet"

    @property
    def causal(self) -> Path:
        """The causal checks."""
        return self.path / "causal.json"

    @property
    def replies(self) -> Path:
        """Replies of a judge."""
        return self.path / "judged.jsonl"

    def clear(self) -> None:
        """Remove the results of an earlier attribution, except a judge's replies."""
        for path in (self.shift, self.prompts, self.attribution, self.latents, self.tokens, self.causal):
            remove_file(path)


@dataclass(frozen=True)
class BehaviorResults:
    """Results of one behavior; None for files that were not written."""

    name: str
    shift: dict[str, Any]
    attribution: dict[str, Any] | None
    causal: dict[str, Any] | None

    shares: dict[int, float]
    """Share of the shift attributed to each latent on held-out prompts; empty without a gradient."""


def load_behaviors(folder: RunFolder) -> tuple[BehaviorResults, ...]:
    """Load all behaviors of a run, sorted by name.

    Raises:
        FormatError: A file is damaged or has another version.
    """
    return tuple(_load(files) for files in behavior_folders(folder))


def behavior_folders(folder: RunFolder) -> tuple[BehaviorFolder, ...]:
    """Return the folders of the behaviors, in the order of `load_behaviors`. Names in the files are not used as paths."""
    if not folder.behaviors.is_dir():
        return ()
    folders = [BehaviorFolder(path) for path in sorted(folder.behaviors.iterdir()) if path.is_dir()]
    return tuple(files for files in folders if files.shift.is_file())


def evidence_by_latent(folder: RunFolder) -> dict[int, str]:
    """Return the strongest evidence from any behavior for each latent above `observed`."""
    strongest: dict[int, str] = {}
    if not folder.behaviors.is_dir():
        return strongest
    for path in sorted(folder.behaviors.glob("*/attribution.parquet")):
        table = pq.read_table(path, columns=["latent", "evidence"]).to_pydict()
        for latent, evidence in zip(table["latent"], table["evidence"], strict=True):
            if LEVELS.index(evidence) > LEVELS.index(strongest.get(latent, "observed")):
                strongest[latent] = evidence
    return strongest


def named_by_behaviors(folder: RunFolder, without: Collection[str] = ()) -> set[int]:
    """Return the named latents of all behaviors but some: those whose single effects were checked."""
    counted = [found for found in load_behaviors(folder) if found.name not in without]
    return {latent for found in counted if found.causal for latent in found.causal["named"]}


LEVELS = ("observed", "associated", "causal")
"""Levels of evidence, weakest first."""

MIN_SHARE = 0.01
"""Minimum share of the shift for a causal claim: smaller effects are negligible even if they are significant."""


def _load(files: BehaviorFolder) -> BehaviorResults:
    shift = _read(files.shift)
    return BehaviorResults(
        str(shift["name"]),
        shift,
        _read(files.attribution) if files.attribution.is_file() else None,
        _read(files.causal) if files.causal.is_file() else None,
        _shares(files.latents),
    )


def _shares(path: Path) -> dict[int, float]:
    if not path.is_file() or "share_held_out" not in pq.read_schema(path).names:
        return {}
    table = pq.read_table(path, columns=["latent", "share_held_out"]).to_pydict()
    return dict(zip(table["latent"], table["share_held_out"], strict=True))


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path, "run crosscoder attribute again")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(
            f"{path}: schema_version is {content.get('schema_version')!r}, but this release reads {SCHEMA_VERSION}; "
            "run crosscoder attribute again"
        )
    return content
