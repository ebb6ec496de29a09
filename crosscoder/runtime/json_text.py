"""Parses JSON that is not trusted."""

import json
from pathlib import Path
from typing import Any


class NestedTooDeeplyError(ValueError):
    """JSON that is nested too deeply to be parsed."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON, or cannot be parsed; NestedTooDeeplyError if it is nested too deeply, which `json` does not report as one.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise NestedTooDeeplyError("nested too deeply") from None


def json_of(path: Path) -> Any:
    """Return the value in a JSON file. Raises ValueError as `parse_json`, also if the file is not UTF-8."""
    return parse_json(path.read_text(encoding="utf-8"))
