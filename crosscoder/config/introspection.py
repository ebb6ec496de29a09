"""Walks over settings models and their plain values: which variant a block is, and which settings exist."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Place = tuple[str, ...]
"""The keys that lead to a setting: `("text", "sources", "0", "path")`."""


def variants(annotation: object) -> tuple[type[BaseModel], ...]:
    """Return the settings models that a value of this type may be or contain."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(found for part in get_args(annotation) for found in variants(part))


def scalars(annotation: object) -> set[type]:
    """Return the plain types that a value of this type may have; `Literal` counts as none."""
    if get_origin(annotation) is Literal:
        return set()
    if isinstance(annotation, type):
        return {annotation}
    return {found for part in get_args(annotation) for found in scalars(part)}


def kind_of(block: object) -> str | None:
    """Return the `kind` of this variant (a class or an instance), or None if it has no `kind`."""
    field = getattr(block, "model_fields", {}).get("kind") if isinstance(block, type) else None
    return field.default if field else getattr(block, "kind", None)


def choose_variant(options: tuple[type[BaseModel], ...], data: dict[Any, Any]) -> type[BaseModel] | None:
    """Return the variant that matches `data`: by its `kind`, or else by the most required and known keys."""
    if not options:
        return None
    if len(options) > 1 and all(kind_of(option) for option in options):
        return next((option for option in options if kind_of(option) == data.get("kind")), None)
    return max(options, key=lambda option: _fit(option, data))


def _fit(option: type[BaseModel], data: dict[Any, Any]) -> tuple[int, int]:
    required = {name for name, field in option.model_fields.items() if field.is_required()}
    return len(required & data.keys()), len(option.model_fields.keys() & data.keys())


def children(field: FieldInfo, name: str, value: object) -> Iterator[tuple[Place, dict[Any, Any]]]:
    """Yield the mappings in the value of one setting: the value itself, or the entries of a list."""
    if isinstance(value, dict):
        yield (name,), value
    elif isinstance(value, list) and variants(field.annotation):
        for index, entry in enumerate(value):
            if isinstance(entry, dict):
                yield (name, str(index)), entry


def blocks(
    model: type[BaseModel], data: dict[Any, Any], place: Place = ()
) -> Iterator[tuple[Place, type[BaseModel], dict[Any, Any]]]:
    """Yield every block of settings in `data`, outermost first, with its place and its variant."""
    yield place, model, data
    for name, field in model.model_fields.items():
        for where, child in children(field, name, data.get(name)):
            chosen = choose_variant(variants(field.annotation), child)
            if chosen is not None:
                yield from blocks(chosen, child, place + where)


def name_default_kinds(model: type[BaseModel], data: dict[Any, Any]) -> None:
    """Write the default `kind` into every block of `data` without a `kind`."""
    for _, block, values in blocks(
        model, data
    ):  # outermost first: a block gets its kind before it is visited
        for name, field in block.model_fields.items():
            kind = kind_of(field.default) if isinstance(field.default, BaseModel) else None
            if kind and isinstance(values.get(name), dict):
                values[name].setdefault("kind", kind)


def known_places(model: type[BaseModel], place: Place = ()) -> Iterator[Place]:
    """Yield every setting of every variant; `0` stands for the entries of a list."""
    for name, field in model.model_fields.items():
        yield (*place, name)
        options = variants(field.annotation)
        inside = (*place, name, "0") if get_origin(field.annotation) is tuple else (*place, name)
        for option in options:
            yield from known_places(option, inside)


def leaves(value: object, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield every plain value in a tree of mappings and lists, with its place; an empty mapping or list is a value."""
    pairs: list[tuple[object, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    if not pairs:
        yield place, value
    for name, entry in pairs:
        yield from leaves(entry, (*place, str(name)))
