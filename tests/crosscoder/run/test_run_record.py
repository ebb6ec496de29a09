"""What a run folder refuses: edited settings, altered files, stages that were cut short, and a second process."""

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from crosscoder.config.load import dump_config
from crosscoder.errors import ConfigError, FormatError, ResourceError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime import run_date
from crosscoder.runtime.files import write_atomic
from crosscoder.runtime.run_date import dated
from tests.crosscoder.run.test_folder import config
from tests.processes import run_python


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A run with every stage, whose files are made up."""
    folder = RunFolder.create(tmp_path / "run", config(tmp_path / "run"))
    for stage, name in [("train", "crosscoder/config.json"), ("survey", "survey.json"), ("discover", "discovery/findings.json"),
                        ("analyze", "analysis/summary.json"), ("attribute one", "behaviors/one/shift.json")]:  # fmt: skip
        with folder.stage(stage):
            write_atomic(folder.path / name, json.dumps({"of": stage}))
    return folder


def edit(folder: RunFolder, *words: str) -> None:
    folder.config.write_text(dump_config(config(folder.path, *words)))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remakes", [None, "analyze", "attribute", "explain", "report"])
@pytest.mark.parametrize(
    "word",
    [
        "crosscoder.n_latents=64",
        "seed=1",
        "training.lr=0.1",
        "activations.reference=c.npy",
        "tokens.outlier_multiple=3",
    ],
)
def test_settings_that_results_were_made_with_may_not_be_edited(
    finished: RunFolder, word: str, remakes: str | None
) -> None:
    edit(finished, word)
    with pytest.raises(
        ConfigError,
        match=rf"^{word.partition('=')[0]}: .* is in config\.yaml; set it back in .*config\.yaml, or make another run$",
    ):
        RunFolder.open(finished.path, remakes)


@pytest.mark.parametrize("word", ["crosscoder.n_latents=64", "seed=1"])
def test_an_edited_run_cannot_be_continued(finished: RunFolder, word: str) -> None:
    """`crosscoder run RUN` reads the edited file; what counts is the record."""
    edit(finished, word)
    with pytest.raises(ConfigError, match=rf"^{word.partition('=')[0]}: the run in .* was requested"):
        RunFolder.create(finished.path, finished.read_config())


@pytest.mark.parametrize(
    "word", ["threads=3", "wandb.mode=offline", "training.log_every=7", "behaviors=[b.yaml]"]
)
def test_settings_that_change_no_result_may_be_edited(finished: RunFolder, word: str) -> None:
    edit(finished, word)
    assert RunFolder.open(finished.path).read_config() == config(finished.path, word)


@pytest.mark.parametrize(
    ("word", "verb"),
    [
        ("analysis.top_examples=3", "analyze"),
        ("controls.drift=false", "analyze"),
        ("discovery.prompts=77", "discover"),
        ("survey.documents=3", "run"),
    ],
)
def test_the_settings_of_one_stage_need_that_stage_again(finished: RunFolder, word: str, verb: str) -> None:
    edit(finished, word)
    with pytest.raises(
        ConfigError, match=rf"^{word.partition('=')[0]}: .*run `crosscoder {verb} .*` again, or set it back"
    ):
        RunFolder.open(finished.path)
    if verb == "analyze":
        RunFolder.open(finished.path, remakes="analyze")
    RunFolder.create(finished.path, finished.read_config())
    with pytest.raises(ConfigError, match="again, or set it back"):
        RunFolder.open(
            finished.path
        )  # another verb took the settings over, but the results are still the old ones
    with finished.stage({"run": "survey"}.get(verb, verb)):
        pass
    RunFolder.open(finished.path)


def test_settings_of_the_dictionary_are_free_until_training(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, config(tmp_path))
    with folder.stage("harvest"):
        write_atomic(folder.activations / "documents.safetensors", "x")
    edit(folder, "crosscoder.n_latents=64")
    RunFolder.open(tmp_path)
    edit(folder, "seed=3")
    with pytest.raises(ConfigError, match=r"^seed: "):
        RunFolder.open(tmp_path)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("analysis/summary.json", "run `crosscoder analyze {}` again"),
        ("behaviors/one/shift.json", "run `crosscoder attribute {} {}/behaviors/one/behavior.yaml` again"),
        ("discovery/findings.json", "run `crosscoder discover {}` again"),
        ("survey.json", "run `crosscoder run {}` again"),
        ("manifest.json", "restore it from a copy, or make the run again in another output"),
    ],
)
def test_a_message_says_what_makes_a_file_again(finished: RunFolder, name: str, remedy: str) -> None:
    path = finished.path / name
    content = path.read_text()
    path.write_text(content + " ")
    remedy = remedy.replace("{}", str(finished.path))
    for opened in (
        lambda: RunFolder.open(finished.path),
        lambda: RunFolder.create(finished.path, finished.read_config()),
    ):
        with pytest.raises(FormatError) as caught:
            opened()
        assert str(caught.value).startswith(f"{path}: was altered") and str(caught.value).endswith(remedy)
    path.write_text(content)
    RunFolder.open(finished.path)


def test_a_verb_needs_its_own_files_only_to_be_unaltered(finished: RunFolder) -> None:
    finished.summary.unlink()
    (finished.analysis / "other.json").write_text("x")
    with pytest.raises(FormatError, match=r"other\.json: is not a file that this run wrote"):
        RunFolder.open(finished.path, remakes="analyze")
    (finished.analysis / "other.json").unlink()
    RunFolder.open(finished.path, remakes="analyze")
    with pytest.raises(
        FormatError,
        match=r"summary\.json: is missing, but the run wrote it; restore it, or run `crosscoder analyze",
    ):
        RunFolder.open(finished.path, remakes="attribute")


def test_a_run_without_a_record_is_refused(finished: RunFolder) -> None:
    finished.files.path.unlink()
    for opened in (
        lambda: RunFolder.open(finished.path),
        lambda: RunFolder.create(finished.path, finished.read_config()),
    ):
        with pytest.raises(
            FormatError, match=r"files\.json: missing, .*\(runs of earlier versions have none\); restore it"
        ):
            opened()


# --- stages that were cut short ---------------------------------------------------------------------------------------


def cut_short(folder: RunFolder, stage: str, path: Path) -> None:
    """Begin a stage, write one file, and stop."""
    with folder.stage(stage):
        write_atomic(path, "half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["train", "survey", "analyze", "discover", "attribute one"])
def test_a_stage_that_was_cut_short_is_no_result(finished: RunFolder, stage: str) -> None:
    written = {
        "train": "crosscoder/config.json",
        "survey": "survey.json",
        "analyze": "analysis/summary.json",
        "discover": "discovery/findings.json",
    }
    name = written.get(stage, "behaviors/one/shift.json")
    with pytest.raises(KeyboardInterrupt):
        cut_short(finished, stage, finished.path / name)
    with pytest.raises(
        FormatError, match=rf"`{stage}` is not finished, so its files may not fit together; run `crosscoder "
    ):
        finished.require_finished()
    with finished.stage(stage):
        pass
    finished.require_finished()


def test_an_attempt_that_wrote_nothing_leaves_the_result(finished: RunFolder) -> None:
    """A model that cannot be loaded must not cost a finished analysis."""
    before = finished.read_manifest()["stages"]
    with pytest.raises(RuntimeError), finished.stage("analyze"):
        raise RuntimeError
    assert finished.read_manifest()["stages"] == before
    finished.require_finished()


def test_a_removed_behavior_needs_no_second_attempt(finished: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt):
        cut_short(finished, "attribute one", finished.behaviors / "one" / "shift.json")
    with pytest.raises(FormatError, match=r", or remove .*behaviors/one$"):
        finished.require_finished()
    (finished.behaviors / "one" / "shift.json").unlink()
    (finished.behaviors / "one").rmdir()
    RunFolder.open(finished.path).require_finished()


# --- other processes --------------------------------------------------------------------------------------------------


def test_a_second_process_says_who_works_in_the_folder(finished: RunFolder) -> None:
    program = """
