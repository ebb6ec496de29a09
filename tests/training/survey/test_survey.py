"""The survey: divergence of predictions, tokens that are raised, and differences between layers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crosscoder.config import ControlsConfig, PairConfig, RunConfig
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents, tokenize
from tests.crosscoder.language_models import zoo_architectures
from tests.tiny_pairs import run_config, save_adapter, save_llama
from training.stages import train
from training.survey import layer_lines, survey, survey_layers
from training.survey.layers import aligned_layers, compare_layers, relative_change, unbiased_cka
from training.survey.predictions import PredictionShift, TokenPosition, by_position, summarize

VOCABULARY = 50


def shift_of(reference: Tensor, intervened: Tensor, cuts: tuple[int, ...] = ()) -> dict[str, Any]:
    """The result over some logits, added in batches."""
    shift = PredictionShift(VOCABULARY)
    bounds = [0, *cuts, len(reference)]
    for begin, end in zip(bounds, bounds[1:], strict=False):
        places = [TokenPosition(row // 8, row % 8) for row in range(begin, end)]
        template = torch.arange(begin, end) % 8 < 2
        shift.update(reference[begin:end], intervened[begin:end], places, template)
    return shift.result(lambda ids: " ".join(map(str, ids)))


def logits(seed: int, n: int = 40) -> Tensor:
    return 2 * torch.randn(n, VOCABULARY, generator=torch.Generator().manual_seed(seed))


# --- predictions ------------------------------------------------------------------------------------------------------


def test_divergence_equals_torch_s() -> None:
    reference, intervened = logits(0), logits(1)
    expected = torch.nn.functional.kl_div(
        reference.log_softmax(1), intervened.log_softmax(1), log_target=True, reduction="none"
    ).sum(1)
    found = shift_of(reference, intervened)["kl"]
    assert found["mean"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert found["max"] == pytest.approx(float(expected.max()), rel=1e-5)
    template = torch.arange(40) % 8 < 2
    assert found["template_mean"] == pytest.approx(float(expected[template].mean()), rel=1e-5)
    assert found["other_mean"] == pytest.approx(float(expected[~template].mean()), rel=1e-5)


def test_equal_predictions_show_no_difference() -> None:
    found = shift_of(logits(0), logits(0))
    assert found["kl"]["max"] == 0
    assert found["largest"] == found["raised"] == found["lowered"] == []


def test_a_raised_token_is_the_only_one_found() -> None:
    """The positive control of the test above."""
    reference = logits(0)
    intervened = reference.clone()
    intervened[:, 7] += 3
    found = shift_of(reference, intervened)
    assert found["raised"][0]["token_id"] == 7
    assert found["raised"][0]["share"] > 0.9
    assert found["raised"][0]["mean_log_ratio"] > np.log(2)
    assert {entry["token_id"] for entry in found["raised"]} == {7}


def test_a_token_that_is_improbable_in_both_models_does_not_count() -> None:
    reference = logits(0)
    reference[:, 7] = -30
    intervened = reference.clone()
    intervened[:, 7] += 10
    assert shift_of(reference, intervened)["raised"] == []


@given(seed=st.integers(0, 1000))
def test_swapping_the_models_swaps_raised_and_lowered(seed: int) -> None:
    forth, back = (shift_of(logits(a), logits(b)) for a, b in ((seed, seed + 1), (seed + 1, seed)))
    for one, other in (("raised", "lowered"), ("lowered", "raised")):
        assert [entry["token_id"] for entry in forth[one]] == [entry["token_id"] for entry in back[other]]
        for left, right in zip(forth[one], back[other], strict=True):
            assert left["positions"] == right["positions"]
            assert left["mean_log_ratio"] == pytest.approx(-right["mean_log_ratio"], rel=1e-6)


def test_batched_equals_whole() -> None:
    reference, intervened = logits(0, 300), logits(1, 300)
    whole, pieces = shift_of(reference, intervened), shift_of(reference, intervened, (13, 270))
    assert json.dumps(whole) == json.dumps(pieces)
    assert len(whole["largest"]) == 10
    assert [entry["kl"] for entry in whole["largest"]] == sorted(
        (entry["kl"] for entry in whole["largest"]), reverse=True
    )


def test_the_largest_divergence_keeps_both_predictions() -> None:
    reference = torch.zeros(20, VOCABULARY)
    intervened = reference.clone()
    intervened[11, 5] = 9.0
    found = shift_of(reference, intervened)
    assert [(entry["document"], entry["position"]) for entry in found["largest"]] == [(1, 3)]
    assert found["largest"][0]["intervened"][0][0] == "5"
    assert found["largest"][0]["intervened"][0][1] > 0.9
    assert found["largest"][0]["reference"][0][1] == pytest.approx(1 / VOCABULARY)


def test_padding_of_the_unembedding_is_ignored() -> None:
    reference, intervened = logits(0), logits(1)
    padded = torch.cat([intervened, torch.full((40, 14), 50.0)], dim=1)
    assert shift_of(reference, padded) == shift_of(reference, intervened)


def test_positions_and_quantiles_match_the_values() -> None:
    kl = np.arange(200.0)
    assert summarize(kl)["largest_hundredth"] == pytest.approx((198 + 199) / kl.sum())
    assert summarize(np.zeros(5))["largest_hundredth"] == 0
    position = np.array([0, 0, 1, 5, 6, 19])
    found = by_position(np.array([1.0, 3, 5, 2, 4, 7]), position)
    assert [(row["first"], row["last"], row["n_tokens"], row["mean"]) for row in found] == [
        (0, 0, 2, 2.0),
        (1, 1, 1, 5.0),
        (4, 7, 2, 3.0),
        (16, 31, 1, 7.0),
    ]


# --- layers -----------------------------------------------------------------------------------------------------------


def test_cka_is_invariant_to_rotation_scale_and_shift() -> None:
    one = torch.randn(300, 6) + 3
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    assert unbiased_cka(one, 2 * one @ rotation - 1) == pytest.approx(1, abs=1e-4)


def test_unrelated_activations_have_low_cka_even_with_many_dimensions() -> None:
    """The biased estimator gives 0.8 for 100 tokens of 400 dimensions."""
    values = [unbiased_cka(torch.randn(100, 400), torch.randn(100, 400)) for _ in range(10)]
    assert abs(np.mean([value for value in values if value is not None])) < 0.02


def test_cka_is_undefined_for_constant_activations_or_few_tokens() -> None:
    assert unbiased_cka(torch.ones(50, 3), torch.randn(50, 3)) is None
    assert unbiased_cka(torch.randn(3, 3), torch.randn(3, 3)) is None


def test_models_of_different_depth_and_width_are_compared_at_equal_relative_depth() -> None:
    assert aligned_layers(4, 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert aligned_layers(3, 5) == [(0, 0), (1, 2), (2, 4)]
    compared = compare_layers([torch.randn(30, 4)] * 3, [torch.randn(30, 6)] * 5)
    assert [row["change"] for row in compared] == [None] * 3
    assert "layer 0 / layer 1" in "\n".join(layer_lines([{**row, "hookpoint": False} for row in compared]))


# --- on models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survey")
    save_adapter(save_llama(folder / "llama"), folder / "adapter")
    return folder


def opened(folder: Path, intervened: Any, **overrides: Any) -> tuple[ModelPair, Documents, RunConfig]:
    config = run_config(folder, folder / "llama", intervened, **overrides)
    assert config.pair is not None and config.text is not None
    pair = load_pair(config.pair)
    return (
        pair,
        tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, 0),
        config,
    )


def test_an_adapter_is_surveyed_end_to_end(folder: Path) -> None:
    pair, documents, _ = opened(folder, {"adapter": str(folder / "adapter")})
    found = json.loads(json.dumps(survey(pair, documents, 100), allow_nan=False))
    held_out = documents.split(held_out=True)
    predictions = found["predictions"]
    assert found["n_documents"] == len(held_out)
    assert predictions["n_tokens"] == int(documents.unmasked[held_out].sum())
    assert sum(row["n_tokens"] for row in predictions["kl"]["by_position"]) == predictions["n_tokens"]
    assert predictions["kl"]["mean"] > 0
    largest = predictions["largest"][0]
    token = documents.tokens_of(largest["document"])[largest["position"]]
    assert largest["context"].endswith(pair.tokenizer.decode([int(token)]))
    assert [row["hookpoint"] for row in found["layers"]] == [False, False, True, False]
    assert found["layers"][0]["change"] == 0
    assert found["layers"][0]["cka"] == pytest.approx(1)
    assert all(row["change"] > 0 for row in found["layers"][1:])


def test_a_model_does_not_differ_from_itself(folder: Path) -> None:
    pair, documents, _ = opened(folder, folder / "llama")
    found = survey(pair, documents, 3)
    assert found["n_documents"] <= 3
    assert found["predictions"]["kl"]["max"] == 0
    assert found["predictions"]["raised"] == []
    assert all(row["change"] == 0 and row["cka"] == pytest.approx(1) for row in found["layers"])


def test_survey_layers_reads_training_documents(folder: Path) -> None:
    pair, documents, _ = opened(folder, {"adapter": str(folder / "adapter")})
    layers = survey_layers(pair, documents, 4)
    assert layers is not None and len(layers) == 4


@pytest.mark.parametrize(("name", "path"), [("llama", "model.layers"), ("mamba", "backbone.layers")])
def test_the_table_of_layers_is_that_of_hooks(tmp_path: Path, name: str, path: str) -> None:
    """The hidden states that transformers returns of a state-space model lack the last output, and begin with the embeddings twice."""
    sides = {
        side: {"model": str(zoo_architectures.save(name, tmp_path / side, seed)), "dtype": "float32"}
        for seed, side in enumerate(("reference", "intervened"))
    }
    config = run_config(tmp_path, tmp_path / "reference", tmp_path / "intervened")
    pair = load_pair(PairConfig.model_validate({**sides, "hookpoint": f"{path}.1", "device": "cpu"}))
    assert config.text is not None
    documents = tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, 0)
    table = survey_layers(pair, documents, 1000)
    assert table is not None
    assert [row["hookpoint"] for row in table] == [False, False, True, False]
    rows: list[list[list[Tensor]]] = [[[], [], []] for _ in range(2)]
    for document in documents.split(held_out=False).tolist():
        ids = torch.from_numpy(documents.tokens_of(document).astype(np.int64))[None]
        begin, end = documents.offsets[document : document + 2]
        kept = torch.from_numpy(~documents.masked[begin:end])
        for model, network in enumerate(pair.models):
            layers: Any = network.get_submodule(path)
            handles = [
                layer.register_forward_hook(
                    lambda _, __, output, place=rows[model][index], kept=kept: place.append(output[0][kept])
                )
                for index, layer in enumerate(layers)
            ]
            with torch.no_grad():
                network(input_ids=ids)
            for handle in handles:
                handle.remove()
    for row, one, other in zip(table[1:], *rows, strict=True):
        expected = relative_change(torch.cat(one).double(), torch.cat(other).double())
        assert row["change"] == pytest.approx(expected, rel=1e-4)


def test_training_surveys_once_and_again_if_more_documents_are_configured(
    folder: Path, tmp_path: Path
) -> None:
    _, _, config = opened(
        folder,
        {"adapter": str(folder / "adapter")},
        output=str(tmp_path / "run"),
        crosscoder={"n_latents": 32, "sparsity": {"kind": "topk", "k": 2}},
        training={"n_tokens": 640, "batch_tokens": 64},
        controls=ControlsConfig.none().model_dump(mode="json"),
    )
    train(config)
    place = RunFolder(tmp_path / "run").survey
    before = place.read_bytes()
    written = place.stat().st_mtime_ns
    train(config)
    assert place.stat().st_mtime_ns == written
    train(config.model_copy(update={"survey": config.survey.model_copy(update={"documents": 2})}))
    assert json.loads(place.read_text())["n_documents"] <= 2
    assert place.read_bytes() != before
    train(config.model_copy(update={"survey": config.survey.model_copy(update={"documents": 0})}))
    assert not place.exists()
