"""Errors that a user can fix. The command prints them as one line and exits with code 2.

CrosscoderError
├── ConfigError    a setting is missing, misspelled, of the wrong type, or contradicts another
├── FormatError    a file is truncated, altered, or written by another version
├── PairError      the two models cannot be compared as requested (tokenizer, width, hookpoint)
├── DataError      the text or the activations cannot be used (empty, NaN, infinite)
├── DivergedError  training produced a loss that is not finite, or a dictionary worse than predicting the mean
└── ResourceError  the machine lacks a resource (disk, memory, an installed package)

A message names the setting or file, then what was found, then what would be right, in one printable line. Any other exception is
a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class CrosscoderError(Exception):
    """Base of all errors that a user can fix."""

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class ConfigError(CrosscoderError):
    """A setting is missing, misspelled, of the wrong type, or contradicts another."""


class FormatError(CrosscoderError):
    """A file is truncated, altered, or written by another version."""


class PairError(CrosscoderError):
    """The two models cannot be compared as requested."""


class DataError(CrosscoderError):
    """The text or the activations cannot be used."""


class DivergedError(CrosscoderError):
    """Training produced a loss that is not finite, or a dictionary that is worse than predicting the mean."""


class ResourceError(CrosscoderError):
    """The machine lacks a resource that the command needs."""


_LONGEST_LINE = 1000
_LONGEST_WORD = 100


def one_line(text: str) -> str:
    """Return a message as one printable line: control characters and undecodable bytes are escaped, and the middle of a long one is
    left out. Messages quote files and settings that are not trusted."""
    line = " ".join(text.split("\n"))
    if len(line) > _LONGEST_LINE:
        half = _LONGEST_LINE // 2
        line = f"{line[:half]} … {line[-half:]}"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """Return a hint to append to a message, ` (did you mean 'x' or 'y'?)`; empty if no known word is similar."""
    near = difflib.get_close_matches(word[:_LONGEST_WORD], list(known), n=count, cutoff=0.6)
    if not near:
        return ""
    return f" (did you mean {' or '.join(repr(match) for match in near)}?)"
