"""What every dialect offers: recognize its files, and read them into our dictionary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError
from ..crosscoder import Crosscoder
from .dictionary_files import SourceFiles
from .open_questions import Questions


@dataclass(frozen=True)
class Reading:
    """A dictionary that was read, and what its files say of where it comes from."""

    crosscoder: Crosscoder
    described: dict[str, Any]
    """Models, hookpoints and the like, as the files name them."""


@dataclass(frozen=True)
class Dialect:
    """One format of one tool.

    `recognizes` looks at names and shapes alone. `read` asks `Questions` for what the files leave open, and raises FormatError with
    the reason for what our dictionary cannot represent.
    """

    name: str
    recognizes: Callable[[SourceFiles], bool]
    read: Callable[[SourceFiles, Questions], Reading]


def described(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return those of the named settings that are there, for the record of where a dictionary comes from."""
    return {name: settings[name] for name in names if settings.get(name) is not None}


def transcoder(files: SourceFiles) -> FormatError:
    """Return the refusal of a transcoder."""
    return FormatError(
        f"{files.place}: a transcoder predicts other activations than it reads; our dictionary reconstructs what it reads"
    )
