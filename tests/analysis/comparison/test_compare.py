"""Several runs side by side: the order of the runs permutes columns, a copy agrees with its run, nothing is told above its evidence, and
what is missing is told."""

import json
import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from analysis.comparison.compare import compare, comparison_of
from analysis.comparison.compared_runs import distinct_names, read_runs
from analysis.comparison.comparison_schema import Comparison
from analysis.labels.rule import CLAIMED
from analysis.report import write_report
from crosscoder.command.app import app
from crosscoder.run.folder import RunFolder

from ..discovery_records import finding, record
from ..number_walk import complaints
from ..report_runs import shifted
from ..run_folder import HOSTILE
from .compared_run_folders import edit_summary, make_bare_run, make_run, with_results, withheld


def compared(*folders: RunFolder) -> Comparison:
    return comparison_of(read_runs([folder.path for folder in folders]), folders[0].path)


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """A run with everything, one whose labels are withheld, and one that has only settings."""
    root = tmp_path_factory.mktemp("three")
    return [
        with_results(make_run(root / "full")),
        withheld(with_results(make_run(root / "poor", seed=1), record(finding("other", effect="phrase")))),
        make_bare_run(root / "bare"),
    ]


# --- order and copies -------------------------------------------------------------------------------------------------


def columns(comparison: Comparison, rows: str) -> list[Any]:
    """Every row of a table: what names it, and its cells by run."""
    names = [run.name for run in comparison.runs]
    table = comparison.model_dump(mode="json")[rows]
    return [
        {key: value for key, value in row.items() if key != "cells"}
        | dict(zip(names, row["cells"], strict=True))
        for row in table
    ]


def looked_up(comparison: Comparison) -> dict[tuple[str, str], dict[str, Any]]:
    """How many latents of each run and group each other run has."""
    names = [run.name for run in comparison.runs]
    return {
        (row.run, row.group): dict(zip(names, row.cells, strict=True)) for row in comparison.latents.shares
    }


def test_the_order_of_the_runs_permutes_columns_only(three: list[RunFolder]) -> None:
    first = compared(*three)
    for order in permutations(three):
        other = compared(*order)
        assert [run.name for run in other.runs] == [folder.path.name for folder in order]
        for table in ("settings", "searches", "findings", "dictionary", "labels", "behaviors"):
            assert columns(other, table) == columns(first, table) != []
        assert looked_up(other) == looked_up(first) != {}


def test_a_copy_agrees_in_everything_and_is_no_evidence(tmp_path: Path) -> None:
    folder = with_results(make_run(tmp_path / "a"))
    copy = RunFolder(Path(shutil.copytree(folder.path, tmp_path / "b")))
    comparison = compared(folder, copy)
    assert comparison.settings == ()
    for table in (comparison.findings, comparison.dictionary, comparison.labels, comparison.behaviors):
        assert table
        assert all(row.cells[0] == row.cells[1] for row in table)
    measured = [cell for row in comparison.latents.shares for cell in row.cells if cell.state == "measured"]
    assert len(measured) == len(comparison.latents.shares) > 2
    assert {(cell.found_loosely, cell.found_closely) for cell in measured} == {(1.0, 1.0)}
    for one in comparison.latents.latents:
        (near,) = [near for near in one.nearest if near is not None]
        assert near.latent == one.latent
        assert near.cosine == pytest.approx(1.0, abs=1e-5)
    assert [sentence.text for sentence in comparison.shared] == [
        "a, b have the same dictionary, so what they agree on there is found once, not several times."
    ]


# --- labels -----------------------------------------------------------------------------------------------------------


def by_label(comparison: Comparison) -> dict[str, tuple[Any, ...]]:
    return {row.label: row.cells for row in comparison.labels}


def test_counts_are_those_of_the_reports(three: list[RunFolder]) -> None:
    """The positive control of the next tests: where a report states counts, they are there."""
    counts = {count.label: count for count in write_report(three[0]).counts}
    cells = by_label(compared(*three))
    assert {label: cells[label][0].count for label in counts} == counts
    assert {counts[label].count for label in CLAIMED} != {0}


