"""The controls of a run: trained once, with its settings, each on its transformed tokens."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscoder.activations.null_pair import NullPair
from crosscoder.config import ControlsConfig, FileActivations, RunConfig, StreamedActivations
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError
from crosscoder.planted import PlantedChain, PlantedPair
from crosscoder.run.controls import controls_of
from crosscoder.run.folder import RunFolder
from tests.training.in_memory import BATCH, planted_source, run_config, source_of
from training.controls import TransformedSource, control_source, n_workers, train_controls
from training.sources import open_source

NONE = ControlsConfig.none()
# The tokens of most tests are in memory, where worker processes cannot read them.
ALL = ControlsConfig(drift=True, seeds=2, difference=True, workers=1)


def config_with(path: Path, controls: ControlsConfig = ALL, **settings: Any) -> RunConfig:
    return run_config(path, **settings).model_copy(update={"controls": controls})


def train(path: Path, controls: ControlsConfig = ALL) -> RunFolder:
    config = config_with(path, controls)
    folder = RunFolder.create(path, config)
    train_controls(folder, config, planted_source())
    return folder


def test_every_control_is_a_run_folder_that_loads_without_the_run(tmp_path: Path) -> None:
    folder = train(tmp_path)
    names = [
        "difference",
        "difference_mixed",
        "drift",
        "identity",
        "intermittent",
        "seed_1",
        "seed_2",
        "shuffled",
    ]
    assert sorted(path.name for path in (folder.path / "controls").iterdir()) == names
    for name in names:
        own = RunFolder.open(folder.path / "controls" / name)
        crosscoder = load_crosscoder(own.crosscoder)
        assert crosscoder.config.n_latents == 128
        assert crosscoder.config.width == (48 if name.startswith("difference") else 96)
        manifest = own.read_manifest()
        assert manifest["stages"]["train"]["finished"]
        assert manifest["evaluation"]["diff/explained_variance"] is not None
        assert not own.checkpoints.exists()
        config = own.read_config()
        assert config.seed == {"seed_1": 1, "seed_2": 2}.get(name, 0)
        assert (config.crosscoder.reads == "difference") == name.startswith("difference")
        assert not controls_of(config, own.path)


@pytest.mark.slow
def test_controls_of_a_chain_read_its_ends_and_seeds_read_all_models(tmp_path: Path) -> None:
    """Snapshots do not affect the controls of reference and intervened model."""
    chain = PlantedChain.spread(PlantedPair(), 3)
    values, held_out = chain.sample(1000, seed=1), chain.sample(600, seed=2)
    controls = ALL.model_copy(update={"seeds": 1})
    for name, width, n_models in (("chain", 192, 4), ("ends", 96, 2)):
        config = config_with(tmp_path / name, controls)
        assert isinstance(config.activations, FileActivations)
        if n_models > 2:
            between = config.activations.model_copy(update={"snapshots": (Path("c.npy"), Path("d.npy"))})
            gone = DictionarySource(source=str(tmp_path / "gone"))
            start_from = config.training.model_copy(update={"start_from": gone})
            config = config.model_copy(update={"activations": between, "training": start_from})
        source = source_of(values[:, :width], held_out[:, :width], (48,) * n_models)
        train_controls(RunFolder.create(tmp_path / name, config), config, source)
    for name in ("drift", "intermittent", "identity", "shuffled", "difference", "difference_mixed"):
        one, other = (
            load_crosscoder(tmp_path / run / "controls" / name / "crosscoder") for run in ("chain", "ends")
        )
        assert torch.equal(one.W_dec, other.W_dec), name
    seed = tmp_path / "chain" / "controls" / "seed_1"
    assert load_crosscoder(seed / "crosscoder").config.d_models == (48,) * 4
    assert RunFolder(seed).read_config().n_snapshots == 2
    assert RunFolder(tmp_path / "chain" / "controls" / "drift").read_config().n_snapshots == 0


def test_finished_controls_are_not_trained_again(tmp_path: Path) -> None:
    folder = train(tmp_path)
    files = sorted((folder.path / "controls").rglob("model.safetensors"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    train(tmp_path)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert len(files) == 8


def test_controls_differ_from_the_run_and_from_each_other(tmp_path: Path) -> None:
    folder = train(tmp_path)
    weights = [
        load_crosscoder(folder.path / "controls" / name / "crosscoder").W_dec
        for name in ("drift", "seed_1", "seed_2")
    ]
    for index, one in enumerate(weights):
        for other in weights[index + 1 :]:
            assert not torch.allclose(one, other, atol=1e-3)


def test_no_controls_are_trained_if_none_are_configured(tmp_path: Path) -> None:
    folder = train(tmp_path, NONE)
    assert not (folder.path / "controls").exists()


def test_a_shared_dictionary_has_only_seeds_and_a_diff_sae_none(tmp_path: Path) -> None:
    """Its labels have to be found again; a diff-SAE labels nothing."""
    shared, difference = (config_with(tmp_path, reads=reads) for reads in ("pooled", "difference"))
    assert [control.name for control in controls_of(shared, tmp_path)] == ["seed_1", "seed_2"]
    assert controls_of(difference, tmp_path) == []


def test_seeds_read_half_of_the_documents_each_and_train_as_long(tmp_path: Path) -> None:
    config = config_with(tmp_path, ControlsConfig(seeds=3))
    seeds = [control for control in controls_of(config, tmp_path) if control.kind == "seed"]
    assert [control.half for control in seeds] == [0, 1, 0]
    assert {control.config.training.n_tokens for control in seeds} == {config.training.n_tokens}
    source = planted_source(1000)
    tokens = [set(map(tuple, control_source(control, source).sample(10**6).tolist())) for control in seeds]
    assert not tokens[0] & tokens[1] and tokens[0] == tokens[2]
    assert len(tokens[0] | tokens[1]) == source.n_train_tokens


@pytest.mark.parametrize(("steps", "brief"), [(300, 300), (5000, 1000), (20_000, 2000)])
def test_brief_controls_train_for_a_tenth_but_not_too_briefly(tmp_path: Path, steps: int, brief: int) -> None:
    config = run_config(tmp_path, steps=steps)
    found = {control.kind: control.config.training.n_tokens for control in controls_of(config, tmp_path)}
    assert found["identity"] == found["shuffled"] == brief * BATCH
    assert found["drift"] == steps * BATCH


def test_a_diff_sae_needs_models_of_equal_width(tmp_path: Path) -> None:
    config = config_with(tmp_path, NONE.model_copy(update={"difference": True}))
    values = torch.randn(400, 13)
    source = source_of(values, values, (5, 8))
    with pytest.raises(
        ConfigError, match=r"controls\.difference: needs two models of equal width, found widths \(5, 8\)"
    ):
        train_controls(RunFolder.create(tmp_path, config), config, source)


def test_the_null_source_has_the_same_tokens_in_the_same_order() -> None:
    source = planted_source(300)
    drift = NullPair.fit(source.sample(300), source.d_models)
    null = TransformedSource(source, drift)
    for (values, state), (made, same_state) in zip(
        islice(source.batches(64), 8), islice(null.batches(64), 8), strict=True
    ):
        torch.testing.assert_close(made, drift.apply(values))
        assert state == same_state
        kept = slice(48 * drift.kept, 48 * drift.kept + 48)
        assert torch.equal(made[:, kept], values[:, kept])
        assert not torch.allclose(made, values)
    assert null.held_out().n_tokens == source.held_out().n_tokens


def test_a_reordered_source_has_the_same_tokens() -> None:
    source = planted_source(300)
    twin = source.reordered(5)
    one, other = (next(each.batches(300))[0] for each in (source, twin))
    assert not torch.equal(one, other)
    assert torch.equal(one.sum(1).sort().values, other.sum(1).sort().values)
    assert torch.equal(
        source.held_out().gather(torch.arange(5)).values, twin.held_out().gather(torch.arange(5)).values
    )


def test_the_null_pair_is_stored_with_its_dictionary(tmp_path: Path) -> None:
    """Analysis computes the same held-out tokens from it."""
    own = RunFolder.open(train(tmp_path).path / "controls" / "drift")
    assert NullPair.load(own.drift).d_models == (48, 48)
    assert json.loads((own.crosscoder / "config.json").read_text())["provenance"]["control"] == "drift"


def on_disk(place: Path, workers: int | None) -> RunConfig:
    values = PlantedPair().sample(2000, seed=1).numpy()
    for name, side in (("reference", values[:, :48]), ("intervened", values[:, 48:])):
        np.save(place / f"{name}.npy", side)
    files = {"kind": "files", "reference": place / "reference.npy", "intervened": place / "intervened.npy"}
    config = run_config(place / "run", steps=20)
    return RunConfig.model_validate(
        config.model_dump()
        | {"activations": files, "controls": {"drift": True, "seeds": 1, "workers": workers}}
    )


@pytest.mark.slow
def test_controls_trained_in_parallel_equal_those_trained_in_sequence(tmp_path: Path) -> None:
    trained = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for workers in (1, 2):
        place = tmp_path / str(workers)
        place.mkdir()
        config = on_disk(place, workers)
        folder = RunFolder.create(config.output, config)
        names = [one.name for one in train_controls(folder, config, open_source(folder, config))]
        trained[workers] = {
            name: (folder.path / "controls" / name / "crosscoder" / "model.safetensors").read_bytes()
            for name in names
        }
    torch.set_num_threads(threads)
    assert trained[1].keys() == {"drift", "intermittent", "identity", "shuffled", "seed_1"}
    assert trained[1] == trained[2]


def test_the_number_of_workers_follows_threads_memory_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_disk(tmp_path, None)
    source = open_source(RunFolder(tmp_path), config)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def at(**changes: Any) -> int:
        part, settings = config.training.model_copy(update={"n_tokens": 10**9}), config.controls
        changed = config.model_copy(update={"training": part, "controls": settings} | changes)
        return n_workers(changed, source, 7)

    assert n_workers(config, source, 7) == 1, "too short for a process of its own"
    assert at() == 4
    assert at(controls=config.controls.model_copy(update={"workers": 3})) == 3
    assert at(activations=StreamedActivations()) == 1
    monkeypatch.setattr("training.controls.machine_memory", lambda: 10**6)
    assert at() == 1
