"""Conditions for a comparison that only some runs have."""

from pathlib import Path

import pytest

from analysis.report import write_report
from analysis.report.schema import Report
from crosscoder.run.folder import RunFolder

from ..run_folder import make_run_folder

NAME = "activations from another program"


def read_report(run: RunFolder) -> Report:
    write_report(run)
    return Report.model_validate_json((run.report / "report.json").read_text(encoding="utf-8"))


def report_of(run: RunFolder, errors: tuple[float, float], largest: float | None) -> Report:
    """The report of a run whose activations another program computed."""
    stages = run.read_manifest().get("stages", {})
    models = {
        name: {"relative_error": error}
        for name, error in zip(("reference", "intervened"), errors, strict=True)
    }
    outside = {"fidelity": {"models": models, "difference": 0.1, "largest_error": largest}}
    run.update_manifest("stages", stages | {"harvest": stages.get("harvest", {}) | {"outside": outside}})
    return read_report(run)


@pytest.mark.parametrize(
    ("errors", "largest", "verdict"),
    [
        ((0.01, 0.02), 0.05, "pass"),
        ((0.06, 0.02), 0.05, "fail"),
        ((0.02, 0.06), 0.05, "fail"),
        ((0.01, 0.02), None, "not measured"),
    ],
)
def test_errors_of_another_program_count_by_what_the_models_differ_by(
    tmp_path: Path, errors: tuple[float, float], largest: float | None, verdict: str
) -> None:
    report = report_of(make_run_folder(tmp_path / "run"), errors, largest)
    (check,) = [check for check in report.checks if check.name == NAME]
    assert (check.value, check.verdict) == (max(errors), verdict)


def test_activations_of_the_models_need_no_such_condition(tmp_path: Path) -> None:
    report = read_report(make_run_folder(tmp_path / "run"))
    assert NAME not in [check.name for check in report.checks]
