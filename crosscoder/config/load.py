"""Loads settings from a YAML file and command-line overrides, and writes them back to YAML.

`dotted.key=value` overrides take precedence over the file, and the file over the defaults. A block with variants is
chosen by its `kind`; without one it has the default's kind. When an override changes the kind, settings that only the
old kind has are dropped, unless another override sets them.

Paths: a relative path in a file (texts, activations, `model`, `adapter`) is resolved against the folder of that file if
it exists there. If not, it stays as written: relative to the working directory, or a name on a model hub. `output` and
every path on the command line are relative to the working directory.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import ConfigError, did_you_mean
from . import AdapterSource, DictionaryConfig, ModelSource, RunConfig, TrainingConfig
from .chat_model import LocalModel
from .dictionary_source import DictionarySource
from .introspection import (
    Place,
    blocks,
    choose_variant,
    kind_of,
    name_default_kinds,
    scalars,
    variants,
)
from .messages import SettingError, dotted, first_error, show
from .usable_values import LONGEST_FILE, is_folder, is_there, unusable_values
from .yaml_1_2 import MAX_DEPTH, TooLarge, describe_syntax_error, read_yaml, write_yaml

T = TypeVar("T", bound=BaseModel)

_FOLDER_OR_HUB_ID = {
    (ModelSource, "model"),
    (AdapterSource, "adapter"),
    (LocalModel, "model"),
    (DictionarySource, "source"),
    # A name alone stands for the source.
    (DictionaryConfig, "load"),
    (TrainingConfig, "start_from"),
}


def load_config(path: Path, overrides: Sequence[str] = (), model: type[T] = RunConfig) -> T:
    """Load settings from the YAML file at `path` and apply `dotted.key=value` overrides.

    Raises:
        ConfigError: The file is missing, unreadable, not YAML or empty, or a setting is unknown, missing, of the wrong
            type or out of bounds. The message is one line.
    """
    path = Path(path)
    data = _read(path)
    given = _apply(data, model, overrides)
    _resolve_paths(data, model, path.parent, given)
    return _validate(data, model, given, f"in {path}")


def with_overrides(config: T, overrides: Sequence[str]) -> T:
    """Apply `dotted.key=value` overrides to `config`. Raises ConfigError as `load_config` does."""
    data = config.model_dump(mode="json")
    given = _apply(data, type(config), overrides)
    return _validate(data, type(config), given, "in the settings")


def dump_config(config: BaseModel) -> str:
    """Return YAML that `load_config` reads back to an equal `config`."""
    return write_yaml(config.model_dump(mode="json"))


def _read(path: Path) -> dict[Any, Any]:
    if is_folder(path, str(path)):
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in (".yaml", ".yml"))
        hint = f"; it holds {', '.join(inside[:5])}" if inside else ""
        raise ConfigError(f"{path}: is a folder, expected a YAML file{hint}")
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            raise ConfigError(f"{path}: longer than {LONGEST_FILE:,} bytes, expected a YAML file of settings")
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_suggestion(path)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}), expected a YAML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        data = read_yaml(text)
    except TooLarge as error:
        raise ConfigError(f"{path}: {describe_syntax_error(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML, {describe_syntax_error(error)}") from None
    if data is None:
        raise ConfigError(f"{path}: is empty, expected settings such as 'output: runs/first'")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {show(data)}")
    return data


def _suggestion(path: Path) -> str:
    if path.parent.is_dir():
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    return f", and no folder {path.parent}"


# --- command-line overrides -------------------------------------------------------------------------------------------


def _apply(data: dict[Any, Any], model: type[BaseModel], overrides: Sequence[str]) -> set[Place]:
    """Write the overrides into `data`, and return the places that they set."""
    name_default_kinds(model, data)
    given: set[Place] = set()
    for word in overrides:
        key, equals, text = word.partition("=")
        place = tuple(key.split("."))
        if not equals or not all(place):
            raise ConfigError(f"{show(word)}: expected KEY=VALUE, e.g. training.lr=3e-4")
        if len(place) > MAX_DEPTH:
            raise ConfigError(
                f"{show(key)}: {len(place)} keys deep, but no setting is deeper than {MAX_DEPTH}"
            )
        _override(data, model, place, _value(key, text), given)
        given.add(place)
    name_default_kinds(model, data)
    return given


def _value(key: str, text: str) -> Any:
    """Parse a number, true, false, null, quoted text or flow value as YAML; anything else is plain text."""
    delimited = text.lstrip()[:1] in tuple("[{'\"")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        if delimited:
            raise ConfigError(
                f"{dotted(tuple(key.split('.')))}: {show(text)} is not valid YAML, {describe_syntax_error(error)} (on the command line)"
            ) from None
        value = text
    return value if delimited or not isinstance(value, str | dict | list) else text.strip()


def _override(
    data: dict[Any, Any], model: type[BaseModel], place: Place, value: Any, given: set[Place]
) -> None:
    target: Any = data
    options: tuple[type[BaseModel], ...] = (model,)
    for depth, part in enumerate(place[:-1]):
        options, target = _descend(target, options, part, place[: depth + 1])
    if isinstance(target, list):
        target[_index(target, place)] = value
        return
    if not isinstance(target, dict):
        raise ConfigError(f"{dotted(place[:-1])}: is {show(target)}, so it has no setting {show(place[-1])}")
    if place[-1] == "kind" and value != target.get("kind"):
        old, new = choose_variant(options, target), choose_variant(options, {"kind": value})
        if old is not None and new is not None:
            for name in (old.model_fields.keys() - new.model_fields.keys()) & target.keys():
                if (*place[:-1], name) not in given:
                    del target[name]
    target[place[-1]] = value


def _descend(
    target: Any, options: tuple[type[BaseModel], ...], part: str, place: Place
) -> tuple[tuple[type[BaseModel], ...], Any]:
    """Descend one key toward a setting; a block missing from the file starts from its default."""
    if isinstance(target, list):
        return options, target[_index(target, place)]
    if not isinstance(target, dict):
        raise ConfigError(f"{dotted(place[:-1])}: is {show(target)}, so it has no setting {show(part)}")
    block = choose_variant(options, target)
    field = block.model_fields.get(part) if block else None
    if target.get(part) is None:
        default = field.default if field else None
        target[part] = {}
        if isinstance(default, BaseModel):
            target[part] = default.model_dump(mode="json", exclude_unset=True)
            if kind := kind_of(default):
                target[part]["kind"] = kind
    return (variants(field.annotation) if field else ()), target[part]


def _index(target: list[Any], place: Place) -> int:
    # The length first: Python refuses to convert thousands of digits.
    if not place[-1].isdecimal() or len(place[-1]) > 9 or int(place[-1]) >= len(target):
        raise ConfigError(
            f"{dotted(place)}: no such entry; {dotted(place[:-1])} has {len(target)} entries, counted from 0"
        )
    return int(place[-1])


# --- from values to settings ------------------------------------------------------------------------------------------


def _resolve_paths(data: dict[Any, Any], model: type[BaseModel], folder: Path, given: set[Place]) -> None:
    for place, block, values in blocks(model, data):
        for name, field in block.model_fields.items():
            is_input = Path in scalars(field.annotation) and name != "output"
            value, here = values.get(name), (*place, name)
            if _is_overridden(here, given) or not (is_input or (block, name) in _FOLDER_OR_HUB_ID):
                continue
            if isinstance(value, list):
                # A list that may also hold text is not a list of paths.
                if str in scalars(field.annotation):
                    continue
                values[name] = [
                    entry
                    if (*here, str(index)) in given
                    else _resolved(entry, folder, is_input, (*here, str(index)))
                    for index, entry in enumerate(value)
                ]
            elif name in values:
                values[name] = _resolved(value, folder, is_input, here)


def _resolved(value: object, folder: Path, is_input: bool, place: Place) -> object:
    """Resolve a path or pattern from a file against the folder of that file if it exists there; return it unchanged if not."""
    if not isinstance(value, str) or not value:
        return value
    candidate, setting = folder / value, dotted(place)
    found = is_folder(candidate, setting) or (
        is_input and (is_there(candidate, setting) or _matches(candidate, value))
    )
    return os.path.abspath(candidate) if found else value


def _matches(candidate: Path, pattern: str) -> bool:
    """Whether a pattern such as texts/*.jsonl matches any file."""
    if not glob.has_magic(pattern):
        return False
    return next(glob.iglob(str(candidate), recursive=True), None) is not None


def _is_overridden(place: Place, given: set[Place]) -> bool:
    """Whether an override set this setting, or a block around it."""
    return any(place[:depth] in given for depth in range(1, len(place) + 1))


def _validate(data: dict[Any, Any], model: type[T], given: set[Place], source: str) -> T:
    found = _mistyped_numbers(data, model)
    if not found:
        try:
            config = model.model_validate(data)
        except ValidationError as error:
            first, n_more = first_error(error, model, data)
            raise _refusal(first, n_more, given, source) from None
        # After pydantic, because a bound of the setting itself says more.
        found = unusable_values(data, model, _FOLDER_OR_HUB_ID)
        if not found:
            return config
    raise _refusal(found[0], len(found) - 1, given, source)


def _refusal(first: SettingError, n_more: int, given: set[Place], source: str) -> ConfigError:
    inside = any(place[: len(first.place)] == first.place for place in given if first.place)
    where = "on the command line" if inside or _is_overridden(first.place, given) else source
    more = f"; {n_more} more" if n_more else ""
    return ConfigError(f"{first} ({where}{more})")


def _mistyped_numbers(data: dict[Any, Any], model: type[BaseModel]) -> list[SettingError]:
    """Find text and booleans in place of numbers, which pydantic would accept: '32', 'nan' and true."""
    found = []
    for place, block, values in blocks(model, data):
        for name, field in block.model_fields.items():
            value, types = values.get(name), scalars(field.annotation)
            if types & {int, float} and isinstance(value, str | bool) and type(value) not in types:
                expected = "a number" if float in types else "a whole number"
                found.append(SettingError((*place, name), f"expected {expected}, got {show(value)}"))
    return found
