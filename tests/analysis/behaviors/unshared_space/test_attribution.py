"""Attribution between two models of different width, depth and tokenizer: exact, and exchanging the models flips the signs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.experiment import Experiment
from analysis.behaviors.logit_metrics import build_metric
from analysis.behaviors.prompts import encode
from analysis.behaviors.unshared_space.activations import Baseline, PerModelActivations
from analysis.behaviors.unshared_space.attribution import AttributionDifference, attribute_unshared
from analysis.behaviors.unshared_space.carrying_latents import rank_unshared
from analysis.latents.dictionary_view import view_of
from crosscoder.activations.batch import split_models
from crosscoder.config import BatchTopK, CrosscoderConfig, PairConfig, TokenPolicy
from crosscoder.config.behavior import AttributionSettings, Behavior, Continuation
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.text_files import Text
from tests.tiny_pairs import WORDS, save_llama

N_LATENTS = 20


def dictionary(d_models: tuple[int, int]) -> Crosscoder:
    """Return a random dictionary."""
    made = Crosscoder(
        CrosscoderConfig(
            d_models=d_models,
            model_names=("reference", "intervened"),
            n_latents=N_LATENTS,
            sparsity=BatchTopK(k=6),
        ),
        seed=3,
    )
    with torch.no_grad():
        generator = torch.Generator().manual_seed(4)
        made.W_dec.add_(0.3 * torch.randn(made.W_dec.shape, generator=generator))
        made.sparsity.threshold.fill_(0.5)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return made


def exchanged(before: Crosscoder) -> Crosscoder:
    """The same dictionary with its models in the other order."""
    after = dictionary((before.config.d_models[1], before.config.d_models[0]))
    with torch.no_grad():
        for name in ("W_dec", "b_dec", "mean"):
            tensor = getattr(before, name)
            parts = split_models(tensor if tensor.ndim == 2 else tensor[None], before.config.d_models)
            getattr(after, name).copy_(torch.cat(parts[::-1], dim=1).reshape(tensor.shape))
        after.W_enc.copy_(torch.cat(split_models(before.W_enc.T, before.config.d_models)[::-1], dim=1).T)
        after.b_enc.copy_(before.b_enc)
        after.scale.copy_(before.scale.flip(0))
    return after


class MixedPair:
    """A small model of bytes and a larger one of words, a random dictionary, and prompts."""

    def __init__(self, folder: Path) -> None:
        self.folders = (
            save_llama(folder / "small"),
            save_llama(folder / "large", 1, width=24, n_layers=5, words=True),
        )
        self.dictionary = dictionary((16, 24))
        self.activations = self.read(swapped=False)

    def pair(self, swapped: bool) -> ModelPair:
        order = (1, 0) if swapped else (0, 1)
        models = [{"model": str(self.folders[index]), "dtype": "float32"} for index in order]
        layers = [f"model.layers.{(1, 3)[index]}" for index in order]
        return load_pair(
            PairConfig.model_validate(
                {
                    "reference": models[0],
                    "intervened": models[1],
                    "hookpoint": layers[0],
                    "intervened_hookpoint": layers[1],
                    "align": "characters",
                    "device": "cpu",
                }
            )
        )

    def read(self, swapped: bool) -> PerModelActivations:
        pair = self.pair(swapped)
        made = exchanged(self.dictionary) if swapped else self.dictionary
        view = view_of(made, pair.d_models, "paired")
        texts = [f"{one} {other} fern holly" for one in WORDS[:3] for other in WORDS[4:7]]
        prompts = encode([Text(text, None, text) for text in texts], pair)
        settings = Continuation(texts=(" oak",), against=(" rose pine",))
        metrics = build_metric(settings, pair.tokenizer_of(0)), build_metric(settings, pair.tokenizer_of(1))
        generator = torch.Generator().manual_seed(5)
        means = [2 * torch.randn(width, generator=generator) for width in (16, 24)]
        codes = torch.rand(N_LATENTS, generator=generator)
        baseline = Baseline(tuple(means[::-1] if swapped else means), codes)
        return PerModelActivations(pair, view, metrics, prompts, TokenPolicy(), baseline)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> MixedPair:
    return MixedPair(tmp_path_factory.mktemp("sizes"))


@pytest.fixture(scope="module")
def found(sizes: MixedPair) -> AttributionDifference:
    return attribute_unshared(sizes.activations, AttributionSettings(steps=60))


def test_both_models_read_the_same_positions(sizes: MixedPair) -> None:
    for one, other in sizes.activations.batches:
        assert one.read.sum() == other.read.sum() > 0
        assert (one.batch.kept & one.read).equal(one.read), "only tokens that the token policy keeps"
        # The last token of every word except the first word, which is the second model's masked first token.
        assert (one.read.sum(dim=1) == 3).all()


def test_the_parts_add_up_to_the_shift(found: AttributionDifference) -> None:
    parts = (
        found.latents.sum(axis=1)
        + found.difference(lambda side: side.error)
        + found.difference(lambda side: side.left_out)
    )
    whole = (
        parts + found.difference(lambda side: side.baseline) + found.difference(lambda side: side.residual)
    )
    np.testing.assert_allclose(whole, found.total, rtol=1e-9, atol=1e-9)
    for side in (found.reference, found.intervened):
        assert np.abs(side.residual).max() < 0.02 * np.abs(side.effect).max() + 1e-4, (
            "completeness: the integral equals the effect"
        )


def test_exchanging_the_models_flips_every_sign(sizes: MixedPair, found: AttributionDifference) -> None:
    other = attribute_unshared(sizes.read(swapped=True), AttributionSettings(steps=60))
    np.testing.assert_allclose(other.latents, -found.latents, atol=1e-4)
    for part in ("value", "baseline", "error", "left_out"):
        np.testing.assert_allclose(
            other.difference(lambda side, part=part: getattr(side, part)),
            -found.difference(lambda side, part=part: getattr(side, part)),
            atol=1e-4,
        )
    assert set(rank_unshared(other).along) == set(rank_unshared(found).along), (
        "contributions are relative to the direction of the shift"
    )


def test_attributions_equal_the_formula_written_out(sizes: MixedPair) -> None:
    """One step: the gradient in the middle of the path, times (f - f̄) d, token by token and latent by latent."""
    activations = sizes.activations
    found = attribute_unshared(activations, AttributionSettings(steps=1))
    for model, side in ((0, found.reference), (1, found.intervened)):
        expected = np.zeros((activations.n_prompts, N_LATENTS))
        for index, sides in enumerate(activations.batches):
            batch, codes = sides[model], activations.codes[index].dense()
            middle = batch.activations - 0.5 * activations.moved(model, index)
            gradient = activations.gradient(model, index, middle)
            for place, (row, token) in enumerate(batch.read.nonzero().tolist()):
                prompt = batch.batch.prompts[int(batch.batch.place[row])]
                inner = activations.view.raw[model] @ gradient[row, token]
                expected[prompt] += ((codes[place] - activations.baseline.codes) * inner).numpy()
        np.testing.assert_allclose(side.latents, expected, atol=1e-5)


def test_removing_all_parts_leaves_the_mean(sizes: MixedPair, found: AttributionDifference) -> None:
    activations = sizes.activations
    everything = Part(torch.ones(N_LATENTS, dtype=torch.bool), error=True, left_out=True)
    for model, side in ((0, found.reference), (1, found.intervened)):
        values = activations.values_from(
            model, lambda index, model=model: activations.without(model, index, everything)
        )
        np.testing.assert_allclose(values, side.baseline, atol=1e-4)
        nothing = activations.values_from(
            model, lambda index, model=model: activations.without(model, index, Part())
        )
        np.testing.assert_allclose(nothing, side.value, atol=1e-5)


def test_sizes_equal_the_norms_of_single_latents(sizes: MixedPair) -> None:
    norms = sizes.activations.latent_sizes().norm
    for latent in range(0, N_LATENTS, 5):
        mask = torch.zeros(N_LATENTS, dtype=torch.bool)
        mask[latent] = True
        assert sizes.activations.norm(Part(mask)) == pytest.approx(float(norms[latent]), rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"kind": "perplexity"}, "perplexity depends on tokens or vocabulary"),
        ({"kind": "divergence"}, "divergence depends on tokens or vocabulary"),
        ({"kind": "pattern", "pattern": "oak"}, "pattern scores generated answers"),
    ],
)
def test_metrics_that_are_undefined_for_two_tokenizers_are_refused(
    sizes: MixedPair, tmp_path: Path, metric: dict[str, str], message: str
) -> None:
    behavior = Behavior.model_validate({"name": "mine", "prompts": WORDS[:6], "metric": metric})
    pair, view = sizes.activations.pair, sizes.activations.view
    with pytest.raises(ConfigError, match=message):
        Experiment(behavior, pair, view, TokenPolicy(), tmp_path / "replies", sizes.activations.baseline)
