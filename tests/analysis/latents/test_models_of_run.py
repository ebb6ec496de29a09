"""A model that was written over since the run was made is refused by every verb that loads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.latents.trained_run import TrainedRun
from crosscoder.config import RunConfig
from crosscoder.errors import PairError
from crosscoder.language_models.pair import load_pair
from crosscoder.run.folder import RunFolder
from tests.tiny_pairs import save_llama


@pytest.fixture
def run(tmp_path: Path) -> TrainedRun:
    """A run that has recorded its models, and nothing else."""
    for seed, name in enumerate(("reference", "intervened")):
        save_llama(tmp_path / name, seed=seed)
    sides: dict[str, Any] = {
        name: {"model": str(tmp_path / name), "dtype": "float32"} for name in ("reference", "intervened")
    }
    settings = {
        "output": tmp_path / "run",
        "pair": sides | {"hookpoint": "model.layers.1", "device": "cpu"},
        "text": {"sources": [{"name": "words", "path": str(tmp_path / "text.jsonl")}]},
    }
    (tmp_path / "text.jsonl").write_text('{"text": "amber birch"}\n')
    config = RunConfig.model_validate(settings)
    folder = RunFolder.create(config.output, config)
    assert config.pair is not None
    folder.update_manifest("pair", load_pair(config.pair).identity())
    return TrainedRun(folder, config)


def change_settings(model: Path, **entries: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_the_models_of_the_run_are_taken(run: TrainedRun, tmp_path: Path) -> None:
    change_settings(tmp_path / "intervened", eos_token_id=3, transformers_version="9.0.0", use_cache=False)
    assert run.pair.d_models == (16, 16)


@pytest.mark.parametrize("side", ["reference", "intervened"])
@pytest.mark.parametrize(
    "entries", [{"rms_norm_eps": 0.5}, {"hidden_act": "gelu"}, {"rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}}], ids=str
)  # fmt: skip
def test_the_same_weights_with_other_settings_are_refused(
    run: TrainedRun, tmp_path: Path, side: str, entries: dict[str, Any]
) -> None:
    change_settings(tmp_path / side, **entries)
    with pytest.raises(PairError, match=rf"{side}\.settings was '.*' when the run was made and is now"):
        _ = run.pair


def test_other_weights_are_refused(run: TrainedRun, tmp_path: Path) -> None:
    save_llama(tmp_path / "intervened", seed=7)
    with pytest.raises(PairError, match=r"intervened\.weights was"):
        _ = run.pair


def test_before_a_harvest_any_models_are_those_of_the_run(run: TrainedRun, tmp_path: Path) -> None:
    path = run.folder.manifest
    record = json.loads(path.read_text())
    del record["pair"]
    path.write_text(json.dumps(record))
    save_llama(tmp_path / "intervened", seed=7)
    assert run.pair.d_models == (16, 16)
