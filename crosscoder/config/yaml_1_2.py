"""Reads and writes settings with the scalars of YAML 1.2 instead of PyYAML's YAML 1.1 rules.

PyYAML reads `1e-4` as text, `no` and `on` as booleans, `1:30` as 90, `010` as 8, and silently keeps the last of two
equal keys. Here `1e-4` is a number, only `true` and `false` are booleans, a key given twice is an error, and no
number is infinite. As in Python, an underscore may group digits (`2_000_000`).
"""

import math
import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)


_PLAIN = ("null", "str", "seq", "map")


class _Reader(yaml.SafeLoader):
    # PyYAML keeps its rules on the class; empty dicts remove the rules of YAML 1.1.
    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        None: yaml.SafeLoader.yaml_constructors[None],
        **{_TAG + name: yaml.SafeLoader.yaml_constructors[_TAG + name] for name in _PLAIN},
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                if key.value in seen:
                    raise ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node))
        try:
            value = (int if node.tag == _TAG + "int" else float)(text)
        except ValueError:
            value = math.inf
        if not math.isfinite(value):
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
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)
