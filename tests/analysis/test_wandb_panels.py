"""wandb shows the numbers of the files, and its failures stop nothing."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from analysis import report_stages, wandb_panels
from analysis.report import write_report
from analysis.tables.analysis_files import LABELS
from crosscoder.config.load import dump_config, load_config
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun, wandb_run
from tests.analysis.page_views import write_page
from tests.training.in_memory import run_config
from tests.wandb_files import history_row, offline_files, records

from .explained_runs import NAMED, explained
from .page_views import read_table
from .report_runs import controlled, shifted
from .run_folder import HOSTILE, HOSTILE_LATENT, make_run_folder


def make(path: Path, **wandb: Any) -> RunFolder:
    folder = make_run_folder(path / "run")
    controlled(folder)
    explained(folder, hostile=True)
    shifted(folder, "small_talk", established=False)
    folder.config.write_text(dump_config(run_config(folder.path, wandb=wandb)))
    return folder


class RecordingRun:
    """A wandb run that records what is logged."""

    id = "fine"
    offline = True

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.artifacts: list[Any] = []

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)


def rows(table: Any) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.data]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordingRun, RunFolder]:
    pytest.importorskip("wandb")
    folder, run = make(tmp_path_factory.mktemp("panels")), RecordingRun()
    wandb = WandbRun(run)
    write_report(folder)
    write_page(folder)
    wandb_panels.log_analysis(wandb, folder)
    wandb_panels.log_behaviors(wandb, folder)
    wandb_panels.log_report(wandb, folder)
    wandb_panels.log_page(wandb, folder)
    assert wandb.id == "fine", "nothing failed"
    return run, folder


def test_tables_hold_the_numbers_of_the_files(logged: tuple[RecordingRun, RunFolder]) -> None:
    run, folder = logged
    features = read_table(folder.features)
    for label in ("new", "lost", "rotated", "rescaled"):
        own = features[features["label"] == label]
        found = rows(run.logged[f"features/{label}"])
        assert {row["latent"] for row in found} == set(own["latent"])
        shares = [abs(row["shift_share"]) for row in found]
        assert shares == sorted(shares, reverse=True)
        for row in found:
            stored = own[own["latent"] == row["latent"]].iloc[0]
            for name in (
                "nu_error",
                "nu_error_low",
                "nu_error_high",
                "density_high",
                "q_value",
                "explanation",
                "evidence",
            ):
                assert row[name] == stored[name]
    summary = json.loads(folder.summary.read_text())
    counts = rows(run.logged["analysis/labels"])
    assert [row["label"] for row in counts] == list(LABELS)
    assert {row["label"]: row["latents"] for row in counts} == {
        label: summary["counts"][label]["count"] for label in LABELS
    }
    assert counts[0] == {
        "label": "new", "latents": 7, "low": 5.0, "high": 9.0, "candidates": 7, "expected_false": 3.0, "expected_false_high": 7.75,
    }  # fmt: skip
    assert run.summary["analysis/fve"] == summary["fve"]


def test_histograms_are_of_the_latents_that_fired(logged: tuple[RecordingRun, RunFolder]) -> None:
    run, folder = logged
    features = read_table(folder.features)
    fired = features[features["label"] != "dead"]
    sizes = {
        name: sum(value.histogram)
        for name, value in run.logged.items()
        if type(value).__name__ == "Histogram"
    }
    by_label = {
        f"analysis/relative_norm/{label}": (fired["label"] == label).sum()
        for label in LABELS
        if label != "dead"
    }
    assert sizes == by_label | {
        "analysis/relative_norm": len(fired),
        "analysis/decoder_cosine": fired["decoder_cosine"].notna().sum(),
        "analysis/log10_density": len(fired),
    }


def test_examples_are_html_with_escaped_text(
    logged: tuple[RecordingRun, RunFolder],
) -> None:
    run, _ = logged
    (row,) = [row for row in rows(run.logged["features/new"]) if row["latent"] == HOSTILE_LATENT]
    html = row["examples"].html
    assert "cc-peak" in html and "alert(1)" in html
    assert "<script" not in html and "<img" not in html and "http" not in html
    assert "<script" not in run.logged["report"].html


def test_behaviors_match_the_report(logged: tuple[RecordingRun, RunFolder]) -> None:
    run, folder = logged
    report = json.loads((folder.report / "report.json").read_text())
    reported = {behavior["name"]: behavior for behavior in report["behaviors"]}
    found = {row["behavior"]: row for row in rows(run.logged["behaviors/shift"])}
    assert set(found) == set(reported)
    for name, row in found.items():
        assert (row["shift"], row["shift_low"]) == (
            reported[name]["shift"]["value"],
            reported[name]["shift"]["low"],
        )
        assert row["established"] == reported[name]["established"]
        assert row["said"].startswith(reported[name]["sentences"][0]["text"])
    latents = rows(run.logged[f"behaviors/{HOSTILE[0]}/latents"])
    assert [row["latent"] for row in latents] == list(NAMED)
    assert (latents[1]["necessity"], latents[1]["necessity_passed"]) == (0.0052, False)
    assert "behaviors/small_talk/latents" not in run.logged


def test_report_and_page_are_artifacts_unless_disabled(
    logged: tuple[RecordingRun, RunFolder], tmp_path: Path
) -> None:
    run, _ = logged
    contents = {artifact.name: set(artifact.manifest.entries) for artifact in run.artifacts}
    assert contents["report-fine"] == {
        "report.json", "report.md", "report.html", "appendix.md", "appendix.html", "report.schema.json",
    }  # fmt: skip
    assert contents["page-fine"] == {"index.html"}
    folder, without = make(tmp_path, log_report=False), RecordingRun()
    write_report(folder)
    write_page(folder)
    wandb_panels.log_report(WandbRun(without), folder)
    wandb_panels.log_page(WandbRun(without), folder)
    assert not without.artifacts and set(without.logged) == {"report"}


def test_without_a_run_nothing_is_read(tmp_path: Path) -> None:
    empty = RunFolder(tmp_path)
    for log in (
        wandb_panels.log_analysis,
        wandb_panels.log_behaviors,
        wandb_panels.log_report,
        wandb_panels.log_page,
    ):
        log(WandbRun(None), empty)


def test_a_failure_stops_neither_report_nor_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(RecordingRun):
        def log(self, values: dict[str, Any]) -> None:
            raise ConnectionError("no route to host")

        def finish(self) -> None:
            raise ConnectionError("still none")

    monkeypatch.setattr("crosscoder.run.tracking._start", lambda folder, config: Broken())
    folder = make(tmp_path, mode="offline")
    report_stages.report(folder)
    assert report_stages.browse(folder).is_file() and (folder.report / "report.html").is_file()
    warnings = [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("crosscoder")
    ]
    assert all("continuing with metrics.jsonl only" in record.message for record in warnings) and warnings


@pytest.mark.slow
def test_an_offline_run_holds_panels_tables_and_artifacts(tmp_path: Path) -> None:
    folder = make(tmp_path, mode="offline")
    config = load_config(folder.config)
    with wandb_run(folder, config) as wandb:
        wandb_panels.log_analysis(wandb, folder)
        wandb_panels.log_behaviors(wandb, folder)
        report_stages.report(folder)
        report_stages.browse(folder)
        assert wandb.id is not None, "nothing failed"
    (file,) = offline_files(folder)
    found = list(records(file))
    history: dict[str, Any] = {}
    for message in found:
        if message.HasField("history"):
            history |= history_row(message)
    assert (history["features/new"]["nrows"], history["features/new"]["_type"]) == (7, "table-file")
    assert history["analysis/relative_norm/new"]["_type"] == "histogram"
    assert history["report"]["_type"] == "html-file"
    artifacts = [
        message.request.log_artifact.artifact for message in found if message.request.HasField("log_artifact")
    ]
    artifacts += [message.artifact for message in found if message.HasField("artifact")]
    run_id = folder.read_manifest()["wandb"]["id"]
    assert {f"report-{run_id}", f"page-{run_id}"} <= {artifact.name for artifact in artifacts}
    # wandb keeps the HTML of a table's cells in a separate artifact.
    (tabled,) = [artifact for artifact in artifacts if "featuresnew" in artifact.name]
    pages = {
        entry.path: entry.local_path for entry in tabled.manifest.contents if entry.path.endswith(".html")
    }
    assert len(pages) == 7
    assert all("cc-peak" in Path(path).read_text(encoding="utf-8") for path in pages.values())
