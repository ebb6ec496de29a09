"""Runs named in `controls.runs`: their latents are a null; runs with other settings are refused."""

from pathlib import Path

import pytest
import torch

from analysis.labels.control_runs import read_control_run
from analysis.labels.controls import read_controls
from analysis.labels.rule import LABELS, decide, labels_of
from crosscoder.config import ControlsConfig, RunConfig
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.handmade_runs import record_files
from tests.analysis.labels.test_controls import NONE
from tests.analysis.run_folder import make_run_folder
from tests.training.in_memory import run_config


def analyzed(path: Path) -> tuple[RunFolder, RunConfig]:
    config = run_config(path)
    RunFolder.create(path, config)
    folder = make_run_folder(path)
    record_files(path)
    return folder, config


def test_its_latents_are_a_null_of_another_run(tmp_path: Path) -> None:
    folder, config = analyzed(tmp_path / "control")
    features, fve = read_control_run(folder.path, config)
    assert features.evidence is not None
    labels = [LABELS[index] for index in labels_of(decide(features.evidence, config.analysis.rule))]
    claims = [label for label in features.labels if label in ("new", "lost")]
    assert claims and sorted(label for label in labels if label in ("new", "lost")) == sorted(claims)
    assert fve["reference"] is not None
    named = config.model_copy(
        update={"controls": ControlsConfig.model_validate(NONE | {"runs": (folder.path,)})}
    )
    found = read_controls(RunFolder(tmp_path / "other"), named, (48, 48), torch.device("cpu"), {})
    assert [null.name for null in found.nulls] == ["control"] and found.names == ("control",)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    folder, config = analyzed(tmp_path / "control")
    wider = config.crosscoder.model_copy(update={"n_latents": 999})
    with pytest.raises(
        ConfigError, match=r"crosscoder\.n_latents \d+, this run 999; a control run must have the same"
    ):
        read_control_run(folder.path, config.model_copy(update={"crosscoder": wider}))
    elsewhere = config.training.model_copy(update={"device": "cuda", "log_every": 7})
    read_control_run(folder.path, config.model_copy(update={"training": elsewhere}))


def test_a_run_that_was_not_analyzed_is_named(tmp_path: Path) -> None:
    folder, config = analyzed(tmp_path / "control")
    folder.features.unlink()
    with pytest.raises(FormatError, match=r"features\.parquet: .*crosscoder analyze"):
        read_control_run(folder.path, config)
