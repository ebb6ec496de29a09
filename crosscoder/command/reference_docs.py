"""The reference of settings, tables and commands, made from what the code says: `python -m crosscoder.command.reference_docs docs/reference`.

The texts are the descriptions of the settings (`config`, `behavior`, `requirements`), of the columns (`analysis/tables/columns.py`) and the
help of the command; a test says when the files have to be made anew.
"""

import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.models import ArgumentInfo, OptionInfo

from ..config import RunConfig
from ..config.behavior import Behavior
from ..config.introspection import kind_of, variants
from ..config.requirements import Requirements
from ..runtime.files import write_atomic
from .app import app
from .packages import module

COMMAND = "python -m crosscoder.command.reference_docs docs/reference"
_MADE = f"Made by `{COMMAND}`; do not edit.\n"

_FILES = (
    (RunConfig, "Settings of a run", "What `crosscoder run CONFIG` and the verbs of its parts take."),
    (
        Behavior,
        "Settings of a behavior",
        "What `crosscoder attribute RUN BEHAVIOR` takes, and `behaviors` of a run names.",
    ),
    (Requirements, "Requirements", "What `crosscoder report RUN --require FILE` takes."),
)


def main(folder: Path) -> None:
    """Write every page of the reference."""
    for name, text in pages().items():
        write_atomic(folder / name, text)


def pages() -> dict[str, str]:
    """The pages by file name."""
    return {"config.md": config_page(), "columns.md": columns_page(), "commands.md": commands_page()}


# --- settings ---------------------------------------------------------------------------------------------------------


