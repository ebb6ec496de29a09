"""The desiderata table, and demands on it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.labels.rule import CLAIMED
from analysis.report import read_report, unmet, write_report
from analysis.report.render import prose_html, prose_markdown
from analysis.report.schema import Requirement
from crosscoder.config.load import load_config
from crosscoder.config.requirements import Demand, Requirements
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder

from ..report_runs import checked, checked_causally, controlled, estimate, report_text, shifted, unchecked
from ..run_folder import make_run_folder

KEYS = [
    "comparability.contract", "comparability.common_frame", "comparability.change",
    "validity.faithfulness", "validity.specificity", "validity.robustness",
    "actionability.lever", "actionability.legibility",
    "monitoring.trajectory", "monitoring.coverage",
]  # fmt: skip


# Findings of an identity control.
FOUND = {"alive": 100, "new": 0, "lost": 0, "rotated": 0, "rescaled": 0}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run_folder(tmp_path / "run")


def table(folder: RunFolder, **changes: Any) -> dict[str, Requirement]:
    """Return the table of a run after changes of its summary."""
    summary = json.loads(folder.summary.read_text()) | changes
    folder.summary.write_text(json.dumps(summary))
    write_report(folder)
    return {requirement.key: requirement for requirement in read_report(folder).desiderata}


def stable(folder: RunFolder, share: float) -> None:
    """Let every other training find this share of the latents again, with the same label."""
    features = pd.read_parquet(folder.features)
    features["label_stability"] = None
    features["seed_stability"] = [float(latent < share * len(features)) for latent in range(len(features))]
    features.to_parquet(folder.features)


def test_every_requirement_of_the_four_families_is_in_it(run: RunFolder) -> None:
    assert list(table(run)) == KEYS
    known = {f"{family}.{name}" for family in Requirements.model_fields
             for name in type(getattr(Requirements(), family)).model_fields}  # fmt: skip
    assert known == set(KEYS)


@pytest.mark.parametrize("key", ["validity.faithfulness", "actionability.lever", "monitoring.trajectory"])
def test_unmeasured_requirements_are_not_measured(run: RunFolder, key: str) -> None:
    requirement = table(run)[key]
    assert (requirement.value, requirement.shown.text, requirement.verdict) == (
        None,
        "not measured",
        "not measured",
    )


@pytest.mark.parametrize(
    ("key", "changes", "value", "verdict"),
    [
        ("comparability.common_frame", {"fve": {"reference": 0.9, "intervened": 0.88}}, 0.02, "pass"),
        ("comparability.common_frame", {"fve": {"reference": 0.9, "intervened": 0.8}}, 0.1, "fail"),
        ("comparability.common_frame", {"fve": {"reference": None, "intervened": 0.8}}, None, "not measured"),
        ("comparability.change", {"controls": {"identity": FOUND}}, 0, "pass"),
        ("comparability.change", {"controls": {"identity": FOUND | {"rotated": 2}}}, 2, "fail"),
        ("comparability.change", {"controls": {"identity": None}}, None, "not measured"),
        ("monitoring.coverage", {"fve": {"difference": 0.7}}, 0.3, "pass"),
        ("monitoring.coverage", {"fve": {"difference": 0.2}}, 0.8, "fail"),
        ("monitoring.coverage", {"fve": {"difference": None}}, None, "not measured"),
    ],
)
def test_values_and_verdicts(
    run: RunFolder, key: str, changes: dict[str, Any], value: float | None, verdict: str
) -> None:
    requirement = table(run, **changes)[key]
    assert requirement.verdict == verdict
    assert requirement.value == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("checkpoints", "changed", "named", "value", "verdict"),
    [
        (4, 10, 10, 1.0, "pass"),
        (3, 10, 8, 0.8, "fail"),
        (4, 0, 0, None, "not measured"),
        (2, 10, 10, None, "not measured"),
    ],
)
def test_latents_are_followed_over_checkpoints(
    run: RunFolder, checkpoints: int, changed: int, named: int, value: float | None, verdict: str
) -> None:
    onset = {"changed": changed, "named": named}
    requirement = table(run, monitoring={"checkpoints": [{}] * checkpoints, "onset": onset})[
        "monitoring.trajectory"
    ]
    assert (requirement.value, requirement.verdict) == (value, verdict)
    assert (f"of 10, over {checkpoints} checkpoints" in requirement.shown.text) == (value is not None)


@pytest.mark.parametrize(("new", "verdict"), [(0.2, "pass"), (3.0, "fail"), (None, "not measured")])
def test_specificity_counts_latents_of_the_nulls(run: RunFolder, new: float | None, verdict: str) -> None:
    counts = json.loads(run.summary.read_text())["counts"]
    for label in ("replaced", "rotated", "rescaled", "reweighted"):
        counts[label]["expected_false"] = 0.0
    counts["new"]["expected_false"], counts["lost"]["expected_false"] = new, 0.1
    requirement = table(run, counts=counts)["validity.specificity"]
    assert requirement.verdict == verdict
    assert requirement.value == (None if new is None else pytest.approx(new + 0.1))


@pytest.mark.parametrize(
    ("seeds", "share", "verdict"), [(2, 1.0, "pass"), (2, 0.0, "fail"), (1, 1.0, "not measured")]
)
def test_robustness_needs_three_seeds(run: RunFolder, seeds: int, share: float, verdict: str) -> None:
    stable(run, share)
    requirement = table(run, controls={"seeds": seeds})["validity.robustness"]
    assert requirement.verdict == verdict
    assert requirement.value == (share if seeds >= 2 else None)


def test_robustness_counts_what_this_training_alone_would_call_changed(run: RunFolder) -> None:
    controlled(run)
    features: Any = pd.read_parquet(run.features)
    n_claimed = int(features["label"].isin(CLAIMED).sum())
    measured = table(run)["validity.robustness"]
    assert measured.value == pytest.approx(n_claimed / (n_claimed + 9))
    assert f"of {n_claimed + 9}" in measured.shown.text


def lever_of(run: RunFolder, removal: dict[str, Any], **steering: Any) -> Requirement:
    """Return the requirement for a behavior whose latents have this check in answers, and with these steering rows."""
    place = run.behaviors / "refusal"
    causal = checked_causally()
    causal["answers"]["together"]["necessity"] = removal
    causal["removal_cost"]["kl"] = estimate(0.0625)
    for row in causal["steering"]:
        if row["direction"] in steering:
            row["share"] = estimate(steering[row["direction"]])
        row["kl"] = estimate(0.0625)
    if not place.is_dir():
        shifted(run, "refusal")
    (place / "causal.json").write_text(json.dumps(causal))
    return table(run)["actionability.lever"]


def test_a_lever_has_to_undo_more_than_a_random_edit(run: RunFolder) -> None:
    passed = lever_of(run, checked(0.75))
    assert (passed.value, passed.verdict) == (0.75, "pass")
    lost = lever_of(run, checked(1.0, passed=False), random=0.5, **{"named latents": 0.5})
    assert (lost.value, lost.verdict) == (0.0, "fail"), "100 % undone, as random latents do"
    assert "the best lever undoes" in lost.shown.text
    steered = lever_of(run, checked(1.0, passed=False), random=0.125, **{"named latents": 0.625})
    assert (steered.value, steered.verdict) == (0.625, "pass")
    not_made = lever_of(run, unchecked(1.0, draws=39), random=0.5, **{"named latents": 0.5})
    assert not_made.verdict == "fail"


def test_legibility_counts_the_latents_that_have_to_be_read(run: RunFolder) -> None:
    features = pd.read_parquet(run.features)
    features["shift_share"] = 0.0
    features.loc[:3, "shift_share"] = [0.5, 0.2, 0.1, 0.05]
    features.to_parquet(run.features)
    assert table(run)["actionability.legibility"].value == 2  # 0.7 of 0.85
    features["shift_share"] = None
    features.to_parquet(run.features)
    assert table(run)["actionability.legibility"].verdict == "not measured"


def test_the_contract_names_what_is_missing(run: RunFolder) -> None:
    manifest = json.loads(run.manifest.read_text())
    manifest.setdefault("pair", {})["tokenizer"] = None
    run.manifest.write_text(json.dumps(manifest))
    requirement = table(run)["comparability.contract"]
    assert requirement.verdict == "fail" and "tokenizer" in requirement.shown.text


def test_text_and_page_show_every_row(run: RunFolder) -> None:
    requirements = table(run).values()
    for form, prose in (("md", prose_markdown), ("html", prose_html)):
        text = report_text(run, form)
        for requirement in requirements:
            assert f"{requirement.family}: {requirement.name}" in text
            assert prose(requirement.measure) in text


def test_a_report_that_cannot_be_read_is_one_line(run: RunFolder) -> None:
    with pytest.raises(FormatError, match=r"report\.json: missing; run `crosscoder report"):
        read_report(run)
    run.report.mkdir()
    (run.report / "report.json").write_text("{}")
    with pytest.raises(FormatError, match="not a report of this release"):
        read_report(run)


# --- demands ----------------------------------------------------------------------------------------------------------


def test_each_unfulfilled_demand_is_a_line(run: RunFolder) -> None:
    measured = table(run, fve={"reference": 0.9, "intervened": 0.86, "difference": 0.7}).values()
    asked = {
        "comparability": {"common_frame": {"verdict": "pass"}},
        "validity": {"faithfulness": {"verdict": "pass"}},
        "monitoring": {"coverage": {"at_most": 0.2}},
    }
    lines = unmet(Requirements.model_validate(asked), measured)
    assert lines == [
        "validity.faithfulness: not measured, required: pass (at least 50.0 %, and the check against random latents is passed)",
        "monitoring.coverage: 30.0 %, required: at most 0.2",
    ]
    asked["monitoring"] = {"coverage": {"at_most": 0.4, "at_least": 0.1}}
    assert len(unmet(Requirements.model_validate(asked), measured)) == 1
    assert unmet(Requirements(), measured) == []


def test_a_demand_has_a_verdict_and_limits() -> None:
    both = Demand(verdict="pass", at_least=0.1, at_most=2)
    assert str(both) == "pass and at least 0.1 and at most 2"
    assert both.fulfilled_by(0.1, "pass") and both.fulfilled_by(2.0, "pass")
    assert not any(
        both.fulfilled_by(*found) for found in ((0.1, "fail"), (0.05, "pass"), (3.0, "pass"), (None, "pass"))
    )
    assert Demand(verdict="pass").fulfilled_by(None, "pass")
    assert not Demand(verdict="pass").fulfilled_by(None, "not measured")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("validity: {robust: {verdict: pass}}", "validity.robust: no such setting"),
        ("validity: {robustness: {}}", "validity.robustness: demands nothing"),
        ("validity: {robustness: pass}", "validity.robustness: expected a mapping of settings, got 'pass'"),
        ("validity: {robustness: {verdict: fail}}", "validity.robustness.verdict: expected one of pass"),
        ("validty: {robustness: {verdict: pass}}", "validty: no such setting"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "require.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, model=Requirements)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