import sys
from pathlib import Path
from crosscoder.errors import ResourceError
from crosscoder.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
for shared in (False, True):
    try:
        with folder.locked(shared=shared):
            print("free")
    except ResourceError as error:
        print(error)
"""
    with finished.locked(), finished.stage("analyze"):
        lines = run_python("-c", program, finished.path).stdout.splitlines()
        assert len(lines) == 2
        for line in lines:
            assert (
                line.startswith(f"{finished.path}: process {os.getpid()} on ")
                and "wait until it ends" in line
            )
    with finished.locked(shared=True):
        refused, free = run_python("-c", program, finished.path).stdout.splitlines()
        assert (
            refused.startswith(f"{finished.path}: another process works in this run folder")
            and free == "free"
        )
    assert run_python("-c", program, finished.path).stdout.splitlines() == ["free", "free"]


def test_what_a_killed_process_left_half_written_is_removed(finished: RunFolder) -> None:
    left = finished.analysis / ".summary.json.123-abcd.partial"
    left.write_text("half")
    with finished.locked(shared=True):
        assert left.exists(), "it may be what another reader writes"
    with finished.locked():
        assert not left.exists()
        left.write_text("what this process writes")
        with finished.locked():
            assert left.exists()


def test_locks_are_no_results(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, config(tmp_path))
    with folder.locked():
        assert not folder.has_results()


def test_what_a_full_disk_leaves_can_be_continued(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"), finished.stage("analyze"):
        write_atomic(finished.summary, "new")
    monkeypatch.undo()
    RunFolder.open(finished.path).require_finished()
    assert json.loads(finished.summary.read_text()) == {"of": "analyze"}


# --- the date of the run ----------------------------------------------------------------------------------------------


def printed(template: str) -> str:
    return Template(dated(template)).render().strip()


def test_a_run_keeps_the_date_of_its_first_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_date, "_date", None)
    first = RunFolder.create(tmp_path / "first", config(tmp_path / "first"))
    today = first.read_manifest()["date"]
    assert printed("{{ strftime_now('%Y-%m-%d') }}") == today
    write_atomic(first.survey, "a result")
    manifest = first.read_manifest() | {"date": "2024-02-29"}
    write_atomic(first.manifest, json.dumps(manifest))
    RunFolder.create(first.path, config(first.path, "threads=1"))
    assert printed('{{ strftime_now( "%d %B %Y, %H:%M" ) }}') == "29 February 2024, 00:00"
    inner = RunFolder.create(first.path / "controls" / "drift", config(first.path / "controls" / "drift"))
    assert inner.read_manifest()["date"] == "2024-02-29", "a control belongs to its run"
    other = RunFolder.create(tmp_path / "other", config(tmp_path / "other"))
    assert date.fromisoformat(other.read_manifest()["date"]) >= date.fromisoformat(today)
    assert printed("{% set form = '%Y' %}{{ strftime_now(form) }}") == today[:4]
    assert printed("{{ strftime_now is defined }}") == "True"
    assert dated("{{ messages }}") == "{{ messages }}"


def test_a_stage_that_writes_the_same_files_keeps_the_times_of_the_one_that_made_them(
    finished: RunFolder,
) -> None:
    def clocks() -> dict[str, Any]:
        record = finished.read_manifest()["stages"]["survey"]
        return {name: record[name] for name in ("command", "started", "wall_seconds")}

    manifest = finished.read_manifest()
    manifest["stages"]["survey"] |= {"command": "the first", "started": "long ago", "wall_seconds": 77.0}
    write_atomic(finished.manifest, json.dumps(manifest))
    before = clocks()
    for content in ({"of": "survey"}, None):
        with finished.stage("survey") as stage:
            stage["tokens"] = 3
            if content is not None:
                write_atomic(finished.survey, json.dumps(content))
        assert clocks() == before
        assert finished.read_manifest()["stages"]["survey"]["finished"]
    # Positive control: other files are the work of this attempt.
    with finished.stage("survey"):
        write_atomic(finished.survey, json.dumps({"of": "another"}))
    assert clocks()["command"] != "the first" and clocks()["wall_seconds"] < 77
