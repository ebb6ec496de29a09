"""Reads metrics.jsonl as a table."""

from typing import Any

import pandas as pd

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.json_text import parse_json


def read_metrics(folder: RunFolder) -> pd.DataFrame:
    """Return one row per line of metrics.jsonl; NaN if a line lacks a number, histograms as lists.

    Skips an incomplete last line, which a killed process can leave. Raises `FormatError` if the file is missing or a line is not a JSON
    object.
    """
    try:
        lines = folder.metrics.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise FormatError(f"{folder.metrics}: missing; run `crosscoder train {folder.path}`") from None
    whole, rest = lines[:-1], lines[-1]
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(whole, 1):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise FormatError(f"{folder.metrics}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise FormatError(f"{folder.metrics}: line {number} holds no JSON object")
        rows.append(row)
    del rest
    return pd.DataFrame(rows)
