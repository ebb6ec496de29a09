"""The run folder: its paths, which settings may continue it, and its record."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosscoder.run.folder
from crosscoder.config import RunConfig
from crosscoder.config.load import load_config, with_overrides
from crosscoder.errors import ConfigError, FormatError, ResourceError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic


def config(output: Path, *words: str) -> RunConfig:
    settings = {
        "output": output,
        "activations": {"kind": "files", "reference": "a.npy", "intervened": "b.npy"},
        "crosscoder": {"n_latents": 4096, "sparsity": {"kind": "batch_topk", "k": 32}},
        "training": {"lr": 1e-3},
    }
    return with_overrides(RunConfig.model_validate(settings), words)


def test_paths_are_those_of_the_contract(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    named = {
        "config": "config.yaml",
        "manifest": "manifest.json",
        "metrics": "metrics.jsonl",
        "crosscoder": "crosscoder",
        "checkpoints": "checkpoints",
        "activations": "activations",
        "sweep": "sweep",
        "analysis": "analysis",
        "features": "analysis/features.parquet",
        "examples": "analysis/examples.parquet",
        "logits": "analysis/logits.parquet",
        "summary": "analysis/summary.json",
        "report": "report",
        "browser": "browser",
        "wandb": "wandb",
    }
    assert {name: getattr(folder, name).relative_to(tmp_path).as_posix() for name in named} == named


# --- creating and opening ---------------------------------------------------------------------------------------------


def test_create_makes_the_folder_and_writes_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    folder = RunFolder.create(path, config(path))
    assert load_config(folder.config) == config(path)
    assert RunFolder.open(path).read_config() == config(path)


def test_the_same_settings_continue_a_run_without_touching_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, config(tmp_path))
    before = folder.config.stat().st_mtime_ns
    RunFolder.create(tmp_path, config(tmp_path))
    assert folder.config.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "crosscoder.n_latents=64",
            "crosscoder.n_latents: the run in {} has 4096, but 64 was requested; give another",
        ),
        ("seed=1", "seed: the run in {} has 0, but 1 was requested; give another"),
        (
            "activations.reference=c.npy",
            "activations.reference: the run in {} has 'a.npy', but 'c.npy' was requested",
        ),
        (
            "activations.documents=d.npy",
            "activations.documents: the run in {} has nothing, but 'd.npy' was requested",
        ),
        (
            "crosscoder.sparsity={kind: relu, target_l0: 3}",
            "crosscoder.sparsity.kind: the run in {} has 'batch_topk', but 'relu' was requested",
        ),
        (
            "training.checkpoint_every=3",
            "training.checkpoint_every: the run in {} has 200, but 3 was requested",
        ),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, word: str, message: str) -> None:
    folder = RunFolder.create(tmp_path, config(tmp_path))
    with folder.stage("train"):
        folder.metrics.write_text("{}")
    before = folder.config.read_text()
    with pytest.raises(ConfigError) as caught:
        RunFolder.create(tmp_path, config(tmp_path, word))
    assert str(caught.value).startswith(message.format(tmp_path))
    assert "\n" not in str(caught.value)
    assert folder.config.read_text() == before


@pytest.mark.parametrize(
    "word",
    [
        "output=elsewhere",
        "wandb.mode=offline",
        "threads=1",
        "training.log_every=3",
        "analysis.rule.weak_norm=0.5",
    ],
)
def test_settings_that_change_no_result_may_differ_and_are_stored(tmp_path: Path, word: str) -> None:
    RunFolder.create(tmp_path, config(tmp_path))
    folder = RunFolder.create(tmp_path, config(tmp_path, word))
    assert load_config(folder.config) == config(tmp_path, word)


@pytest.mark.parametrize("word", ["crosscoder.sparsity.k=3", "training.lr=0.5"])
@pytest.mark.parametrize("began", ["stage", "crosscoder", "checkpoints"])
def test_dictionary_settings_may_change_until_training_starts(tmp_path: Path, word: str, began: str) -> None:
    """A dictionary with any settings can be trained after a harvest or a sweep."""
    folder = RunFolder.create(tmp_path, config(tmp_path))
    with folder.stage("harvest"):
        (tmp_path / "activations").mkdir()
        (tmp_path / "activations" / "0.safetensors").write_text("numbers")
    RunFolder.create(tmp_path, config(tmp_path, word))
    assert load_config(folder.config) == config(tmp_path, word)
    if began == "stage":
        with folder.stage("train"):
            pass
    else:
        (tmp_path / began).mkdir()
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        RunFolder.create(tmp_path, config(tmp_path))
    with pytest.raises(ConfigError, match="seed"):
        RunFolder.create(tmp_path, config(tmp_path, word, "seed=4"))


def test_a_folder_without_results_takes_any_settings(tmp_path: Path) -> None:
    """A typo in the name of a model must not cost the folder."""
    folder = RunFolder.create(tmp_path, config(tmp_path))
    folder.activations.mkdir()
    folder.wandb.mkdir()
    (folder.wandb / "debug.log").write_text("failed")
    with pytest.raises(KeyboardInterrupt), folder.stage("train"):
        raise KeyboardInterrupt
    RunFolder.create(tmp_path, config(tmp_path))
    assert "train" in folder.read_manifest()["stages"]
    other = config(tmp_path, "activations.intervened=c.npy", "seed=3")
    RunFolder.create(tmp_path, other)
    assert load_config(folder.config) == other
    assert folder.read_manifest().keys() == {"schema_version", "date", "settings"}
    (folder.activations / "0.safetensors").write_text("numbers")
    with pytest.raises(ConfigError, match=r"^seed: the run in .* has 3, but 0 was requested"):
        RunFolder.create(tmp_path, config(tmp_path, "activations.intervened=c.npy"))


def test_reading_a_run_refuses_other_analysis_settings(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, config(tmp_path))
    folder.require_same(config(tmp_path, "threads=1"))
    with pytest.raises(
        ConfigError, match=r"^analysis\.top_examples: the run in .* has 12, but 3 was requested"
    ):
        folder.require_same(config(tmp_path, "analysis.top_examples=3"))


def test_a_moved_run_uses_its_new_path(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a", config(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert RunFolder.open(tmp_path / "b").read_config().output == tmp_path / "b"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    for path in (tmp_path / "taken", tmp_path / "taken" / "run"):
        with pytest.raises(ConfigError, match=r"^output: '.*' is a file or lies under one; name a folder$"):
            RunFolder.create(path, config(path))
    assert (tmp_path / "taken").read_text() == "mine"


def test_open_names_what_it_found(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "first", config(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"frist: no such run folder \(did you mean 'first'\?\)$"):
        RunFolder.open(tmp_path / "frist")
    with pytest.raises(ConfigError, match=r"empty: not a run folder, it contains no config\.yaml"):
        RunFolder.open(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"file: is a file, expected a run folder$"):
        RunFolder.open(tmp_path / "file")


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_manifest_sections_are_merged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_manifest() == {"schema_version": 1}
    folder.update_manifest("data", {"documents": 3, "source": "é"})
    folder.update_manifest("data", {"documents": 4})
    folder.update_manifest("pair", {"hookpoint": "model.layers.3"})
    assert folder.read_manifest() == {
        "schema_version": 1,
        "data": {"documents": 4, "source": "é"},
        "pair": {"hookpoint": "model.layers.3"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1', "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "schema_version is None, but this release reads 1"),
        ('{"schema_version": 2}', "schema_version is 2, but this release reads 1"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = RunFolder(tmp_path)
    folder.manifest.write_text(text)
    with pytest.raises(FormatError, match=message):
        folder.read_manifest()


class Clock:
    """A clock that tests advance by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(crosscoder.run.folder, "time", found)
    return found


