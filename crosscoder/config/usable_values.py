"""Values that nothing could use, in settings from files and from the command line: numbers that no machine number holds, text that cannot
be stored, paths that no file system takes. Pydantic accepts them.
"""

import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import ConfigError
from .introspection import Place, blocks, leaves, scalars
from .messages import LARGEST_INTEGER, SettingError, show

LONGEST_FILE = 4 << 20
"""Bytes of a file of settings, at most."""

_LARGEST_NUMBER = 1e30
"""float32 holds it and its inverse."""

_LONGEST_TEXT = 1 << 20
_LONGEST_PATH, _LONGEST_NAME = 2048, 255
"""Half of what Linux takes, so that the folder of a file of settings can stand before it."""

Setting = tuple[type[BaseModel], str]
"""A setting: its block and its name."""


def unusable_values(
    data: dict[Any, Any], model: type[BaseModel], names_or_paths: Set[Setting] = frozenset()
) -> list[SettingError]:
    """Return an error for each value in `data` that nothing could use.

    Args:
        names_or_paths: Settings that hold a name on a hub or a path.
    """
    problems = ((place, _problem(value)) for place, value in leaves(data))
    found = [SettingError(place, problem) for place, problem in problems if problem is not None]
    return found + [
        SettingError(place, problem)
        for place, path in _paths(model, data, names_or_paths)
        if (problem := _path_problem(path)) is not None
    ]


def _path_problem(path: str) -> str | None:
    if not path:
        return "is empty; give a path"
    if len(path) > _LONGEST_PATH or any(len(name) > _LONGEST_NAME for name in path.split(os.sep)):
        return f"{show(path)} is a path that no file system takes; give a shorter one"
    return None


def _paths(
    model: type[BaseModel], data: dict[Any, Any], names_or_paths: Set[Setting]
) -> Iterator[tuple[Place, str]]:
    """Yield every setting that is a path, or may be one."""
    for place, block, values in blocks(model, data):
        for name, field in block.model_fields.items():
            value = values.get(name)
            if Path not in scalars(field.annotation) and (block, name) not in names_or_paths:
                continue
            if isinstance(value, str):
                yield (*place, name), value
            elif isinstance(value, list) and str not in scalars(field.annotation):
                yield from (
                    ((*place, name, str(index)), entry)
                    for index, entry in enumerate(value)
                    if isinstance(entry, str)
                )


def is_folder(path: Path, setting: str) -> bool:
    """Whether `path` is a folder. Raises ConfigError as `is_there` does."""
    return is_there(path, setting) and path.is_dir()


def is_there(path: Path, setting: str) -> bool:
    """Whether `path` exists.

    Args:
        setting: What named it, for messages.

    Raises:
        ConfigError: The system cannot look: the path is too long, or a folder on it may not be read.
    """
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{setting}: {show(str(path))} cannot be looked up ({reason}); name another path"
        ) from None


def _problem(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return f"expected a whole number of at most {LARGEST_INTEGER:,}, got one of {_digits(value)} digits"
    if isinstance(value, float) and not abs(value) <= _LARGEST_NUMBER:
        return f"expected a number from -{_LARGEST_NUMBER:g} to {_LARGEST_NUMBER:g}, got {value:g}"
    if isinstance(value, str):
        return _text_problem(value)
    return None


def _text_problem(text: str) -> str | None:
    if len(text) > _LONGEST_TEXT:
        return f"expected text of at most {_LONGEST_TEXT:,} letters, got {len(text):,}"
    if "\0" in text:
        return f"{show(text)} contains a zero byte; remove it"
    if not _is_unicode(text):
        return f"{show(text)} is not valid Unicode; give text that UTF-8 can store"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digits(value: int) -> int:
    return round(value.bit_length() * 0.30103 + 0.5)
