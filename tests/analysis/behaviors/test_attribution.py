"""Attribution of a shift: planted shares are recovered, exchanging the models flips the signs, and the parts add up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from analysis.behaviors import logit_metrics
from analysis.behaviors.activations import PromptActivations
from analysis.behaviors.attribution import (
    Attribution,
    PatchingCorners,
    attribute,
    measure_corners,
    path_gradients,
)
from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.logit_metrics import LogitMetric, NextTokenLogOdds, build_metric
from analysis.behaviors.measurement import LogitMeasurement
from analysis.behaviors.patching import PatchedRun, unchanged
from analysis.behaviors.prompts import Prompt
from analysis.latents.dictionary_view import view_of
from crosscoder.config import BatchTopK, CrosscoderConfig, PairConfig, TokenPolicy
from crosscoder.config.behavior import (
    AttributionSettings,
    Continuation,
    Divergence,
    LogOdds,
    Perplexity,
)
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.views import View
from crosscoder.language_models.pair import ModelPair, load_pair
from tests.planted_network import NO, YES, exchanged, planted_dictionary, planted_pair
from tests.tiny_pairs import save_adapter, save_gpt2, save_llama

METRICS = {
    "log_odds": LogOdds(tokens=("a", "b"), against=("c",)),
    "log_odds_of_all": LogOdds(tokens=("a",)),
    "continuation": Continuation(texts=("rose", "oak pine"), against=("fern",)),
    "perplexity": Perplexity(),
    "divergence": Divergence(),
    "divergence_everywhere": Divergence(places="all"),
}
POLICY = TokenPolicy()


def tokens(n_prompts: int = 6) -> list[Prompt]:
    """Prompts of different lengths."""
    generator = np.random.default_rng(0)
    return [Prompt(str(i), generator.integers(7, 30, size=3 + 2 * i)) for i in range(n_prompts)]


def measurement(
    pair: ModelPair, dictionary: Crosscoder, metric: LogitMetric, reads: View = "paired"
) -> LogitMeasurement:
    view = view_of(dictionary, pair.d_models, reads)
    return LogitMeasurement(PromptActivations.from_rows(pair, view, metric.rows(tokens()), POLICY), metric)


def attributed(
    measured: LogitMeasurement, n_latents: int, **settings: Any
) -> tuple[PatchingCorners, Attribution]:
    corners = measure_corners(measured)
    return corners, attribute(measured, corners, AttributionSettings(**settings), n_latents)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_llama(folder / "llama", seed=0)
    save_llama(folder / "tuned", seed=1)
    save_gpt2(folder / "gpt2", seed=0)
    save_gpt2(folder / "gpt2_tuned", seed=1)
    save_adapter(folder / "llama", folder / "adapter")
    return folder


def load(folder: Path, reference: str, intervened: Any, layer: int = 1) -> ModelPair:
    stack = "transformer.h" if "gpt2" in reference else "model.layers"
    settings = {
        "reference": {"model": str(folder / reference), "dtype": "float32"},
        "intervened": {"model": str(folder / intervened), "dtype": "float32"}
        if isinstance(intervened, str)
        else intervened,
        "hookpoint": f"{stack}.{layer}",
        "device": "cpu",
    }
    return load_pair(PairConfig.model_validate(settings))


def pairs(folder: Path, name: str) -> ModelPair:
    match name:
        case "adapter":
            return load(folder, "llama", {"adapter": str(folder / "adapter")})
        case "context":
            return load(folder, "llama", {"context": "amber birch cedar"})
        case "models":
            return load(folder, "llama", "tuned")
        case _:
            return load(folder, "gpt2", "gpt2_tuned")


def random_dictionary(reads: View = "paired", n_latents: int = 40) -> Crosscoder:
    d_models = (16, 16) if reads == "paired" else (16,)
    dictionary = Crosscoder(
        CrosscoderConfig(
            d_models=d_models,
            model_names=tuple(f"m{i}" for i in range(len(d_models))),
            n_latents=n_latents,
            sparsity=BatchTopK(k=6),
        ),
        seed=3,
    )
    with torch.no_grad():
        dictionary.W_dec.add_(0.3 * torch.randn(dictionary.W_dec.shape))
        dictionary.b_dec.add_(0.1 * torch.randn(dictionary.b_dec.shape))
        dictionary.sparsity.threshold.fill_(0.5)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return dictionary


@pytest.mark.parametrize("curvature", [0.0, 1.0])
@pytest.mark.parametrize("shares", [(0.25, 0.25, 0.25, 0.25), (0.4, 0.1, -0.2, 0.7)])
def test_planted_shares_are_recovered(
    folder: Path, shares: tuple[float, float, float, float], curvature: float
) -> None:
    """Half through two latents, a quarter through the error, a quarter through the weights above."""
    first, second, error, above = shares
    pair = planted_pair(AutoTokenizer.from_pretrained(folder / "llama"), *shares, curvature=curvature)
    metric = NextTokenLogOdds(torch.tensor([YES]), torch.tensor([NO]))
    corners, found = attributed(measurement(pair, planted_dictionary(first, second), metric), 4)
    z = first + second + error
    represented = z + curvature * z**3
    total = represented + above
    assert corners.total.mean() == pytest.approx(total, abs=1e-5)
    wanted = np.array([first, second, 0, 0]) * represented / z / total
    np.testing.assert_allclose(found.mean / total, wanted, atol=0.02)
    assert found.rest["error"].mean() / total == pytest.approx(error * represented / z / total, abs=0.02)
    assert found.rest["bias"].mean() == pytest.approx(0, abs=1e-6)
    assert abs(found.residual.mean()) < 0.01 * abs(total)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["adapter", "context", "models", "gpt2"])
def test_parts_add_up_to_the_shift(folder: Path, name: str, metric: str) -> None:
    pair = pairs(folder, name)
    built = build_metric(METRICS[metric], pair.tokenizer)
    measured = measurement(pair, random_dictionary(), built)
    corners, found = attributed(measured, 40, residual=0.002, max_steps=400)
    np.testing.assert_allclose(corners.represented + corners.above, corners.total, atol=1e-10)
    summed = found.latents.sum(axis=1) + sum(found.rest.values()) + found.residual
    np.testing.assert_allclose(summed, corners.represented, atol=1e-10)
    assert abs(found.residual.mean()) <= 0.01 * abs(corners.total.mean())
    everything = Part(torch.ones(40, dtype=torch.bool), True, True, True)
    for model in range(2):
        moved = measured.values(PatchedRun(model, 0, everything))
        whole = measured.values(PatchedRun(model, 1))
        np.testing.assert_allclose(moved, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reads", ["paired", "pooled", "difference"])
def test_every_kind_of_dictionary_decomposes_the_change(folder: Path, reads: View) -> None:
    pair = pairs(folder, "models")
    measured = measurement(
        pair, random_dictionary(reads), build_metric(METRICS["log_odds"], pair.tokenizer), reads
    )
    corners, found = attributed(measured, 40, residual=0.002, max_steps=400)
    assert abs(found.residual.mean()) <= 0.01 * abs(corners.total.mean())
    assert (found.mean != 0).any()


@pytest.mark.parametrize("metric", ["log_odds", "continuation", "perplexity"])
def test_exchanging_the_models_flips_every_sign(folder: Path, metric: str) -> None:
    """Divergence is not tested, because exchanging the models exchanges its reference."""
    dictionary, settings = random_dictionary(), METRICS[metric]
    one, other = load(folder, "llama", "tuned"), load(folder, "tuned", "llama")
    (ahead, found), (back, again) = (
        attributed(measurement(pair, crosscoder, build_metric(settings, pair.tokenizer)), 40, steps=4)
        for pair, crosscoder in ((one, dictionary), (other, exchanged(dictionary)))
    )
    np.testing.assert_allclose(ahead.total, -back.total, atol=1e-4)
    np.testing.assert_allclose(ahead.above, -back.above, atol=1e-4)
    np.testing.assert_allclose(found.latents, -again.latents, atol=1e-4)
    for name in found.rest:
        np.testing.assert_allclose(found.rest[name], -again.rest[name], atol=1e-4)
    assert np.abs(found.latents).max() > 1e-2


def test_a_model_compared_with_itself_has_no_shift(folder: Path) -> None:
    pair = load(folder, "llama", "llama")
    measured = measurement(pair, random_dictionary(), build_metric(METRICS["log_odds"], pair.tokenizer))
    corners, found = attributed(measured, 40)
    assert not corners.total.any() and not corners.represented.any()
    # A random dictionary has different directions for the models; the error cancels their contributions.
    np.testing.assert_allclose(found.latents.sum(axis=1) + sum(found.rest.values()), 0, atol=1e-3)


def test_tripled_steps_equal_all_steps_at_once(folder: Path) -> None:
    pair = pairs(folder, "models")
    measured = measurement(pair, random_dictionary(), build_metric(METRICS["continuation"], pair.tokenizer))
    refined, at_once = path_gradients(measured), path_gradients(measured)
    refined.refine(4)
    refined.refine(12)
    at_once.refine(12)
    for index in range(len(measured.activations.batches)):
        torch.testing.assert_close(refined.mean(index), at_once.mean(index), rtol=1e-4, atol=1e-6)


def test_fewer_steps_leave_a_larger_residual(folder: Path) -> None:
    """Positive control of the residual: one gradient is not an integral."""
    pair = pairs(folder, "models")
    measured = measurement(pair, random_dictionary(), build_metric(METRICS["perplexity"], pair.tokenizer))
    _, cheap = attributed(measured, 40, steps=1)
    _, fine = attributed(measured, 40, steps=81)
    assert (cheap.steps, fine.steps) == (1, 81)
    assert np.abs(fine.residual).mean() < np.abs(cheap.residual).mean() / 3


def test_the_batch_size_does_not_matter(folder: Path) -> None:
    pair = pairs(folder, "models")
    metric = build_metric(METRICS["continuation"], pair.tokenizer)
    view = view_of(random_dictionary(), pair.d_models, "paired")
    rows = metric.rows(tokens())
    found = []
    for budget in (16, 100_000):
        activations = PromptActivations.from_rows(pair, view, rows, POLICY, batch_tokens=budget)
        measured = LogitMeasurement(activations, metric)
        found.append((len(activations.batches), attributed(measured, 40, steps=3)))
    (few, (one, first)), (many, (other, second)) = found
    assert few > many == 1
    np.testing.assert_allclose(one.total, other.total, atol=1e-4)
    np.testing.assert_allclose(first.latents, second.latents, atol=1e-4)


def test_batches_may_differ_in_rows_and_length(folder: Path) -> None:
    pair = pairs(folder, "models")
    rows = build_metric(METRICS["continuation"], pair.tokenizer).rows(tokens())
    # The type checker tests one random element of a sequence in each call.
    for _ in range(16):
        activations = PromptActivations.from_rows(pair, None, rows, POLICY, batch_tokens=30)
        assert len({batch.token_ids.shape for batch in activations.batches}) > 1


def test_an_unchanged_run_equals_the_model_in_transformers(folder: Path) -> None:
    pair = pairs(folder, "adapter")
    metric = build_metric(METRICS["log_odds"], pair.tokenizer)
    measured = measurement(pair, random_dictionary(), metric)
    for model in range(2):
        values = measured.values(unchanged(model))
        for prompt, value in zip(tokens(), values, strict=True):
            ids = torch.from_numpy(prompt.token_ids)[None]
            logits = pair.full_pass(ids, torch.ones_like(ids, dtype=torch.bool), model).logits[0, -1]
            named = {word: pair.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in "abc"}
            wanted = logits[[named["a"], named["b"]]].logsumexp(0) - logits[named["c"]]
            assert value == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize("entries", [1, 1000])
def test_chunked_probabilities_equal_those_at_once(
    folder: Path, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pairs(folder, "models")
    runs = [unchanged(1), PatchedRun(1, 0), PatchedRun(0, 1)]
    found = []
    for size in (2**20, entries):
        monkeypatch.setattr(logit_metrics, "_ENTRIES", size)
        measured = measurement(pair, random_dictionary(), build_metric(METRICS["perplexity"], pair.tokenizer))
        effects = measured.compare_with_unchanged(runs)
        divergence = measurement(
            pair, random_dictionary(), build_metric(METRICS["divergence_everywhere"], pair.tokenizer)
        )
        found.append(
            np.array([*(values for effect in effects for values in effect), divergence.values(runs[1])])
        )
        assert not effects[0].divergence.any() and effects[1].divergence.all()
        for effect, run in zip(effects, runs, strict=True):
            np.testing.assert_allclose(effect.unchanged, measured.values(unchanged(run.model)), rtol=1e-6)
            np.testing.assert_allclose(effect.changed, measured.values(run), rtol=1e-6)
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-7)
