"""Settings to attack the loader with: drawn from the schema of the settings themselves, with values at and beyond every bound."""

import functools
import json
import math
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from hypothesis import strategies as st
from pydantic import BaseModel

NUMBERS = (
    0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**18, 10**30, 10**400, 0.5, -0.0, 1.5, 1e-45, 1e-320, 1e30, 1e39,
    -1e39, 1e308,
)  # fmt: skip
TEXTS = (
    "", " ", "a", "a" * 5000, "a/" * 3000, "../" * 50, "/dev/null", "/root/x/y", "~", "a\0b", "\ud800", "\udcff.npy", "a\nb", "\r", "\x1b[2J",
    "\u202e\u2028\x85", "ä😀", "null", "nan", "1e5", "=", "<<", "*a", "&a", "!!python/name:os.system", "(" * 5000, "(a+)+$", "{answer}",
    "files", "relu", "topk", "endpoint", "callable",
)  # fmt: skip
WRONG_TYPES = (
    None, True, False, [], {}, [None], [[]], {"": 1}, {"kind": None}, {"kind": []}, {"kind": "relu"}, {"x": {"y": {"z": 1}}}, [1] * 3000,
    ["x"] * 3000, {str(i): i for i in range(500)},
)  # fmt: skip
RAW = (
    ".nan", ".inf", "-.inf", "1" * 5000, "1e999", "0x1F", "!!binary aGk=", "!!set {a}", "!!python/object/apply:os.system [ls]", "[" * 5000,
    "{a: " * 300, "'", '"', "- a", "a: b: c", "|", "? a", "%YAML 9", "---", "\t", "2020-01-01", "!" + "a" * 3000 + " x",
)  # fmt: skip

CASE_SECONDS = 10
"""CPU time that a case may take, at most; most take a hundredth of it."""

CASE_BYTES = 1 << 30
"""Memory that a case may add, at most."""


class Raw(NamedTuple):
    """Text that stands in the file as it is."""

    text: str


@functools.cache
def hostile() -> st.SearchStrategy[Any]:
    """Values of any kind, right and wrong."""
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    return st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(TEXTS),
        st.sampled_from(WRONG_TYPES),
        st.sampled_from([Raw(text) for text in RAW]),
        st.just(deep),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
    )


@functools.cache
def settings_of(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for the settings of `model`: mostly valid ones, and some that are not."""
    schema = model.model_json_schema()
    return _block(schema, schema.get("$defs", {}))


def overrides_of(model: type[BaseModel], places: list[tuple[str, ...]]) -> st.SearchStrategy[str]:
    """Words of the command line: settings that exist and others, with values of any kind."""
    names = st.one_of(
        st.sampled_from([".".join(place) for place in places]),
        st.lists(st.sampled_from(["a", "0", "kind", "9" * 5000, "", "training", "-1", "²"]), max_size=60).map(
            ".".join
        ),
        st.text(max_size=8),
    )
    words = st.builds(lambda name, value: f"{name}={as_yaml(value)}", names, hostile())
    return words | st.text(max_size=10)


def as_yaml(value: Any) -> str:
    """Write a value as flow YAML. `Raw` text stands as it is."""
    match value:
        case Raw(text):
            return text
        case dict():
            return (
                "{" + ", ".join(f"{json.dumps(key)}: {as_yaml(inner)}" for key, inner in value.items()) + "}"
            )
        case list():
            return "[" + ", ".join(map(as_yaml, value)) + "]"
        case float() if not math.isfinite(value):
            return ".inf"
        case _:
            return json.dumps(value)


def as_file(settings: dict[str, Any]) -> str:
    """Write settings as a file, one line for each section."""
    return "".join(f"{json.dumps(key)}: {as_yaml(value)}\n" for key, value in settings.items())


@contextmanager
def bounded(seconds: float = CASE_SECONDS) -> Iterator[None]:
    """Raise if the block takes more than so many seconds of CPU time, or more than `CASE_BYTES` of memory."""

    def too_long(signal_number: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"took more than {seconds} s")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGVTALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + CASE_BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGVTALRM, before)


def _block(schema: dict[str, Any], known: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with every required key, and up to three others."""
    properties, required = schema.get("properties", {}), set(schema.get("required", ()))
    always = {
        name: _value(inner, known) for name, inner in properties.items() if name in required or name == "kind"
    }
    optional = {name: _value(inner, known) for name, inner in properties.items() if name not in always}

    @st.composite
    def draw(draw: st.DrawFn) -> dict[str, Any]:
        names = draw(st.lists(st.sampled_from(list(optional)), max_size=3, unique=True)) if optional else []
        block = {name: draw(strategy) for name, strategy in always.items()}
        block |= {name: draw(optional[name]) for name in names}
        if draw(st.integers(0, 40)) == 0:
            block[draw(st.text(max_size=8) | st.sampled_from(["a" * 5000, "kind", "a.b", "a\nb"]))] = draw(
                hostile()
            )
        return block

    return draw()


def _value(schema: dict[str, Any], known: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A value that the schema allows, nine times of ten."""
    allowed, any_kind = _allowed(schema, known), hostile()
    return st.integers(0, 9).flatmap(lambda turn: any_kind if turn == 0 else allowed)


def _allowed(schema: dict[str, Any], known: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _allowed(known[schema["$ref"].rpartition("/")[2]], known)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return st.one_of([_allowed(option, known) for option in schema[several]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object":
            return _block(schema, known)
        case "array":
            entries = schema.get("prefixItems") or [schema.get("items", {})] * 2
            return st.tuples(*(_value(entry, known) for entry in entries)).map(list) | st.just([])
        case "integer" | "number":
            bounds = [schema[name] for name in _BOUNDS if name in schema]
            near = [bound + step for bound in bounds for step in (-1, 0, 1)] + [
                bound * 0.999 for bound in bounds
            ]
            return st.sampled_from([*near, 1, 2, 3, 16, 0.5])
        case "string":
            return st.sampled_from(["a", "model.layers.1", "runs/x", "{answer}", "a.npy"])
        case "boolean":
            return st.booleans()
        case _:
            return st.none()


_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
