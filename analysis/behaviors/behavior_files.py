"""Where the files of a behavior lie, and what they say."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

SCHEMA_VERSION = 1


class BehaviorFolder:
    """One behavior in RUN/behaviors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def behavior(self) -> Path:
        """The settings it was measured with."""
        return self.path / "behavior.yaml"

    @property
    def shift(self) -> Path:
        """The shift, its interval and its noise floor."""
        return self.path / "shift.json"

    @property
    def prompts(self) -> Path:
        """The prompts that claims are checked on, with both models' values."""
        return self.path / "prompts.parquet"

    @property
    def attribution(self) -> Path:
        """The shift taken apart."""
        return self.path / "attribution.json"

    @property
    def latents(self) -> Path:
        """One row a latent."""
        return self.path / "attribution.parquet"

    @property
    def tokens(self) -> Path:
        """One row a firing of a named latent."""
        return self.path / "tokens.parquet"

    @property
    def causal(self) -> Path:
        """The causal checks."""
        return self.path / "causal.json"

    @property
    def replies(self) -> Path:
        """What a judge replied."""
        return self.path / "judged.jsonl"

    def clear(self) -> None:
        """Remove what an earlier attribution left, but for a judge's replies, so that nothing of it is read as of this one."""
        for path in (self.shift, self.prompts, self.attribution, self.latents, self.tokens, self.causal):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class BehaviorResults:
    """What was found of one behavior; None for what was not looked for."""

    name: str
    shift: dict[str, Any]
    attribution: dict[str, Any] | None
    causal: dict[str, Any] | None

    shares: dict[int, float]
    """Share of the shift that is attributed to each latent on held-out prompts; empty without a gradient."""


def load_behaviors(folder: RunFolder) -> tuple[BehaviorResults, ...]:
    """All behaviors of a run, by name.

    Raises `FormatError` where a file is damaged or of another version.
    """
    return tuple(_load(place) for place in behavior_folders(folder))


def behavior_folders(folder: RunFolder) -> tuple[BehaviorFolder, ...]:
    """Where the behaviors lie, in the order of `load_behaviors`. Their names come from files and are no paths."""
    if not folder.behaviors.is_dir():
        return ()
    places = [BehaviorFolder(path) for path in sorted(folder.behaviors.iterdir()) if path.is_dir()]
    return tuple(place for place in places if place.shift.is_file())


def evidence_by_latent(folder: RunFolder) -> dict[int, str]:
    """The strongest evidence that any behavior gives for a latent; latents without any are left out."""
    strongest: dict[int, str] = {}
    if not folder.behaviors.is_dir():
        return strongest
    for path in sorted(folder.behaviors.glob("*/attribution.parquet")):
        table = pq.read_table(path, columns=["latent", "evidence"]).to_pydict()
        for latent, evidence in zip(table["latent"], table["evidence"], strict=True):
            if LEVELS.index(evidence) > LEVELS.index(strongest.get(latent, "observed")):
                strongest[latent] = evidence
    return strongest


def named_by_behaviors(folder: RunFolder) -> set[int]:
    """Latents that were taken out or put in one by one, of any behavior."""
    return {latent for found in load_behaviors(folder) if found.causal for latent in found.causal["named"]}


LEVELS = ("observed", "associated", "causal")
"""Of evidence, from the weakest to the strongest."""

MIN_SHARE = 0.01
"""Of the shift. A latent that carries less is no cause of it that anybody could use, however sure it is that it does more than nothing."""


def _load(place: BehaviorFolder) -> BehaviorResults:
    shift = _read(place.shift)
    return BehaviorResults(
        str(shift["name"]),
        shift,
        _read(place.attribution) if place.attribution.is_file() else None,
        _read(place.causal) if place.causal.is_file() else None,
        _shares(place.latents),
    )


def _shares(path: Path) -> dict[int, float]:
    if not path.is_file() or "share_held_out" not in pq.read_schema(path).names:
        return {}
    table = pq.read_table(path, columns=["latent", "share_held_out"]).to_pydict()
    return dict(zip(table["latent"], table["share_held_out"], strict=True))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: not valid JSON ({error}); run crosscoder attribute again") from None
    if content.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(
            f"{path}: schema_version {content.get('schema_version')!r}, this release reads {SCHEMA_VERSION}; "
            "run crosscoder attribute again"
        )
    return content
