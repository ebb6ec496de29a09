"""report.json validates against its published schema, which is the schema of its models."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from analysis.report import write_report
from analysis.report.json_schema import COMMAND, PATH, report_schema, text_of_schema
from analysis.report.schema import SCHEMA_VERSION

from ..report_runs import with_everything
from ..run_folder import make_run_folder

SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_run_folder(tmp_path_factory.mktemp("schema") / "run")
    with_everything(folder)
    write_report(folder)
    return json.loads((folder.report / "report.json").read_text(encoding="utf-8"))


def test_the_stored_schema_is_that_of_the_models() -> None:
    assert PATH.read_text(encoding="utf-8") == text_of_schema(), (
        f"the schema changed; write it with: {COMMAND}"
    )


def test_the_schema_has_a_name_and_version() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"] == f"urn:crosscoder:report:{SCHEMA_VERSION}"
    assert SCHEMA["title"] == "crosscoder report"
    assert SCHEMA["version"] == SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def models() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "Report", SCHEMA
    yield from SCHEMA["$defs"].items()


def test_every_model_and_field_is_described() -> None:
    for name, model in models():
        assert model["description"], name
        assert not model["additionalProperties"]
        # Written reports are complete: what was not measured is null.
        assert set(model["required"]) == set(model["properties"])
        for field, schema in model["properties"].items():
            assert schema.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("identical", [False, True])
def test_reports_validate(tmp_path: Path, report: Any, identical: bool) -> None:
    VALIDATOR.validate(report)
    folder = make_run_folder(tmp_path / "run", n_latents=60, identical=identical)
    write_report(folder)
    VALIDATOR.validate(json.loads((folder.report / "report.json").read_text(encoding="utf-8")))
    assert json.loads((folder.report / "report.schema.json").read_text(encoding="utf-8")) == report_schema()


def _without_a_field(report: Any) -> None:
    del report["desiderata"][0]["verdict"]


def _with_an_unknown_field(report: Any) -> None:
    report["checks"][2]["verdikt"] = "pass"


def _with_a_wrong_verdict(report: Any) -> None:
    report["desiderata"][0]["verdict"] = "passed"


def _with_a_number_in_a_string(report: Any) -> None:
    report["desiderata"][1]["value"] = "0.02"


def _with_a_count_below_zero(report: Any) -> None:
    report["counts"][0]["count"] = -1


def _of_another_version(report: Any) -> None:
    report["schema_version"] = SCHEMA_VERSION + 1


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (_without_a_field, "desiderata.0"),
        (_with_an_unknown_field, "checks.2"),
        (_with_a_wrong_verdict, "desiderata.0.verdict"),
        (_with_a_number_in_a_string, "desiderata.1.value"),
        (_with_a_count_below_zero, "counts.0.count"),
        (_of_another_version, "schema_version"),
    ],
)
def test_invalid_reports_are_refused(report: Any, spoil: Callable[[Any], None], place: str) -> None:
    spoiled = json.loads(json.dumps(report))
    spoil(spoiled)
    (error,) = VALIDATOR.iter_errors(spoiled)
    assert ".".join(str(key) for key in error.absolute_path) == place