def test_withheld_labels_are_printed_nowhere(three: list[RunFolder], tmp_path: Path) -> None:
    assert write_report(three[1]).withheld
    compare([folder.path for folder in three], tmp_path)
    comparison = Comparison.model_validate_json((tmp_path / "comparison.json").read_text())
    for cells in by_label(comparison).values():
        assert (cells[1].state, cells[1].count, cells[1].shown.text) == ("withheld", None, "withheld")
    assert [sentence.text.partition(":")[0] for sentence in comparison.unlabeled] == ["poor"]
    assert "Nothing is labeled" in comparison.unlabeled[0].text
    assert not [row for row in comparison.latents.shares if row.run == "poor" and row.group in CLAIMED]
    assert not [one for one in comparison.latents.latents if one.run == "poor" and one.label]
    assert all(
        near is None or near.label is None for one in comparison.latents.latents for near in one.nearest[1:2]
    )
    for form in ("md", "html"):
        assert "withheld" in (tmp_path / f"comparison.{form}").read_text()


def test_changes_that_no_other_training_found_again_are_not_counted(tmp_path: Path) -> None:
    """Neither is the number of undetermined latents, which would give their number away."""
    folders = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    summary = json.loads(folders[1].summary.read_text())
    edit_summary(folders[1], controls=summary["controls"] | {"seeds": 0})
    comparison = compared(*folders)
    for label, (stated, other) in by_label(comparison).items():
        assert stated.state == "stated"
        unsure = label in CLAIMED or label == "undetermined"
        assert (other.state, other.count is None) == (("withheld", True) if unsure else ("stated", False))
    assert "must find a change again" in comparison.unlabeled[0].text


def test_labels_of_an_analysis_without_conditions_are_withheld(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    edit_summary(folders[0], checks=[])
    assert {cells[0].state for cells in by_label(compared(*folders)).values()} == {"withheld"}


# --- what is missing --------------------------------------------------------------------------------------------------


def test_missing_parts_are_told(three: list[RunFolder]) -> None:
    comparison = compared(*three)
    bare = comparison.runs[2]
    assert [problem.text.partition(":")[0] for problem in bare.problems] == [
        "not analyzed", "not searched", "not measured",
    ]  # fmt: skip
    assert {row.cells[2].state for row in comparison.dictionary} == {"missing"}
    assert {cells[2].shown.text for cells in by_label(comparison).values()} == {"not analyzed"}
    assert {row.cells[2].state for row in comparison.findings} == {"not searched"}
    assert {row.cells[2].lines[0].text for row in comparison.behaviors} == {"not measured"}
    assert comparison.runs[0].problems == ()


def test_an_interrupted_stage_is_told(tmp_path: Path) -> None:
    folders = [make_bare_run(tmp_path / name) for name in "ab"]
    with pytest.raises(KeyboardInterrupt), folders[1].stage("analyze"):
        raise KeyboardInterrupt
    comparison = compared(*folders)
    assert comparison.runs[1].progress.text == "interrupted or still running: analyze"
    assert [row.cells[0].shown.text for row in comparison.labels[:1]] == ["not analyzed"]
    assert comparison.labels[0].cells[1].shown.text == "not analyzed (the stage did not finish)"


@pytest.mark.parametrize(
    ("place", "content", "said"),
    [
        ("analysis/summary.json", "{", "not JSON"),
        ("discovery/findings.json", '{"schema_version": 99}', "schema_version is 99"),
        ("behaviors/refusal/shift.json", '{"schema_version": 1}', "schema_version is 1"),
        ("crosscoder/model.safetensors", "", "does not match the digest"),
        ("crosscoder/config.json", "{}", "not the config of a crosscoder"),
        ("discovery/answers.parquet", "no", "not a readable Parquet file"),
    ],
)
def test_damaged_files_are_told_and_the_rest_is_compared(
    tmp_path: Path, place: str, content: str, said: str
) -> None:
    folders = [with_results(make_run(tmp_path / name)) for name in "ab"]
    (folders[1].path / place).write_text(content)
    comparison = compared(*folders)
    told = [*comparison.runs[1].problems, comparison.latents.statement]
    assert any(said in sentence.text for sentence in told)
    assert {row.cells[0].state for row in comparison.labels} == {"stated"}
    assert comparison.findings[0].cells[0].state == "found"


# --- behaviors --------------------------------------------------------------------------------------------------------


def test_behaviors_are_matched_by_name(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "abc"]
    shifted(folders[0], "refusal")
    shifted(folders[1], "refusal", established=False)
    shifted(folders[2], "small_talk")
    rows = {row.name: row for row in compared(*folders).behaviors}
    assert {name: [cell.state for cell in row.cells] for name, row in rows.items()} == {
        "refusal": ["established", "not established", "missing"],
        "small_talk": ["missing", "missing", "established"],
    }
    cell = rows["refusal"].cells[0]
    assert (cell.causal, cell.checked, cell.hookpoint) == (1, 2, "model.layers.15")
    assert [(one.kind, one.unit, one.check.share.value) for one in cell.checks] == [
        ("necessity", "generated answers", 0.71),
        ("sufficiency", "generated answers", 0.83),
        ("necessity", "nats", 0.71),
        ("sufficiency", "nats", 0.83),
    ]
    assert rows["refusal"].alike
    assert rows["refusal"].cells[1].checks == ()
    assert "No shift established" in rows["refusal"].cells[1].lines[1].text


def test_behaviors_of_matched_findings_share_a_row_whatever_their_names(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    for folder, name in zip(folders, ("found-1-food", "found-2-food-and"), strict=True):
        with_results(folder, record(finding(name)))
        shifted(folder, name)
    names = [row.name for row in compared(*folders).behaviors]
    assert names == ["found-1-food", "refusal"]


def test_a_behavior_that_is_a_finding_in_one_run_only_is_one_row(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    with_results(folders[0], record(finding("refusal")))
    with_results(folders[1], record())
    (row,) = compared(*folders).behaviors
    assert [cell.state for cell in row.cells] == ["established", "established"]


def test_findings_of_one_name_and_opposite_directions_stay_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    with_results(folders[0], record(finding("refusal")))
    with_results(folders[1], record(finding("refusal", direction="vanished")))
    rows = compared(*folders).behaviors
    assert [[cell.state for cell in row.cells] for row in rows] == [
        ["established", "missing"], ["missing", "established"],
    ]  # fmt: skip


def test_a_metric_with_other_settings_is_told(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    for folder, pattern in zip(folders, ("sorry", "cannot"), strict=True):
        shifted(folder, "refusal")
        path = folder.behaviors / "refusal" / "shift.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metric": {"pattern": pattern}}))
    (row,) = compared(*folders).behaviors
    assert not row.alike


# --- the command and its files ----------------------------------------------------------------------------------------


def test_the_command_writes_three_files(three: list[RunFolder], tmp_path: Path) -> None:
    output = tmp_path / "here" / "comparison"
    done = call(*(folder.path for folder in three), "--output", output)
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        [name, str(output / f"comparison.{form}")]
        for name, form in (("page", "html"), ("table", "md"), ("data", "json"))
    ]
    assert sorted(path.name for path in output.iterdir()) == [
        f"comparison.{form}" for form in ("html", "json", "md")
    ]


