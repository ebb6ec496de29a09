"""What the verbs share: their arguments, read into settings and run folders, and the line that reports a result."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..config import RunConfig
from ..config.behavior import Behavior
from ..config.load import load_config
from ..errors import ConfigError
from ..run.folder import RESULT_NEUTRAL_SETTINGS, RunFolder

Target = Annotated[
    Path, typer.Argument(metavar="CONFIG_OR_RUN", help="YAML file of settings, or a run folder")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="settings to override, e.g. training.lr=3e-4")
]


def load_settings(target: Path, overrides: list[str] | None) -> RunConfig:
    """Load the settings of a file or of a run folder; `output` is then the current path of that folder."""
    words = overrides or []
    if not target.is_dir():
        return load_config(target, words)
    config = load_config(RunFolder.open(target).config, words)
    if any(word.startswith("output=") for word in words):
        return config
    return config.model_copy(update={"output": target})


def open_finished_run(target: Path, overrides: list[str] | None) -> RunFolder:
    """Open a run to read; overrides of its settings are refused, since reading cannot apply them."""
    config = load_settings(target, overrides)
    folder = RunFolder.open(config.output)
    folder.require_same(config, RESULT_NEUTRAL_SETTINGS)
    return folder


def load_behaviors(paths: Iterable[Path], overrides: Sequence[str] = ()) -> list[Behavior]:
    """Load the settings of behaviors from their files."""
    return [load_config(path, overrides, Behavior) for path in paths]


def first_word(words: list[str] | None, default: str) -> tuple[str, list[str]]:
    """Split words into the leading word that is not an override (or the default) and the overrides."""
    first, *others = words or [default]
    return (default, [first, *others]) if "=" in first else (first, others)


def whole_numbers(name: str, words: str | None, example: str) -> list[int]:
    """Parse whole numbers above 0, separated by commas; empty if nothing is given."""
    try:
        numbers = [int(word) for word in words.split(",")] if words else []
    except ValueError:
        raise ConfigError(f"{name}: {words!r} is not a list of numbers; give e.g. {example}") from None
    if any(number < 1 for number in numbers):
        raise ConfigError(f"{name}: {words!r} contains a number below 1; give e.g. {example}")
    return numbers


def print_result(name: str, value: Path | str) -> None:
    """Print one line of results."""
    print(f"{name:<12} {value}", flush=True)
