"""A scaling pair end to end: the models differ in width, depth and tokenizer. Undefined quantities are reported as such."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.behaviors.behavior_files import load_behaviors
from crosscoder.activations.shards import DOCUMENTS
from crosscoder.command.app import app
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents
from tests.analysis.report_runs import report_text
from training.organisms.toy_sizes import tokenizers

CONFIG = Path(__file__).parent.parent / "configs" / "scaling.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("scaling") / "run"
    words = [f"output={folder}", "threads=1", "discovery.prompts=40"]
    app(["run", str(CONFIG), *words], standalone_mode=False)
    lookup = CONFIG.parent / "behaviors" / "lookup.yaml"
    app(["attribute", str(folder), str(lookup)], standalone_mode=False)
    app(["report", str(folder)], standalone_mode=False)
    return RunFolder.open(folder)


@pytest.mark.slow
def test_words_and_byte_pairs_meet_after_every_word(run: RunFolder) -> None:
    aligned = Documents.load(run.activations / DOCUMENTS).alignment
    assert aligned is not None
    assert aligned.rates[0] == 1.0 > aligned.rates[1] > 0.5
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["data"]["alignment"] == aligned.describe()


@pytest.mark.slow
def test_undefined_quantities_are_null_and_have_a_reason(run: RunFolder) -> None:
    features = pd.read_parquet(run.features)
    alive = features[features.n_documents >= 5]
    assert set(alive.label) == {"undetermined"}
    assert alive.reason.str.contains("the models share no activation space").all()
    undefined = ["decoder_cosine", "nu_error", "nu_reconstruction", "shift_share", "q_value"]
    assert features[undefined].isna().to_numpy().all()
    assert (
        features[["relative_norm", "density", "norm_reference", "norm_intervened"]].notna().to_numpy().all()
    )
    summary = json.loads(run.summary.read_text())
    assert summary["fve"]["difference"] is summary["cosine"] is summary["relative_difference"] is None
    assert all(summary["fve"][side] > 0.5 for side in ("reference", "intervened"))
    assert all(side["recovered"] > 0.5 for side in summary["ce"].values())
    survey = json.loads(run.survey.read_text())
    assert survey["predictions"] is None
    assert all(row["change"] is None and row["cka"] is not None for row in survey["layers"])


@pytest.mark.slow
def test_the_report_states_what_is_undefined(run: RunFolder) -> None:
    text = " ".join(report_text(run).split())
    assert (
        "The two models share no activation space, and no linear map between them carries directions" in text
    )
    assert "called new" not in text
    assert "so their predictions have no divergence" in text
    assert "a token of each ends at the same character" in text
    assert "Null pair: not measured" in text and "Shuffled pairs: not measured" in text
    assert (run.browser / "index.html").stat().st_size > 0


@pytest.mark.slow
def test_each_model_has_its_own_logit_lens(run: RunFolder) -> None:
    logits = pd.read_parquet(run.path / "analysis" / "logits.parquet")
    assert set(logits.model) == {"reference", "intervened"}
    assert np.isfinite(logits.value).all()
    tokens = {side: set(logits[logits.model == side].token) for side in ("reference", "intervened")}
    for side, made in zip(("reference", "intervened"), tokenizers().values(), strict=True):
        assert tokens[side] <= {
            made.decode([token], skip_special_tokens=False) for token in range(made.get_vocab_size())
        }


@pytest.mark.slow
def test_the_lookup_behavior_of_the_larger_model_is_found(run: RunFolder) -> None:
    """Positive control: by construction, only the larger model looks words up."""
    (found,) = load_behaviors(run)
    assert found.shift["explained"] and found.attribution is not None and found.causal is not None
    parts = found.attribution["held_out"]
    pieces = [parts["parts"][name]["share"]["value"] for name in ("latents", "error", "left_out")]
    assert sum(pieces) + parts["baseline"]["share"]["value"] + parts["residual_share"] == pytest.approx(1)
    assert found.causal["level"] == "causal"
    necessity = found.causal["together"]["necessity"]
    assert necessity["made"] and necessity["passed"] and len(necessity["random"]) == 200
    assert necessity["low"] > 0.5 > 3 * necessity["random_largest"]
    stability = found.causal["stability"]
    assert stability["trainings"] == 3 and stability["causal"] >= 2
    assert found.causal["removal_cost"]["kl"]["value"] < 0.1
    latents = pd.read_parquet(run.behaviors / "lookup" / "attribution.parquet")
    named = latents[latents["rank"] < 10]
    assert (named.attribution_intervened.abs().sum()) > 5 * named.attribution_reference.abs().sum()
    text = " ".join(report_text(run).split())
    assert "Whether they would produce it in the reference is undefined." in text
    assert "| undefined |" in text