def config_page() -> str:
    """Every setting of every file that a user writes."""
    lines = [
        "# Settings",
        "",
        _MADE,
        "A setting is named as on the command line: `crosscoder run CONFIG training.lr=3e-4`.",
        "",
    ]
    for model, title, about in _FILES:
        lines += [f"## {title}", "", about, ""]
        for place, block, note in _blocks(model):
            if place:
                lines += [f"### `{place}`" + (f", {note}" if note else ""), ""]
                if block.__doc__:
                    lines += [_first_paragraph(block.__doc__), ""]
            lines += [*_settings_table(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def _blocks(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Every block of settings with the place it stands at, outer before inner, and what chooses it where there are several."""
    queue: list[tuple[str, type[BaseModel], str]] = [("", model, "")]
    while queue:
        place, block, note = queue.pop(0)
        yield place, block, note
        inner = []
        for name, field in block.model_fields.items():
            options = variants(field.annotation)
            for option in dict.fromkeys(options):
                several = len(dict.fromkeys(options)) > 1
                inner.append((_joined(place, name), option, _chosen_by(option) if several else ""))
        queue = inner + queue


def _chosen_by(option: type[BaseModel]) -> str:
    kind = kind_of(option)
    if kind is not None:
        return f"kind `{kind}`"
    needed = [name for name, field in option.model_fields.items() if field.is_required()]
    return f"with `{'`, `'.join(needed)}`"


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _settings_table(block: type[BaseModel]) -> list[str]:
    rows = [
        (f"`{name}`", _type_name(field.annotation, field), _default(field), field.description or "")
        for name, field in block.model_fields.items()
        if name != "kind"
    ]
    return _table(("setting", "type", "default", "what it is"), rows) if rows else ["It has no settings."]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if value is PydanticUndefined and field.default_factory is not None:
        value = field.default_factory()  # pyright: ignore[reportCallIssue]
    if isinstance(value, BaseModel):
        kind = kind_of(value)
        return f"`{kind}`" if kind else "its own"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple() | list():
            return f"[{', '.join(_yaml(part) for part in value)}]"
        case "":
            return '""'
        case _:
            return str(value)


def _type_name(annotation: Any, field: FieldInfo | None = None) -> str:
    """A type in words, with its bounds."""
    bounds = _bounds(field.metadata if field is not None else ())
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return _type_name(inner) + _bounds(metadata)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    if origin in (Union, types.UnionType):
        names = [_type_name(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(names)) + bounds
    if origin in (tuple, list):
        return f"list of {_type_name(get_args(annotation)[0])}{bounds}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    return {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}[
        annotation
    ] + bounds


_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _bounds(metadata: Sequence[Any]) -> str:
    said = []
    for part in metadata:
        # A `Field` inside Annotated keeps its bounds in metadata of its own.
        if isinstance(part, FieldInfo):
            return _bounds(part.metadata)
        said += [
            f"{word} {getattr(part, name):g}"
            for name, word in _LIMITS.items()
            if getattr(part, name, None) is not None
        ]
        if least := getattr(part, "min_length", None):
            said.append("not empty" if least == 1 else f"at least {least} entries")
        if pattern := getattr(part, "pattern", None):
            said.append(f"matching `{pattern}`")
    return f" ({', '.join(said)})" if said else ""


# --- tables -----------------------------------------------------------------------------------------------------------


def columns_page() -> str:
    """Every column of every table of a run."""
    lines = [
        "# Tables of a run", "", _MADE,
        "Parquet files, read with any reader. Text of models and data sets is stored as it is: escape it before it is shown as markup.",
        "",
    ]  # fmt: skip
    for table in module("analysis.tables.columns").TABLES:
        lines += [f"## {table.name}", "", f"`{table.path}`: {table.row}.", ""]
        rows = [
            (
                f"`{column.name}`",
                str(column.type).replace("<element: ", " of ").replace("<item: ", " of ").rstrip(">"),
                column.meaning + (f" Only where {column.made_by}." if column.made_by else ""),
                column.unit,
                column.null or "never",
            )
            for column in table.columns
        ]
        lines += [*_table(("column", "type", "meaning", "unit or values", "null"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every verb with its arguments and options."""
    lines = [
        "# Commands", "", _MADE,
        "Exit codes: 0 done; 1 a defect of the program, with its traceback; 2 something that a user can mend, in one line; 3 a "
        "requirement of `--require` is not fulfilled; 130 interrupted.",
        "",
    ]  # fmt: skip
    for words, function in _verbs(app, ("crosscoder",)):
        parameters = [_parameter(parameter) for parameter in inspect.signature(function).parameters.values()]
        arguments = [word for word, is_option, *_ in parameters if not is_option]
        options = ["[OPTIONS]"] if len(arguments) < len(parameters) else []
        lines += [
            f"## {' '.join(words[1:])}",
            "",
            f"`{' '.join([*words, *options, *arguments])}`",
            "",
            inspect.getdoc(function) or "",
            "",
        ]
        rows = [(f"`{word}`", default, about) for word, _, default, about in parameters]
        lines += [*_table(("word", "default", "what it is"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _verbs(
    group: typer.Typer, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Callable[..., object]]]:
    """Every verb, with the words that call it, in the order of the help."""
    for command in group.registered_commands:
        assert command.name is not None and command.callback is not None
        yield (*words, command.name), command.callback
    for inner in group.registered_groups:
        assert inner.name is not None and inner.typer_instance is not None
        yield from _verbs(inner.typer_instance, (*words, inner.name))


def _parameter(parameter: inspect.Parameter) -> tuple[str, bool, str, str]:
    """The word on the command line, whether it is an option, its default, and what it is."""
    annotation, info = get_args(parameter.annotation)
    needed = parameter.default is inspect.Parameter.empty
    if isinstance(info, ArgumentInfo):
        word = info.metavar or parameter.name.upper()
        words = [f"{part}..." if list in _kinds(annotation) else part for part in [word]]
        return words[0] if needed else f"[{words[0]}]", False, "needed" if needed else "", info.help or ""
    assert isinstance(info, OptionInfo)
    # In an annotation the first name stands where a default would.
    named = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
    name = ", ".join(named) or f"--{parameter.name.replace('_', '-')}"
    kinds = _kinds(annotation)
    value = "" if bool in kinds else " " + "|".join(_words(annotation) or [_VALUES[kind] for kind in kinds])
    default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
    return name + value, True, default, info.help or ""


_VALUES = {str: "TEXT", int: "NUMBER", Path: "PATH"}


def _kinds(annotation: Any) -> list[Any]:
    """The plain types that a word of the command line may have."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in parts for kind in _kinds(part)]
    if get_origin(annotation) is Literal:
        return []
    return [get_origin(annotation) or annotation]


def _words(annotation: Any) -> list[str]:
    """The words that it may be, where they are given."""
    return [str(word) for word in get_args(annotation)] if get_origin(annotation) is Literal else []


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows),
    ]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
