"""Turns pydantic's validation errors into one line each: the setting, what was found, what would be right."""

import re
import reprlib
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import did_you_mean
from .introspection import Place, choose_variant, kind_of, known_places, variants

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list such as [a, b]",
    "list": "a list such as [a, b]",
    "dict": "a mapping of settings",
    "model": "a mapping of settings",
}
_LONGEST_PART = 60
# A misspelled key often makes another one look missing, so it is reported first.
_URGENCY = ("extra_forbidden", "union_tag_invalid", "union_tag_not_found")


LARGEST_INTEGER = 2**63 - 1
"""The largest whole number in settings: that of 64 bits."""


class SettingError(NamedTuple):
    """One error in one setting."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.place)}: {self.text}" if self.place else self.text


def dotted(place: Place) -> str:
    """Return the dotted name of a setting; long parts, which name no setting, are shortened."""
    return ".".join(part if len(part) <= _LONGEST_PART else show(part) for part in place)


def show(value: object) -> str:
    """Format a value for a message: shortened, and in YAML's notation where Python's differs."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return reprlib.repr(value)


def why_no_expression(pattern: str) -> str | None:
    """Return why a text is no regular expression; None if it is one."""
    try:
        re.compile(pattern)
    except RecursionError:
        return "nested too deeply"
    except (re.error, OverflowError) as error:
        return str(error)
    return None


def first_error(
    error: ValidationError, model: type[BaseModel], data: dict[Any, Any]
) -> tuple[SettingError, int]:
    """Return the most informative error in `data`, and the number of others."""
    found: list[tuple[int, ErrorDetails, _Located]] = []
    for detail in error.errors(include_url=False):
        located = _locate(model, data, detail["loc"])
        if located is not None:
            rank = _URGENCY.index(detail["type"]) if detail["type"] in _URGENCY else len(_URGENCY)
            found.append((rank, detail, located))
    _, detail, located = min(found, key=lambda ranked: ranked[0])
    return SettingError(located.place, _describe(detail, located, model)), len(found) - 1


class _Located(NamedTuple):
    place: Place
    owner: type[BaseModel] | None
    """The block that contains the last key of `place`."""
    siblings: tuple[type[BaseModel], ...]
    """The variants that `owner` was chosen from, `owner` included."""
    options: tuple[type[BaseModel], ...]
    """The variants that the value at `place` may be."""


def _locate(model: type[BaseModel], data: dict[Any, Any], location: tuple[int | str, ...]) -> _Located | None:
    """Locate an error without the variant names in pydantic's location; None if it concerns another variant."""
    place: Place = ()
    options: tuple[type[BaseModel], ...] = (model,)
    siblings = options
    owner: type[BaseModel] | None = None
    block: type[BaseModel] | None = model
    value: Any = data
    for part in location:
        if isinstance(part, int):
            place = (*place, str(part))
            value = value[part] if isinstance(value, list) and part < len(value) else None
            block = _only(options)
        elif block is None and (variant := _variant(part)) in {
            name for option in options for name in (kind_of(option), option.__name__)
        }:
            block = choose_variant(options, value) if isinstance(value, dict) else next(iter(options), None)
            if block is None or variant not in (kind_of(block), block.__name__):
                return None
        elif place and (not isinstance(value, dict) or (block is None and part not in value)):
            continue  # one of several types that a value may have, such as str
        else:
            place, owner, siblings = (*place, part), block, options
            field = block.model_fields.get(part) if block else None
            options = variants(field.annotation) if field else ()
            value = value.get(part) if isinstance(value, dict) else None
            block = _only(options)
    return _Located(place, owner, siblings, options)


def _variant(part: str) -> str:
    """Return the name of a variant; pydantic writes function-after[check(), Name] for a block that checks itself as a whole."""
    return part.rstrip("]").rpartition(" ")[2] if part.startswith("function-") else part


def _only(options: tuple[type[BaseModel], ...]) -> type[BaseModel] | None:
    return options[0] if len(options) == 1 else None


def _describe(detail: ErrorDetails, located: _Located, model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(located, model)
    if kind == "missing":
        field = located.owner.model_fields.get(located.place[-1]) if located.owner else None
        return "missing" + (f"; needed: {field.description}" if field and field.description else "")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [str(kind_of(option)) for option in located.options]
        tag = context.get("tag")
        problem = f"kind {show(tag)} is unknown{did_you_mean(str(tag), kinds)}" if tag else "kind is missing"
        return f"{problem}; give one of {', '.join(kinds)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in context["expected"].replace(" or ", ", ").split(", ")]
        return f"expected one of {', '.join(choices)}, got {show(value)}{did_you_mean(str(value), choices)}"
    if kind == "invalid_key":
        return "the name of a setting must be text"
    if kind == "int_parsing_size":
        return f"expected a whole number of at most {LARGEST_INTEGER:,}, got {show(value)}"
    expected = _EXPECTED.get(kind.partition("_")[0])
    if expected and kind.endswith(("_type", "_parsing", "_from_float")):
        if all(map(kind_of, located.options)) and located.options:
            expected = f"a mapping such as {{kind: {kind_of(located.options[0])}, ...}}"
        quotes = "; put it in quotes" if expected == "text" and isinstance(value, int | float) else ""
        return f"expected {expected}, got {show(value)}{quotes}"
    wanted = detail["msg"].removeprefix("Input ").partition(" after validation")[0].replace("Tuple", "list")
    return f"{wanted[0].lower()}{wanted[1:]}, got {show(value)}"


def _unknown(located: _Located, model: type[BaseModel]) -> str:
    name, owner = located.place[-1], located.owner
    kinds = [
        str(kind_of(other)) for other in located.siblings if kind_of(other) and name in other.model_fields
    ]
    if owner is not None and kinds:
        return f"no setting of kind {kind_of(owner)}; it belongs to kind {' and '.join(kinds)}"
    fitting = [owner] if owner is not None and kind_of(owner) else located.siblings
    known = list(dict.fromkeys(field for block in fitting for field in block.model_fields))
    if name in known and owner is not None:
        return f"cannot be combined with {', '.join(field for field in owner.model_fields if field != name)}"
    if hint := did_you_mean(name, known):
        return f"no such setting{hint}"
    elsewhere = sorted({".".join(place) for place in known_places(model) if place[-1] == name})
    if elsewhere:
        return f"no such setting (did you mean {elsewhere[0]!r}?)"
    return f"no such setting; known here: {', '.join(known)}"
