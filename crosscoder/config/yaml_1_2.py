"""Reads and writes settings with the scalars of YAML 1.2 instead of PyYAML's YAML 1.1 rules.

PyYAML reads `1e-4` as text, `no` and `on` as booleans, `1:30` as 90, `010` as 8, and silently keeps the last of two
equal keys. Here `1e-4` is a number, only `true` and `false` are booleans, a key given twice is an error, and no
number is infinite. As in Python, an underscore may group digits (`2_000_000`).

The file is not trusted: no tag constructs anything but plain values, and what it may hold is bounded (`MAX_VALUES`, `MAX_DEPTH`) with
every alias counted as what it stands for, so that a short file cannot become a large value. An alias inside its own anchor is refused.
"""

import math
import re
import reprlib
from typing import Any, NamedTuple

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from ..errors import first_line

MAX_VALUES = 50_000
"""Values, keys included, that a file may hold once its aliases are replaced by what they stand for."""

MAX_DEPTH = 50
"""Mappings and lists inside each other."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)


class TooLarge(ComposerError):
    """A file that is valid YAML, but holds more than settings do."""


_PLAIN = ("null", "str", "seq", "map")


class _Extent(NamedTuple):
    """The size of an anchored value, with the aliases in it replaced by what they stand for."""

    n_values: int
    height: int
    """Mappings and lists inside each other."""


class _Reader(yaml.SafeLoader):
    # PyYAML keeps its rules on the class; empty dicts remove the rules of YAML 1.1.
    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        None: yaml.SafeLoader.yaml_constructors[None],
        **{_TAG + name: yaml.SafeLoader.yaml_constructors[_TAG + name] for name in _PLAIN},
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._n_values, self._depth, self._deepest = 0, 0, 0
        self._anchored: dict[str, _Extent | None] = {}  # None while the anchored value is still open

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            extent = self._anchored.get(event.anchor, _Extent(0, 0))
            if extent is None:
                problem = (
                    f"{reprlib.repr(event.anchor)} contains itself; an alias stands for a finished value"
                )
                raise ComposerError(None, None, problem, event.start_mark)
            self._count(extent, event)
            return super().compose_node(parent, index)
        anchor, n_before, deepest_before = getattr(event, "anchor", None), self._n_values, self._deepest
        if anchor is not None:
            self._anchored[anchor] = None
        self._depth += 1
        self._deepest = 0
        self._count(_Extent(1, 0), event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None:
            self._anchored[anchor] = _Extent(self._n_values - n_before, self._deepest - self._depth)
        self._deepest = max(self._deepest, deepest_before)
        return node

    def _count(self, extent: "_Extent", event: yaml.Event) -> None:
        self._n_values += extent.n_values
        self._deepest = max(self._deepest, self._depth + extent.height)
        problem = None
        if self._n_values > MAX_VALUES:
            problem = f"more than {MAX_VALUES:,} values, with aliases counted as what they stand for; put long lists into files"
        elif self._deepest > MAX_DEPTH:
            problem = f"nested too deeply, more than {MAX_DEPTH} levels; expected settings"
        if problem is not None:
            raise TooLarge(None, None, problem, event.start_mark)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # a scalar or list with the tag !!map
            raise ConstructorError(None, None, "expected a mapping where the tag is !!map", node.start_mark)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                if key.value in seen:
                    problem = f"{reprlib.repr(key.value)} is given twice"
                    raise ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node))
        try:
            value = (int if node.tag == _TAG + "int" else float)(text)
        except ValueError:
            value = math.inf
        if isinstance(value, float) and not math.isfinite(value):
            raise ConstructorError(None, None, f"{text[:40]!r} is not a finite number", node.start_mark)
        return value

    def construct_truth(self, node: yaml.ScalarNode) -> bool:
        text = str(self.construct_scalar(node))
        if text.lower() not in ("true", "false"):
            raise ConstructorError(None, None, f"{text[:40]!r} is neither true nor false", node.start_mark)
        return text.lower() == "true"


class _Writer(yaml.SafeDumper):
    """Quotes text that this reader or a YAML 1.1 reader would not read as text."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # In single quotes PyYAML writes these line breaks unescaped, and reads them back as a space.
        style = '"' if set(text) & {"\x85", "\u2028", "\u2029"} else None
        return self.represent_scalar(_TAG + "str", text, style=style)


for _name, _pattern, _first in _SCALARS:
    for _class in (_Reader, _Writer):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), list(_first))
_Writer.add_representer(str, _Writer.represent_text)
_Reader.add_constructor(_TAG + "int", _Reader.construct_number)
_Reader.add_constructor(_TAG + "float", _Reader.construct_number)
_Reader.add_constructor(_TAG + "bool", _Reader.construct_truth)


def read_yaml(text: str) -> Any:
    """Parse `text`. Raises yaml.YAMLError, with a `problem_mark` if the position is known."""
    return yaml.load(text, _Reader)


def write_yaml(value: Any) -> str:
    """Return YAML that `read_yaml` and any other YAML reader read as `value`."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=100)


def describe_syntax_error(error: yaml.YAMLError) -> str:
    """Describe a syntax error in one line: its position and its cause."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or first_line(error)
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)
