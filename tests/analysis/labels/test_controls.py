"""A run's latents measured against its controls."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.labels.control_reading import controls_to_read, read_control
from analysis.labels.controls import Controls, DiffSAE, read_controls
from analysis.labels.feature_table import label_directions
from analysis.labels.replication import Replica, replication
from analysis.latents.dictionary_view import view_of
from analysis.latents.token_context import RowContext
from crosscoder.config import ControlsConfig, RunConfig
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from tests.training.in_memory import make_trainer, planted_source, run_config
from training.controls import train_controls
from training.sources import TokenSource

NONE = {"drift": False, "intermittent": False, "identity": False, "shuffled": False, "seeds": 0}
CPU = torch.device("cpu")


def config_of(path: Path, **controls: bool | int) -> RunConfig:
    config = run_config(path, steps=60)
    return config.model_copy(update={"controls": ControlsConfig.model_validate(NONE | controls)})


def read(folder: RunFolder, config: RunConfig, source: TokenSource | None = None) -> Controls:
    reader = (source or planted_source()).held_out()
    context = RowContext(np.arange(reader.n_tokens) // 10)
    readings = {
        control.name: read_control(control, folder, reader, context, CPU)
        for control in controls_to_read(config, folder)
    }
    return read_controls(folder, config, reader.d_models, CPU, readings)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunConfig, Controls]:
    path = tmp_path_factory.mktemp("controls") / "run"
    config = config_of(path, drift=True, intermittent=True, seeds=2, difference=True)
    folder = RunFolder.create(path, config)
    train_controls(folder, config, planted_source())
    return folder, config, read(folder, config)


def test_every_control_is_read(controlled: tuple[RunFolder, RunConfig, Controls]) -> None:
    controls = controlled[2]
    assert controls.names == ("drift", "intermittent", "seed_1", "seed_2", "difference", "difference_mixed")
    for null in controls.nulls:
        assert null.n_alive > 50
        assert sum(null.counts.values()) == 128
        candidates = null.candidates(controlled[1].analysis.rule)
        assert candidates is not None and candidates.label.shape == (128,) and (candidates.weight == 1).all()
    assert [null.name for null in controls.nulls] == ["drift", "intermittent"]
    assert [len(replica.labels) for replica in controls.replicas] == [128, 128]
    assert controls.difference is not None
    assert controls.difference.decoder.shape == (128, 48)
    assert controls.difference.fve is not None and controls.difference.fve_mixed is not None


def test_a_dictionary_is_stable_over_itself_and_not_over_other_seeds_at_once(
    controlled: tuple[RunFolder, RunConfig, Controls],
) -> None:
    trainer = make_trainer(config_of(controlled[0].path.parent / "own"))
    view = view_of(trainer.fit(), (48, 48), "paired")
    itself = Replica("itself", label_directions(view), ("shared",) * 128)
    assert (replication(label_directions(view), [itself, itself], 0.9).by_direction == 1).all()
    others = replication(label_directions(view), controlled[2].replicas, 0.9).by_direction
    assert others.mean() < 0.9
    assert set(np.unique(others)) <= {0, 0.5, 1}
    others = controlled[2].columns(view)
    own_changes = Controls(difference=DiffSAE(view.shift_directions(), 0.9)).columns(view)
    assert own_changes["difference_cosine"] == pytest.approx(np.ones(128), abs=1e-4)
    assert others["difference_cosine"].max() < 1


@pytest.mark.slow
def test_identity_finds_nothing_and_shuffled_finds_that_nothing_is_shared(tmp_path: Path) -> None:
    """The positive control of the pipeline: if tokens are paired at random, no latent may be labeled shared."""
    config = run_config(tmp_path, steps=4000, sparsity={"kind": "batch_topk", "k": 4}, lr=5e-3)
    controls = ControlsConfig.model_validate(NONE | {"identity": True, "shuffled": True})
    config = config.model_copy(update={"controls": controls})
    folder = RunFolder.create(tmp_path, config)
    source = planted_source(6000)
    train_controls(folder, config, source)
    found = read(folder, config, source)
    assert found.identity is not None and found.shuffled is not None
    for label in ("new", "lost", "rotated", "rescaled"):
        assert found.identity.counts[label] == 0
    assert found.identity.counts["shared"] > 0.8 * found.identity.n_alive
    assert found.shuffled.counts["shared"] + found.shuffled.counts["rescaled"] < 0.05 * found.shuffled.n_alive
    assert found.shuffled.counts["new"] + found.shuffled.counts["lost"] > 20
    assert not found.nulls, "neither of them is a null that q-values count"


@pytest.mark.parametrize(
    ("fve", "mixed", "found_structure"),
    [(0.4, 0.1, True), (0.15, 0.14, False), (None, 0.1, False), (0.4, None, False)],
)
def test_a_diff_sae_found_structure_if_it_explains_more_than_noise(
    fve: float | None, mixed: float | None, found_structure: bool
) -> None:
    assert DiffSAE(torch.zeros(1, 1), fve, mixed).found_structure is found_structure


def test_a_control_that_was_not_trained_is_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, seeds=1)
    folder = RunFolder.create(tmp_path, config)
    with pytest.raises(
        FormatError, match=r"controls/seed_1: the control was not trained; run `crosscoder train"
    ):
        read(folder, config)


def test_without_controls_there_are_no_columns(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    controls = read(RunFolder.create(tmp_path, config), config)
    assert controls == Controls()
    assert not any(controls.summary().values())


def test_a_null_without_latent_scaling_is_not_counted(
    controlled: tuple[RunFolder, RunConfig, Controls],
) -> None:
    controls, rule = controlled[2], controlled[1].analysis.rule
    unlabeled = replace(controls.nulls[0], features=replace(controls.nulls[0].features, evidence=None))
    assert len(replace(controls, nulls=(unlabeled, controls.nulls[0])).null_candidates(rule)) == 1
