"""Monitoring end to end: a chain of checkpoints through the console command, from arrays or models to the onsets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from crosscoder.command.app import app
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.planted import PlantedChain, PlantedPair
from tests.story import settings
from tests.tiny_pairs import save_adapter, save_llama, write_texts

pytestmark = pytest.mark.slow

N_TOKENS = 60_000


def run_chain(chain: PlantedChain, folder: Path) -> tuple[Any, Any, dict[str, Any], list[int]]:
    """Run a chain; return features, trajectories, the monitoring summary, and the planted feature of each latent."""
    folder.mkdir(parents=True)
    names = model_names(chain.last + 1)
    for name, part in zip(names, chain.sample(N_TOKENS, seed=1).split(48, dim=1), strict=True):
        np.save(folder / f"{name}.npy", part.numpy())
    config: dict[str, Any] = settings(folder, 0, 600_000)
    config["activations"]["snapshots"] = [str(folder / f"{name}.npy") for name in names[2:]]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    app(["run", str(folder / "config.yaml")], standalone_mode=False)
    run = folder / "run"
    summary = json.loads((run / "analysis" / "summary.json").read_text(encoding="utf-8"))
    raw = load_crosscoder(run / "crosscoder").raw_decoder()
    features, trajectories = (
        pd.read_parquet(run / "analysis" / f"{name}.parquet") for name in ("features", "trajectories")
    )
    return features, trajectories, summary["monitoring"], chain.pair.matches(raw[0], raw[1])


def test_features_new_at_checkpoint_two_of_four_have_onset_two(tmp_path: Path) -> None:
    """New features appear at checkpoint 2; nothing changes before or after, and the alarm rings only there."""
    pair = PlantedPair(0, counts={"shared": 60, "new": 6})
    chain = PlantedChain.spread(pair, 4)
    chain.onsets.fill_(2)
    features, trajectories, monitoring, matches = run_chain(chain, tmp_path / "forth")
    new = features[features["label"] == "new"]
    assert {matches[latent] for latent in new["latent"]} >= pair.truth.features_of("new")
    matched = [latent for latent in new["latent"] if pair.truth.kinds[matches[latent]] == "new"]
    assert (features["onset"][matched] == 2).all()
    assert features["onset"][features["label"] == "shared"].isna().all()
    norms = trajectories[trajectories["latent"].isin(matched)].groupby("checkpoint")["relative_norm"]
    assert (norms.max()[[0]] == 0.5).all()
    assert (norms.max()[[1]] < 0.6).all()
    assert (norms.min()[[2, 3, 4]] > 0.7).all()
    rung = {entry["checkpoint"]: entry for entry in monitoring["alarm"]["checkpoints"]}
    assert rung[2]["rings"]
    named = {entry["latent"] for entry in rung[2]["latents"]}
    assert set(matched) <= named
    changes = [entry["relative_change"] for entry in monitoring["checkpoints"][1:]]
    assert changes[0] < 0.2 * changes[1]
    assert changes[1] == pytest.approx(changes[3], rel=0.05)


def test_a_null_chain_has_no_onset_and_no_alarm(tmp_path: Path) -> None:
    chain = PlantedChain.spread(PlantedPair(0), 3).null()
    features, _, monitoring, _ = run_chain(chain, tmp_path / "null")
    assert features["onset"].isna().all()
    assert monitoring["onset"]["changed"] == 0
    assert not any(entry["rings"] for entry in monitoring["alarm"]["checkpoints"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["cache", "stream"])
def test_models_run_with_snapshots(tmp_path: Path, kind: str) -> None:
    """A base, two adapters and a checkpoint: harvest, training, controls, analysis, report and page."""
    base = save_llama(tmp_path / "base")
    early, late = (save_adapter(base, tmp_path / f"adapter{seed}", seed) for seed in (1, 2))
    other = save_llama(tmp_path / "other", seed=3)
    chat, prose = write_texts(tmp_path / "texts")
    config = {
        "output": str(tmp_path / "run"),
        "pair": {
            "reference": {"model": str(base), "dtype": "float32"},
            "snapshots": [{"adapter": str(early)}, {"model": str(other), "dtype": "float32"}],
            "intervened": {"adapter": str(late)},
            "hookpoint": "model.layers.1",
        },
        "text": {
            "sources": [{"path": str(chat), "name": "chat"}, {"path": str(prose), "name": "prose"}],
            "held_out": 0.3,
        },
        "activations": {"kind": kind, "dtype": "float32"},
        "crosscoder": {"n_latents": 32, "sparsity": {"kind": "batch_topk", "k": 4}},
        "training": {"n_tokens": 4000, "batch_tokens": 64, "precision": "float32"},
        "threads": 1,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    app(["run", str(tmp_path / "config.yaml")], standalone_mode=False)
    run = tmp_path / "run"
    assert load_crosscoder(run / "crosscoder").config.model_names == model_names(4)
    summary = json.loads((run / "analysis" / "summary.json").read_text(encoding="utf-8"))
    checkpoints = summary["monitoring"]["checkpoints"]
    assert [entry["name"] for entry in checkpoints] == ["reference", "snapshot_1", "snapshot_2", "intervened"]
    assert [entry["model"] for entry in checkpoints] == [str(base), str(early), str(other), str(late)]
    for entry in checkpoints[1:]:
        assert sum(entry["shift"].values()) == pytest.approx(1)
    assert checkpoints[3]["relative_change"] == pytest.approx(summary["relative_difference"])
    assert checkpoints[3]["fve_difference"] == pytest.approx(summary["fve"]["difference"])
    assert (run / "browser" / "index.html").stat().st_size > 0
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert "monitoring.trajectory" in {entry["key"] for entry in report["desiderata"]}
    app(["doctor", str(tmp_path / "config.yaml")], standalone_mode=False)
