import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscoder.config import RunConfig, WandbConfig
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import MetricsLog, WandbRun, wandb_mode, wandb_run
from tests.dictionaries import small_crosscoder
from tests.training.in_memory import make_trainer, run_config
from tests.wandb_files import history_row, offline_files, records


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (2, 4, 6):
        log.write(step, 10 * step, {"losses/mse_loss": 1 / step, "diff/explained_variance": None})
    return log


def steps_of(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


# --- metrics.jsonl ----------------------------------------------------------------------------------------------------


def test_a_line_holds_step_tokens_and_values(log: MetricsLog) -> None:
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines[1] == {"step": 4, "tokens": 40, "losses/mse_loss": 0.25, "diff/explained_variance": None}
    assert steps_of(log.path) == [2, 4, 6]


@pytest.mark.parametrize(
    ("step", "left"), [(0, []), (2, [2]), (3, [2]), (4, [2, 4]), (6, [2, 4, 6]), (99, [2, 4, 6])]
)
def test_resuming_from_a_step_drops_later_lines(log: MetricsLog, step: int, left: list[int]) -> None:
    log.truncate(step)
    assert steps_of(log.path) == left
    log.write(step + 1, 0, {})
    assert steps_of(log.path) == [*left, step + 1]


@pytest.mark.parametrize(
    "rest", ["{", '{"step": 8, "tokens": 8', '{"step": 8, "tokens": 80, "losses/mse_loss": 0.']
)
def test_an_incomplete_line_is_dropped_and_logged(
    log: MetricsLog, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = log.path.read_text()
    log.path.write_text(whole + rest)
    log.truncate(6)
    assert log.path.read_text() == whole
    assert [record.message for record in caplog.records] == [f"{log.path}: dropped an incomplete line"]


def test_a_missing_log_needs_no_truncation(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "missing.jsonl").truncate(3)
    assert not (tmp_path / "missing.jsonl").exists()


# --- the mirror must not stop the work --------------------------------------------------------------------------------


class BrokenRun:
    """A wandb run whose server is unreachable."""

    id = "broken"
    n_calls = 0

    def log(self, values: Any) -> None:
        type(self).n_calls += 1
        raise ConnectionError("no route to host")


class RecordingRun:
    """A wandb run that records its calls."""

    id = "fine"

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.finished = 0

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings of this project's loggers, without wandb's."""
    ours = [record for record in caplog.records if record.name.startswith(("crosscoder", "training"))]
    return [record.message for record in ours if record.levelno >= logging.WARNING]


def test_training_continues_when_wandb_fails_and_logs_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BrokenRun, "n_calls", 0)
    wandb = WandbRun(BrokenRun())
    make_trainer(run_config(tmp_path), wandb=wandb).fit()
    wandb.summary({"a": 1})
    wandb.finish()
    assert steps_of(tmp_path / "metrics.jsonl") == list(range(1, 13))
    assert BrokenRun.n_calls == 1
    assert warnings_of(caplog) == [
        "wandb: logging failed (ConnectionError: no route to host); continuing with metrics.jsonl only"
    ]
    assert wandb.id is None


def test_a_working_wandb_gets_every_line_and_the_histograms(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The positive control of the test above."""
    run = RecordingRun()
    make_trainer(run_config(tmp_path), wandb=WandbRun(run)).fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    metrics = [values for values in run.logged if "losses/mse_loss" in values]
    record_only = {"step", "diff/relative_norm_counts"}
    clocks = {"performance/seconds", "performance/data_wait_share"}
    assert [{name: values[name] for name in values.keys() - clocks} for values in metrics] == [
        {name: line[name] for name in line.keys() - record_only} for line in lines
    ]
    assert all(0 < values["performance/data_wait_share"] < 1 for values in metrics)
    histograms = [values for values in run.logged if "diff/relative_norm" in values]
    assert [values["tokens"] for values in histograms] == [256, 512, 768]
    assert type(histograms[0]["diff/relative_norm"]).__name__ == "Histogram"
    assert not warnings_of(caplog)


def test_ctrl_c_inside_wandb_is_not_swallowed() -> None:
    class Interrupted(RecordingRun):
        def log(self, values: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WandbRun(Interrupted()).log({"a": 1.0}, 1)


def test_a_finished_run_logs_nothing_more() -> None:
    run = RecordingRun()
    wandb = WandbRun(run)
    wandb.summary({"a": 1})
    wandb.finish()
    wandb.finish()
    wandb.log({"a": 1.0}, 1)
    assert (run.finished, run.summary, run.logged) == (1, {"a": 1}, [])


def folder_of(tmp_path: Path, **wandb: Any) -> tuple[RunFolder, RunConfig]:
    config = run_config(tmp_path / "run", wandb=wandb)
    return RunFolder.create(config.output, config), config


def test_without_wandb_installed_there_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder, config = folder_of(tmp_path, mode="offline")
    with wandb_run(folder, config) as wandb:
        make_trainer(config, wandb=wandb).fit()
        wandb.artifact("weights", "model", folder.path, {})
        wandb.table("features", ["latent"], [[1]])
    assert steps_of(folder.metrics) == list(range(1, 13))
    (message,) = warnings_of(caplog)
    assert message.startswith("wandb: could not start (ModuleNotFoundError")
    assert message.endswith("continuing with metrics.jsonl only")
    assert "wandb" not in folder.read_manifest()


def test_disabled_does_not_import_wandb(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder, config = folder_of(tmp_path)
    with wandb_run(folder, config) as wandb:
        wandb.log({"losses/mse_loss": 1.0, "histogram": np.histogram([1, 2])}, 1)
        assert wandb.id is None
    assert not warnings_of(caplog)
    assert not folder.wandb.exists()


@pytest.mark.parametrize(
    ("environment", "setting", "expected"),
    [
        ({}, "disabled", "disabled"),
        ({}, "offline", "offline"),
        ({}, "online", "online"),
        ({"WANDB_MODE": "disabled"}, "online", "disabled"),
        ({"WANDB_MODE": "offline"}, "online", "offline"),
        ({"WANDB_MODE": "online"}, "disabled", "online"),
        ({"WANDB_MODE": ""}, "offline", "offline"),
        ({"WANDB_MODE": "dryrun"}, "online", "offline"),
        ({"WANDB_MODE": "run"}, "offline", "online"),
        ({"WANDB_DISABLED": "true"}, "online", "disabled"),
        ({"WANDB_DISABLED": "TRUE", "WANDB_MODE": "online"}, "online", "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline", "offline"),
    ],
)
def test_the_environment_overrides_the_settings(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], setting: Any, expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(WandbConfig(mode=setting)) == expected


def test_wandb_mode_disabled_starts_nothing_whatever_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder, config = folder_of(tmp_path, mode="online")
    with wandb_run(folder, config) as wandb:
        assert wandb.id is None
    assert not warnings_of(caplog)


def test_nested_stages_share_one_run_that_the_outermost_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[RecordingRun] = []

    def start(folder: RunFolder, config: RunConfig) -> RecordingRun:
        started.append(RecordingRun())
        return started[-1]

    monkeypatch.setattr("crosscoder.run.tracking._start", start)
    folder, config = folder_of(tmp_path, mode="offline")
    with wandb_run(folder, config) as outer:
        with wandb_run(folder, config) as inner:
            assert inner is outer
        assert started[0].finished == 0
    assert started[0].finished == 1
    with pytest.raises(ZeroDivisionError), wandb_run(folder, config):
        raise ZeroDivisionError
    assert [run.finished for run in started] == [1, 1]


# --- what an offline run holds, read from its file --------------------------------------------------------------------


@pytest.mark.slow
def test_an_offline_run_contains_settings_curves_histograms_a_table_and_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, config = folder_of(tmp_path, mode="offline", project="planted", name="first", tags=["small"])
    with wandb_run(folder, config) as wandb:
        make_trainer(config, wandb=wandb).fit()
        save_crosscoder(small_crosscoder("relu", "two"), folder.crosscoder)
        wandb.table("features", ["latent", "label"], [[0, "new"], [1, "shared"]])
        wandb.summary({"counts/new": 1})
        wandb.artifact(f"crosscoder-{wandb.id}", "model", folder.crosscoder, {"kind": "relu"})
        run_id = wandb.id
    assert not warnings_of(caplog)
    (file,) = offline_files(folder)
    found = list(records(file))
    (run,) = [message.run for message in found if message.HasField("run")]
    assert (run.run_id, run.project, run.display_name, list(run.tags)) == (
        run_id,
        "planted",
        "first",
        ["small"],
    )
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["crosscoder"]["sparsity"] == {"kind": "batch_topk", "k": 4}
    assert settings["training"]["batch_tokens"] == 64

    axes = {
        message.metric.name or message.metric.glob_name: message.metric
        for message in found
        if message.HasField("metric")
    }
    assert axes["*"].step_metric == "tokens"

    history = [history_row(message) for message in found if message.HasField("history")]
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    curves = [row for row in history if "losses/mse_loss" in row]
    assert [row["tokens"] for row in curves] == [line["tokens"] for line in lines]
    for name in ("losses/mse_loss", "metrics/l0"):
        assert [row[name] for row in curves] == pytest.approx([line[name] for line in lines])
    histograms = [row["diff/relative_norm"] for row in history if "diff/relative_norm" in row]
    assert [row["_type"] for row in histograms] == ["histogram"] * 3
    assert sum(histograms[-1]["values"]) == 128

    (table,) = [row["features"] for row in history if "features" in row]
    assert (table["_type"], table["nrows"], table["ncols"]) == ("table-file", 2, 2)
    written = json.loads((file.parent / "files" / table["path"]).read_text())
    assert written["data"] == [[0, "new"], [1, "shared"]]

    summary = {item.key: json.loads(item.value_json) for m in found for item in m.summary.update if item.key}
    assert summary["counts/new"] == 1
    artifacts = {
        message.request.log_artifact.artifact.name: message.request.log_artifact.artifact
        for message in found
        if message.request.HasField("log_artifact")
    } | {message.artifact.name: message.artifact for message in found if message.HasField("artifact")}
    assert f"crosscoder-{run_id}" in artifacts
    contents = {entry.path for entry in artifacts[f"crosscoder-{run_id}"].manifest.contents}
    assert contents == {"config.json", "model.safetensors"}
    assert folder.read_manifest()["wandb"] == {"id": run_id, "mode": "offline"}


@pytest.mark.slow
def test_resuming_offline_starts_a_run_in_the_group_of_the_first(tmp_path: Path) -> None:
    """wandb cannot resume an offline run: it would restart at step 0 under the same id."""
    folder, config = folder_of(tmp_path, mode="offline")
    ids = []
    for _ in range(2):
        with wandb_run(folder, config) as wandb:
            ids.append(wandb.id)
    assert ids[0] != ids[1]
    runs = {
        message.run.run_id: message.run
        for path in offline_files(folder)
        for message in records(path)
        if message.HasField("run")
    }
    assert set(runs) == set(ids)
    assert runs[ids[1]].run_group == ids[0]
    assert ids[0] in runs[ids[1]].notes
    assert runs[ids[0]].run_group == ""


@pytest.mark.slow
def test_online_without_an_account_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, config = folder_of(tmp_path, mode="online")
    with wandb_run(folder, config) as wandb:
        wandb.log({"losses/mse_loss": 1.0}, 1)
        assert wandb.id is None
    (message,) = warnings_of(caplog)
    assert message.startswith("wandb: could not start (")


class FakeRun:
    """What `wandb.init` returns, of a run that is online or not."""

    def __init__(self, offline: bool) -> None:
        self.offline, self.entity, self.project, self.logged = offline, "" if offline else "team", "pairs", []

    def log_artifact(self, artifact: Any) -> None:
        self.logged.append(artifact.name)


@pytest.mark.parametrize("offline", [False, True])
def test_an_artifact_is_named_as_another_run_can_load_it(tmp_path: Path, offline: bool) -> None:
    save_crosscoder(small_crosscoder("relu", "two"), tmp_path / "crosscoder")
    run = FakeRun(offline)
    address = WandbRun(run).artifact("crosscoder-1a2b", "model", tmp_path / "crosscoder", {})
    assert run.logged == ["crosscoder-1a2b"]
    assert address == (None if offline else "wandb:team/pairs/crosscoder-1a2b:latest")
    assert WandbRun(None).artifact("crosscoder-1a2b", "model", tmp_path / "crosscoder", {}) is None
