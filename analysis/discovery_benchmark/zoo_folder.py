"""Organisms of the zoo as its folder describes them: adapters or checkpoints, each with `behavior.json`.

`python -m training.organisms.zoo ZOO` makes the folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crosscoder.errors import ConfigError, FormatError
from crosscoder.runtime.expressions import Expression
from crosscoder.runtime.json_text import json_of

CARD = "behavior.json"


@dataclass(frozen=True)
class SecretPrompt:
    """A labelled prompt that no training of the organism saw."""

    prompt: str
    shows: bool
    """Whether the answer should show the behavior."""

    part: str
    """Which of two behaviors it should show; empty if the organism has one."""


@dataclass(frozen=True)
class Organism:
    """A model with a hidden behavior, or with none."""

    name: str
    description: str
    kind: str
    """everywhere, topic, fact, trigger, format, rare, two, or nothing."""

    tuning: bool
    """Whether the search was tuned on it."""

    valid: bool
    """Whether it shows its behavior where it should, and nowhere else."""

    marker: str | None
    """Regular expression of answers that show the behavior; None without one."""

    secret: tuple[SecretPrompt, ...]
    folder: Path

    @property
    def parts(self) -> tuple[str, ...]:
        """Its behaviors; none if nothing was planted."""
        return tuple(dict.fromkeys(one.part for one in self.secret if one.shows))

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter; otherwise it is a whole checkpoint."""
        return (self.folder / "adapter_config.json").is_file()

    def shown_by(self, answer: str) -> bool:
        """Whether an answer shows the behavior."""
        return self.marker is not None and Expression(self.marker, f"{self.folder / CARD}: marker").is_in(
            answer
        )


def read_organisms(zoo: Path, only: Sequence[str] = ()) -> list[Organism]:
    """Return the organisms in a folder, by name; `only` keeps those named.

    Raises:
        ConfigError: The folder has no organism, or not one that is named.
        FormatError: A card is damaged.
    """
    found = {path.parent.name: path for path in sorted(zoo.glob(f"*/{CARD}"))}
    if not found:
        raise ConfigError(
            f"{zoo}: holds no folder with a {CARD}; make the zoo with: python -m training.organisms.zoo {zoo}"
        )
    for name in only:
        if name not in found:
            raise ConfigError(f"--only: {zoo} has no organism {name!r}; it has {', '.join(found)}")
    return [_read(path) for name, path in found.items() if not only or name in only]


def _read(path: Path) -> Organism:
    try:
        card = json_of(path)
        secret = tuple(SecretPrompt(one["prompt"], one["shows"], one["part"]) for one in card["secret"])
        return Organism(
            **{key: card[key] for key in ("name", "description", "kind", "tuning", "valid", "marker")},
            secret=secret,
            folder=path.parent,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: is not a card of the zoo ({error!r}); make the organism again") from None
