"""Theorems of latent scaling, and hand-built dictionaries with known results."""

import torch
from torch import Tensor

from analysis.latents.bootstrap import BlockMoments
from analysis.latents.dictionary_view import PairedView
from analysis.latents.latent_scaling import (
    beta_error,
    beta_reconstruction,
    nu_error,
    nu_reconstruction,
    overlaps,
    ratio_toward,
)
from crosscoder.activations.batch import split_models
from crosscoder.config import BatchTopK, CrosscoderConfig, ReLU
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.planted import SMALL, PlantedPair, exact_dictionary
from tests.analysis.readers import MemoryReader, collect

D_MODEL = 8


def random_crosscoder(n_latents: int = 12, seed: int = 0) -> Crosscoder:
    """A generic ReLU dictionary with unrelated weights and unequal scales."""
    config = CrosscoderConfig(
        d_models=(D_MODEL, D_MODEL), model_names=MODEL_NAMES, n_latents=n_latents, sparsity=ReLU(target_l0=4)
    )
    crosscoder = Crosscoder(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (crosscoder.W_dec, crosscoder.W_enc, crosscoder.b_enc, crosscoder.b_dec):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        crosscoder.mean.normal_(generator=generator)
        crosscoder.scale.copy_(torch.tensor([0.5, 3.0]))
        crosscoder.score_scale.fill_(1)
    return crosscoder.eval()


def moments_of(crosscoder: Crosscoder, values: Tensor, batch: int | None = None) -> dict[str, Tensor]:
    view = PairedView(crosscoder, crosscoder.config.d_models)
    reader = MemoryReader(values, crosscoder.config.d_models)
    statistics = collect(view, reader, None if batch is None else list(reader.batches(batch)))
    return BlockMoments(statistics.sums, statistics.totals, overlaps(view.directions_in)).whole()


def test_closed_form_equals_least_squares() -> None:
    """β is the least-squares fit of f·d to the target, over tokens and dimensions, for all latents, sides and targets."""
    crosscoder = random_crosscoder()
    values = torch.randn(300, 2 * D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moments = moments_of(crosscoder, values)
    with torch.no_grad():
        normalized, latents = crosscoder.normalize(values), crosscoder.encode(values)
        rebuilt = crosscoder.rebuild(latents)
        parts = dict(zip(MODEL_NAMES, split_models(crosscoder.W_dec, (D_MODEL, D_MODEL)), strict=True))
        errors = dict(zip(MODEL_NAMES, split_models(normalized - rebuilt, (D_MODEL, D_MODEL)), strict=True))
        written = dict(
            zip(MODEL_NAMES, split_models(rebuilt - crosscoder.b_dec, (D_MODEL, D_MODEL)), strict=True)
        )
    assert bool((latents > 0).any(dim=0).all())
    for side in MODEL_NAMES:
        for model in MODEL_NAMES:
            error, reconstruction = (
                beta_error(moments, side, model),
                beta_reconstruction(moments, side, model),
            )
            for latent in range(crosscoder.config.n_latents):
                column = (latents[:, latent, None] * parts[side][latent]).flatten()[:, None]
                without = errors[model] + latents[:, latent, None] * parts[model][latent]
                for found, target in ((error, without), (reconstruction, written[model])):
                    expected = torch.linalg.lstsq(column, target.flatten()[:, None]).solution.item()
                    assert abs(float(found[latent]) - expected) < 1e-10


def test_streaming_equals_two_passes() -> None:
    crosscoder = random_crosscoder(seed=3)
    values = torch.randn(200, 2 * D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole, streamed = moments_of(crosscoder, values), moments_of(crosscoder, values, batch=17)
    for statistic in (nu_error, nu_reconstruction):
        for side in MODEL_NAMES:
            assert torch.allclose(
                statistic(whole, side), statistic(streamed, side), rtol=1e-12, atol=1e-12, equal_nan=True
            )


def test_a_latent_of_one_model_only_scales_to_zero() -> None:
    pair = PlantedPair(counts=SMALL)
    moments = moments_of(pair.dictionary(), pair.sample(20_000))
    for kind, side in (("new", "intervened"), ("lost", "reference")):
        latents = [i for i, other in enumerate(pair.truth.kinds) if other == kind]
        assert nu_error(moments, side)[latents].abs().max() < 0.02
        assert nu_reconstruction(moments, side)[latents].abs().max() < 0.02
    shared = [i for i, kind in enumerate(pair.truth.kinds) if kind == "shared"]
    scale = pair.dictionary().scale
    expected = scale[0] / scale[1]
    assert torch.allclose(
        nu_error(moments, "intervened")[shared].float(), expected.expand(len(shared)), atol=0.03
    )


def shared_concept_dictionary(rows: Tensor, sample: Tensor) -> Crosscoder:
    config = CrosscoderConfig(
        d_models=(D_MODEL, D_MODEL), model_names=MODEL_NAMES, n_latents=len(rows), sparsity=BatchTopK(k=1)
    )
    return exact_dictionary(config, rows, sample)


def concept(n_tokens: int = 4000, noise: float = 0.01) -> tuple[Tensor, Tensor]:
    """One concept that both models hold with equal strength along the first dimension, and a noisy background."""
    generator = torch.Generator().manual_seed(5)
    fires = (torch.rand(n_tokens, generator=generator) < 0.2) * (
        1 + 0.2 * torch.randn(n_tokens, generator=generator)
    ).clamp(0.3)
    unit = torch.zeros(D_MODEL)
    unit[0] = 1
    values = torch.cat([fires[:, None] * unit, fires[:, None] * unit], dim=1)
    return values + noise * torch.randn(values.shape, generator=generator), unit


def test_complete_shrinkage_leaves_the_concept_in_the_error() -> None:
    """The reference holds the concept, but the latent's reference row was shrunk to zero."""
    values, unit = concept()
    row = torch.cat([torch.zeros(D_MODEL), unit])[None]
    moments = moments_of(shared_concept_dictionary(row, values), values)
    assert abs(float(nu_error(moments, "intervened")[0]) - 1) < 0.05
    assert abs(float(nu_reconstruction(moments, "intervened")[0])) < 0.01


def test_decoupled_twins_leave_it_in_the_reconstruction() -> None:
    """Two latents write the concept, one into each model: new and lost by their norms, neither by latent scaling."""
    values, unit = concept()
    nothing = torch.zeros(D_MODEL)
    rows = torch.stack([torch.cat([nothing, unit]), torch.cat([unit, nothing])])
    moments = moments_of(shared_concept_dictionary(rows, values), values)
    for latent, side in ((0, "intervened"), (1, "reference")):
        assert abs(float(nu_error(moments, side)[latent])) < 0.05
        assert abs(float(nu_reconstruction(moments, side)[latent]) - 1) < 0.05


def test_a_concept_that_its_own_model_hardly_holds_is_not_estimable() -> None:
    own, other = torch.tensor([1.0, 0.05, 0.0, -1.0, torch.nan]), torch.tensor([0.1, 0.0, 0.0, 0.1, 0.0])
    ratio = ratio_toward(own, other)
    assert float(ratio[0]) == float(torch.tensor(0.1))
    assert bool(ratio[1:].isnan().all())


def test_a_latent_that_never_fires_is_not_estimable() -> None:
    pair = PlantedPair(counts=SMALL)
    moments = moments_of(pair.dictionary(extra_latents=2), pair.sample(2000))
    for side in MODEL_NAMES:
        assert bool(nu_error(moments, side)[-2:].isnan().all())
        assert bool(nu_reconstruction(moments, side)[-2:].isnan().all())


def test_folding_normalization_into_the_weights_changes_nothing() -> None:
    pair = PlantedPair(counts=SMALL)
    crosscoder, values = pair.dictionary(), pair.sample(4000)
    with torch.no_grad():
        crosscoder.scale.mul_(torch.tensor([0.3, 4.0]))
        crosscoder.W_dec.mul_(torch.tensor([0.3, 4.0]).repeat_interleave(48))
        crosscoder.W_enc.copy_(torch.linalg.pinv(crosscoder.W_dec))
        crosscoder.b_dec.copy_(-crosscoder.mean * crosscoder.scale.repeat_interleave(48))
        crosscoder.b_enc.copy_(-crosscoder.b_dec @ crosscoder.W_enc)
    plain, folded = moments_of(crosscoder, values), moments_of(crosscoder.fold(), values)
    for side in MODEL_NAMES:
        assert torch.allclose(
            nu_error(plain, side), nu_error(folded, side), rtol=1e-3, atol=1e-3, equal_nan=True
        )
        assert torch.allclose(
            nu_reconstruction(plain, side), nu_reconstruction(folded, side), atol=1e-3, equal_nan=True
        )