def test_a_stage_records_its_duration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/crosscoder", "harvest", "a b.yaml"])
    folder = RunFolder(tmp_path)
    with folder.stage("harvest") as stage:
        stage["tokens"] = 10
        clock.now += 2.5
    manifest = folder.read_manifest()
    record = manifest["stages"]["harvest"]
    assert (record["tokens"], record["finished"], record["command"]) == (
        10,
        True,
        "crosscoder harvest 'a b.yaml'",
    )
    assert record["wall_seconds"] == 2.5
    assert manifest["versions"]["torch"].startswith("2.")


def test_an_interrupted_stage_keeps_its_time_and_is_not_finished(tmp_path: Path, clock: Clock) -> None:
    folder = RunFolder(tmp_path)

    def interrupted() -> None:
        with folder.stage("train") as stage:
            stage["tokens"] = 5
            clock.now += 20
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    record = folder.read_manifest()["stages"]["train"]
    assert (record["finished"], record["tokens"]) == (False, 5)
    assert record["wall_seconds"] == 40
    with folder.stage("train"):
        clock.now += 1
    finished = folder.read_manifest()["stages"]["train"]
    assert finished["finished"]
    assert finished["wall_seconds"] == 41
    with folder.stage("train"):
        clock.now += 1
    assert folder.read_manifest()["stages"]["train"]["wall_seconds"] == 1


# --- writing whole files ----------------------------------------------------------------------------------------------


@given(st.binary(max_size=64) | st.text(max_size=64))
def test_written_content_is_read_back(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    path = tmp_path_factory.mktemp("write") / "deep" / "file"
    write_atomic(path, b"old")
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_process_killed_while_writing_leaves_a_complete_file(tmp_path: Path) -> None:
    program = """
import json, sys
from pathlib import Path
from crosscoder.run.folder import write_atomic
path = Path(sys.argv[1])
for number in range(10**9):
    write_atomic(path, json.dumps({"number": number, "filling": "x" * 200_000}))
"""
    path = tmp_path / "file.json"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[3]
    ) as process:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(200):
            assert len(json.loads(path.read_text())["filling"]) == 200_000
        process.send_signal(signal.SIGKILL)
    assert len(json.loads(path.read_text())["filling"]) == 200_000


def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        ResourceError, match=r"file: the disk is full; free some space and run the same command again$"
    ):
        write_atomic(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []
