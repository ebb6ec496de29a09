"""A run whose settings leave the dtype of its models open keeps the one it began with, whatever continues it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import stages as analysis_stages
from crosscoder.activations.shards import Manifest
from crosscoder.command import stages_in_turn
from crosscoder.config import RunConfig
from crosscoder.config.open_settings import with_value
from crosscoder.run.folder import RunFolder
from crosscoder.runtime import device
from crosscoder.runtime.parts import Part
from tests.tiny_pairs import run_config, save_llama
from training import stages

Machine = Callable[[bool], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine with or without units for bfloat16."""
    return lambda units: monkeypatch.setattr(device, "has_bfloat16_units", lambda _: units)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A tiny pair whose dtypes are open."""
    given = run_config(
        tmp_path, save_llama(tmp_path / "a"), save_llama(tmp_path / "b", 1),
        crosscoder={"n_latents": 16, "sparsity": {"kind": "batch_topk", "k": 2}},
        training={"n_tokens": 96, "batch_tokens": 48, "precision": "float32"},
        controls={"seeds": 0, "drift": False, "intermittent": False, "identity": False, "shuffled": False},
    )  # fmt: skip
    for side in ("reference", "intervened"):
        given = with_value(given, ("pair", side, "dtype"), None)
    return given


def dtypes_of(config: RunConfig) -> set[str]:
    """The dtypes that the harvest of a run was made with."""
    identity = Manifest.load(RunFolder(config.output).activations).identity
    return {side["dtype"] for side in identity["pair"].values() if isinstance(side, dict) and "dtype" in side}


@pytest.mark.parametrize("began_with", [True, False])
def test_a_training_goes_on_with_a_harvest_of_another_machine(
    config: RunConfig, machine: Machine, began_with: bool
) -> None:
    machine(began_with)
    stages.harvest(config)
    assert dtypes_of(config) == {"bfloat16" if began_with else "float32"}
    machine(not began_with)
    stages.train(config)
    assert RunFolder(config.output).crosscoder.exists()


def test_parts_of_machines_that_differ_are_one_harvest(config: RunConfig, machine: Machine) -> None:
    machine(True)
    stages.harvest_one_part(config, Part(1, 2))
    machine(False)
    stages.harvest_one_part(config, Part(2, 2))
    stages.join(config)
    assert dtypes_of(config) == {"bfloat16"}


def test_a_sweep_reads_the_models_as_the_harvest_did(config: RunConfig, machine: Machine) -> None:
    machine(True)
    stages.harvest(config)
    machine(False)
    stages.sweep(config, [2])


def test_run_searches_with_the_dtype_of_the_run(
    config: RunConfig, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage of `run` gets the settings of the run, and not those of the request."""
    machine(True)
    RunFolder.create(config.output, config)
    (config.output / "result").touch()
    machine(False)
    searched: list[RunConfig] = []

    class Stopped(Exception):
        pass

    def stop(_: RunFolder, asked: RunConfig) -> None:
        searched.append(asked)
        raise Stopped

    monkeypatch.setattr(analysis_stages, "discover", stop)
    with pytest.raises(Stopped):
        stages_in_turn.run_all(config)
    assert searched[0].pair is not None
    assert set(searched[0].pair.dtypes) == {"bfloat16"}
