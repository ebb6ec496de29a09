"""metrics.jsonl, read back as a table."""

import json
from typing import Any

import pandas as pd

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder


def read_metrics(folder: RunFolder) -> pd.DataFrame:
    """One row a line of metrics.jsonl; NaN where a line lacks a number, histograms as lists.

    Raises `FormatError` where it is missing or holds a line that is no JSON object. Half a line at the end, as a kill can leave it,
    is left out.
    """
    try:
        lines = folder.metrics.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise FormatError(f"{folder.metrics}: missing; run `crosscoder train {folder.path}`") from None
    whole, rest = lines[:-1], lines[-1]
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(whole, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FormatError(f"{folder.metrics}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise FormatError(f"{folder.metrics}: line {number} holds no JSON object")
        rows.append(row)
    del rest
    return pd.DataFrame(rows)
