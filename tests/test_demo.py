"""The demo on the toy pair, from the command to the wandb files, and its identity control."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.behaviors.behavior_files import load_behaviors
from analysis.discovery.findings_file import read_discovery
from analysis.report import read_report
from crosscoder import load_crosscoder
from crosscoder.command.app import app
from crosscoder.demo.settings import demo_config
from crosscoder.run.folder import RunFolder

from .wandb_files import history_row, offline_files, records

pytestmark = pytest.mark.slow

SMALL = [
    "crosscoder.n_latents=96", "training.n_tokens=150000", "training.evaluate_every=50", "threads=1",
    "discovery.prompts=320", "discovery.attribute=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished demo."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    app(["demo", str(folder), "--toy", *SMALL], standalone_mode=False)
    return RunFolder.open(folder)


def test_a_run_has_every_file(run: RunFolder) -> None:
    for path in (
        run.config, run.manifest, run.metrics, run.features, run.examples, run.logits, run.summary,
        run.report / "report.json", run.report / "report.md", run.report / "report.html", run.report / "appendix.html", run.browser / "index.html",
    ):  # fmt: skip
        assert path.stat().st_size > 0, path
    load_crosscoder(run.crosscoder)


def test_the_summary_holds_the_measurements(run: RunFolder) -> None:
    summary = json.loads(run.summary.read_text())
    assert min(summary["fve"].values()) > 0.5
    assert summary["l0"] == pytest.approx(summary["l0_target"], rel=0.05)
    assert summary["ce"]["intervened"]["recovered"] > 0.8
    shift = summary["shift"]
    assert shift["latents"] + shift["bias"] + shift["error"] == pytest.approx(1, abs=1e-6)
    features = pd.read_parquet(run.features)
    assert features.shift_share.sum() == pytest.approx(shift["latents"], abs=1e-4)
    assert features.label.value_counts().to_dict() == {
        label: entry["count"] for label, entry in summary["counts"].items() if entry["count"]
    }


def test_the_planted_visitor_is_explained(run: RunFolder) -> None:
    """The intervened model alone knows a word: the shift is measured, a few latents carry it, and generated text shows it."""
    (found,) = load_behaviors(run)
    assert found.name == "visitor" and found.causal is not None and found.attribution is not None
    assert found.shift["shift"]["size"]["low"] > 3
    held_out = found.attribution["held_out"]
    assert abs(held_out["residual_share"]) < 0.01
    parts = sum(part["share"]["value"] for part in held_out["parts"].values())
    assert parts + held_out["above"]["share"]["value"] + held_out["residual_share"] == pytest.approx(
        1, abs=1e-6
    )
    assert found.causal["level"] == "causal"
    assert found.causal["together"]["sufficiency"]["low"] > 0.05
    features = pd.read_parquet(run.features)
    causal = {entry["latent"] for entry in found.causal["latents"] if entry["evidence"] == "causal"}
    assert causal and set(features.latent[features.evidence == "causal"]) == causal
    report = read_report(run)
    assert {one.key: one for one in report.desiderata}["validity.faithfulness"].value is not None


def test_the_planted_visitor_is_found_without_being_told(run: RunFolder) -> None:
    """The word that only the intervened model knows is in its answers, and nothing is found where nothing changed."""
    found = read_discovery(run.findings)
    assert found is not None
    first = found.findings[0]
    assert first.direction == "gained" and "blick" in first.effect.text
    assert first.with_trigger.reference.count == 0 and first.difference_low > 0.1
    assert [null.findings for null in found.nulls] == [0, 0]
    assert "blick" in read_report(run).summary[0].text.text


def test_wandb_holds_the_whole_run(run: RunFolder) -> None:
    """Settings, a token axis, losses, FVE per model, L0, dead latents, histograms, weights, summary: read from its files."""
    files = offline_files(run)
    assert len(files) == 1
    kept = records(files[0])
    settings = next(record.run for record in kept if record.WhichOneof("record_type") == "run")
    assert {item.key for item in settings.config.update} >= {"pair", "crosscoder", "training", "seed"}
    rows = [history_row(record) for record in kept if record.WhichOneof("record_type") == "history"]
    keys = set().union(*rows)
    assert {
        "tokens", "losses/overall_loss", "losses/mse_loss", "metrics/explained_variance/reference",
        "metrics/explained_variance/intervened", "diff/explained_variance", "metrics/l0", "sparsity/dead_share",
        "diff/relative_norm", "diff/decoder_cosine", "weights/decoder_norm/reference",
        "features/new", "features/lost",
    } <= keys  # fmt: skip
    assert any(
        record.WhichOneof("record_type") == "request" and record.request.HasField("log_artifact")
        for record in kept
    ) or any(record.WhichOneof("record_type") == "artifact" for record in kept)
    manifest = run.read_manifest()
    assert manifest["wandb"]["id"] == settings.run_id
    tokens = [row["tokens"] for row in rows if "losses/overall_loss" in row]
    assert tokens == sorted(tokens) and len(tokens) > 5


def test_a_model_against_itself_has_nothing_new_and_nothing_lost(tmp_path: Path) -> None:
    """The identity control: the same command with the reference as both models."""
    config, _ = demo_config(tmp_path / "run", toy=True)
    assert config.pair is not None
    words = [f"pair.intervened.model={config.pair.reference.model}", "wandb.mode=disabled", *SMALL]
    app(["demo", str(tmp_path / "run"), "--toy", *words], standalone_mode=False)
    summary = json.loads((tmp_path / "run" / "analysis" / "summary.json").read_text())
    assert summary["counts"]["new"]["count"] == summary["counts"]["lost"]["count"] == 0
    assert summary["counts"]["shared"]["count"] > 30
    assert summary["fve"]["difference"] is None
    found = read_discovery(tmp_path / "run" / "discovery" / "findings.json")
    assert found is not None and found.findings == ()
