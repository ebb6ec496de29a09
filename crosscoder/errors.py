"""What can go wrong because of what a user gave us. The command prints these as one line and exits with code 2.

CrosscoderError
├── ConfigError    a setting is missing, misspelled, of the wrong type, or contradicts another
├── FormatError    a file is not what it says it is: truncated, tampered with, of another version
├── PairError      the two models cannot be compared the way that was asked (tokenizer, width, hookpoint)
├── DataError      the text or the activations cannot be used (empty, NaN, infinite)
├── DivergedError  training produced a loss that is not finite
└── ResourceError  the machine lacks what the work needs (disk, memory)

A message names the setting or file first, then what was found, then what would be right. Anything else that is raised
is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class CrosscoderError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(CrosscoderError):
    """A setting is missing, misspelled, of the wrong type, or contradicts another."""


class FormatError(CrosscoderError):
    """A file is not what it says it is."""


class PairError(CrosscoderError):
    """The two models cannot be compared the way that was asked."""


class DataError(CrosscoderError):
    """The text or the activations cannot be used."""


class DivergedError(CrosscoderError):
    """Training produced a loss that is not finite."""


class ResourceError(CrosscoderError):
    """The machine lacks what the work needs."""


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """A hint to append to a message: ` (did you mean 'x' or 'y'?)`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=count, cutoff=0.6)
    if not near:
        return ""
    return f" (did you mean {' or '.join(repr(match) for match in near)}?)"
