"""The schema of report.json as a file; run `python -m analysis.report.json_schema` after a change of `schema.py`."""

import json
from pathlib import Path
from typing import Any

from .schema import SCHEMA_VERSION, Report

PATH = Path(__file__).with_name("report.schema.json")
COMMAND = "python -m analysis.report.json_schema"


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of report.json, from the models that write it."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:crosscoder:report:{SCHEMA_VERSION}",
        "title": "crosscoder report",
        "version": SCHEMA_VERSION,
        "$comment": "x-text gives the source of a text. quoted: models, data sets, settings, the machine; address: a link, relative to the folder of "
        "the report; retold: an earlier stage, with its numbers in the same object. Texts without it are the report's own words and "
        "contain no number: numbers are fields, or the `numbers` of a Sentence.",
    }
    # Of reports as they are written: fields with a default are always present.
    body = Report.model_json_schema(mode="serialization")
    return head | {key: value for key, value in body.items() if key not in head}


def text_of_schema() -> str:
    """Return the content of the schema file."""
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text_of_schema(), encoding="utf-8")