def test_what_is_shown_is_stored_and_hostile_text_is_harmless(three: list[RunFolder], tmp_path: Path) -> None:
    compare([folder.path for folder in three], tmp_path)
    data, markdown, html = (
        (tmp_path / f"comparison.{form}").read_text(encoding="utf-8") for form in ("json", "md", "html")
    )
    schema = Comparison.model_json_schema(mode="serialization")
    assert complaints(json.loads(data), markdown, html, schema=schema) == []
    assert HOSTILE[0] in data
    assert "<script" not in html and "<img" not in html
    assert "http" not in html.replace("http-equiv", "")
    for line in markdown.splitlines():
        assert not line.startswith("| ") or line.endswith("|")


def test_links_lead_to_the_reports(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    write_report(folders[0])
    compare([folder.path for folder in folders], tmp_path / "out")
    comparison = Comparison.model_validate_json((tmp_path / "out" / "comparison.json").read_text())
    assert [run.report for run in comparison.runs] == ["../a/report/report.html", None]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    folder = make_bare_run(tmp_path / "run").path
    other = make_bare_run(tmp_path / "other").path
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for words, said in (
        ([folder], "found 1 run folder, expected at least two"),
        ([folder, tmp_path / "rum"], "rum: no such run folder (did you mean 'run'?)"),
        ([folder, tmp_path / "empty"], "not a run folder"),
        ([folder, tmp_path / "file"], "is a file, expected a run folder"),
        ([folder, tmp_path / "other" / ".." / "run"], "this run is given twice"),
        ([folder, other, "--output", tmp_path / "file"], "--output: "),
    ):
        done = call(*words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_runs_with_one_name_are_told_apart() -> None:
    assert distinct_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert distinct_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]


def test_a_loop_of_links_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    said = CliRunner().invoke(app, ["compare", str(tmp_path / "loop" / "a"), str(tmp_path / "loop" / "b")])
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "no such run folder" in said.stderr
