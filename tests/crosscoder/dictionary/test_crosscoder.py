import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from crosscoder.activations.batch import join_models, split_models
from crosscoder.config import BatchTopK, CrosscoderConfig
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder, initial_directions
from crosscoder.dictionary.metrics import relative_norm
from crosscoder.dictionary.sparsity import BatchTopKSparsity, JumpReLUSparsity, threshold_for
from crosscoder.dictionary.storage import load_crosscoder, save_crosscoder
from crosscoder.errors import DataError, FormatError
from crosscoder.planted import SMALL, PlantedPair
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder

every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def output(crosscoder: Crosscoder, latents: Tensor) -> Tensor:
    return join_models(crosscoder.decode(latents))


def assert_close_to(actual: Tensor, expected: Tensor, d_models: tuple[int, ...]) -> None:
    """Equal up to float32 rounding in the units of each model."""
    parts, expected_parts = (split_models(values.detach(), d_models) for values in (actual, expected))
    for part, expected_part in zip(parts, expected_parts, strict=True):
        torch.testing.assert_close(
            part, expected_part, rtol=1e-5, atol=2e-5 * float(expected_part.abs().max())
        )


# --- shapes -----------------------------------------------------------------------------------------------------------


@every_kind
@every_shape
def test_all_forms_of_activations_give_one_code(kind: str, shape: str) -> None:
    crosscoder, d_models = small_crosscoder(kind, shape), SHAPES[shape]
    values = raw_activations(d_models)
    latents = crosscoder.encode(values)
    assert latents.shape == (64, 24)
    assert 0 < int((latents > 0).sum()) < latents.numel()
    assert latents.min() == 0
    assert torch.equal(crosscoder.encode(list(split_models(values, d_models))), latents)
    if len(set(d_models)) == 1:
        assert torch.equal(crosscoder.encode(values.unflatten(1, (len(d_models), d_models[0]))), latents)


@every_shape
def test_decode_returns_the_form_that_the_widths_allow(shape: str) -> None:
    crosscoder, d_models = small_crosscoder("batch_topk", shape), SHAPES[shape]
    values = raw_activations(d_models)
    rebuilt = crosscoder(values)
    if len(set(d_models)) == 1:
        assert isinstance(rebuilt, Tensor)
        assert rebuilt.shape == (64, len(d_models), d_models[0])
    else:
        assert [tuple(part.shape) for part in rebuilt] == [(64, d_model) for d_model in d_models]
    assert torch.equal(join_models(rebuilt), output(crosscoder, crosscoder.encode(values)))


@pytest.mark.parametrize("bad", [torch.zeros(4, 13), torch.zeros(4, 3, 6)])
def test_activations_of_another_width_are_refused_by_name(bad: Tensor) -> None:
    with pytest.raises(
        DataError, match=r"activations: shape .* does not fit .*'reference', 'intervened'.* 6 \+ 6"
    ):
        small_crosscoder("relu", "two").encode(bad)


def test_a_single_token_without_its_axis_is_refused() -> None:
    with pytest.raises(DataError, match=r"activations: shape \(12,\) has no token axis"):
        small_crosscoder("relu", "two").encode(torch.zeros(12))


def test_low_precision_activations_are_encoded_in_the_precision_of_the_weights() -> None:
    crosscoder = small_crosscoder("relu", "two")
    latents = crosscoder.encode(raw_activations((6, 6)).bfloat16())
    assert latents.dtype == torch.float32


# --- the formula ------------------------------------------------------------------------------------------------------


@every_kind
@every_shape
def test_code_and_output_follow_the_written_formula(kind: str, shape: str) -> None:
    """x' = (x - mean)·scale; f = sparsity(x' W_enc + b_enc); x̂ = (f W_dec + b_dec)/scale + mean, model by model."""
    crosscoder, d_models = small_crosscoder(kind, shape), SHAPES[shape]
    values = raw_activations(d_models)
    blocks = [
        [part.detach() for part in split_models(values, d_models)],
        [part.detach() for part in split_models(crosscoder.mean[None], d_models)],
        [part.T.detach() for part in split_models(crosscoder.W_enc.T, d_models)],
        [part.detach() for part in split_models(crosscoder.W_dec, d_models)],
        [part.detach() for part in split_models(crosscoder.b_dec[None], d_models)],
    ]
    pre_latents = crosscoder.b_enc.detach().clone()
    for x, mean, encoder, _, _, scale in zip(*blocks, crosscoder.scale, strict=True):
        pre_latents = pre_latents + ((x - mean) * scale) @ encoder
    latents = crosscoder.sparsity.infer(pre_latents, sum(part.norm(dim=1) for part in blocks[3]))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(crosscoder.encode(values), latents, rtol=1e-4, atol=1e-4)
    rebuilt = [
        (latents @ decoder + bias) / scale + mean
        for _, mean, _, decoder, bias, scale in zip(*blocks, crosscoder.scale, strict=True)
    ]
    assert_close_to(output(crosscoder, latents), torch.cat(rebuilt, dim=1), d_models)


# --- symmetries -------------------------------------------------------------------------------------------------------


def rescaled_copy(crosscoder: Crosscoder, factor: Tensor) -> Crosscoder:
    """Multiply decoder rows by `factor`, and divide the code by it."""
    copied = Crosscoder(crosscoder.config)
    copied.load_state_dict(crosscoder.state_dict())
    with torch.no_grad():
        copied.W_dec.mul_(factor[:, None])
        copied.W_enc.div_(factor)
        copied.b_enc.div_(factor)
        if isinstance(copied.sparsity, JumpReLUSparsity):
            copied.sparsity.log_threshold.sub_(factor.log())
    return copied


@every_kind
@every_shape
def test_rescaling_a_row_and_its_code_changes_neither_selection_nor_output(kind: str, shape: str) -> None:
    crosscoder, d_models = small_crosscoder(kind, shape), SHAPES[shape]
    values, factor = raw_activations(d_models), torch.logspace(-2, 2, 24)
    rescaled = rescaled_copy(crosscoder, factor)
    latents, rescaled_latents = crosscoder.encode(values), rescaled.encode(values)
    assert torch.equal(latents > 0, rescaled_latents > 0)
    torch.testing.assert_close(rescaled_latents * factor, latents, rtol=1e-4, atol=1e-5)
    assert_close_to(output(rescaled, rescaled_latents), output(crosscoder, latents), d_models)
    # Under the training rule, too.
    normalized = crosscoder.normalize(values)
    trained, rescaled_trained = (
        each.sparsity(each.pre_latents(normalized), each.score_norms()) for each in (crosscoder, rescaled)
    )
    assert torch.equal(trained > 0, rescaled_trained > 0)


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
def test_rescaling_would_change_the_selection_were_norms_ignored(kind: str) -> None:
    """The control of the test above: without norms, rescaling changes the selection."""
    crosscoder = small_crosscoder(kind, "two")
    normalized = crosscoder.normalize(raw_activations((6, 6)))
    rescaled = rescaled_copy(crosscoder, torch.logspace(-2, 2, 24))
    first, second = (
        each.sparsity(each.pre_latents(normalized), torch.ones(24)) > 0 for each in (crosscoder, rescaled)
    )
    assert not torch.equal(first, second)


@every_kind
@pytest.mark.parametrize("shape", ["two", "two_unequal"])
def test_swapping_the_models_swaps_the_outputs_and_maps_relative_norm_r_to_1_minus_r(
    kind: str, shape: str
) -> None:
    crosscoder, d_models = small_crosscoder(kind, shape), SHAPES[shape]
    swap = torch.arange(sum(d_models)).roll(-d_models[0])
    config = crosscoder.config.model_copy(update={"d_models": d_models[::-1]})
    swapped = Crosscoder(config)
    state = {name: value.clone() for name, value in crosscoder.state_dict().items()}
    for name in ("W_enc", "b_dec", "mean"):
        state[name] = state[name][swap]
    state["W_dec"] = state["W_dec"][:, swap]
    for name in ("scale", "score_scale"):
        state[name] = state[name].flip(0)
    swapped.load_state_dict(state)
    values = raw_activations(d_models)
    latents = crosscoder.encode(values)
    torch.testing.assert_close(swapped.encode(values[:, swap]), latents, rtol=1e-4, atol=1e-4)
    assert_close_to(output(swapped, latents), output(crosscoder, latents)[:, swap], d_models[::-1])
    r, swapped_r = (relative_norm(*each.decoder_norms().T) for each in (crosscoder, swapped))
    torch.testing.assert_close(swapped_r, 1 - r)
    assert (r - 0.5).abs().max() > 0.05, "the norms differ, so that the swap can be seen"


@every_kind
def test_permuting_the_latents_permutes_the_code_and_nothing_else(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two")
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    permuted = Crosscoder(crosscoder.config)
    state = {name: value.clone() for name, value in crosscoder.state_dict().items()}
    state["W_enc"] = state["W_enc"][:, order]
    for name in ("W_dec", "b_enc", *(name for name in state if name.endswith("log_threshold"))):
        state[name] = state[name][order]
    permuted.load_state_dict(state)
    values = raw_activations((6, 6))
    torch.testing.assert_close(
        permuted.encode(values), crosscoder.encode(values)[:, order], rtol=1e-4, atol=1e-5
    )
    assert_close_to(join_models(permuted(values)), join_models(crosscoder(values)), (6, 6))


@every_kind
def test_code_of_a_token_does_not_depend_on_the_batch(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two_unequal")
    values = raw_activations((5, 8))
    together = crosscoder.encode(values)
    beside_others = crosscoder.encode(torch.cat([50 * raw_activations((5, 8), seed=9), values]))[64:]
    torch.testing.assert_close(beside_others, together, rtol=1e-5, atol=1e-5)
    alone = torch.cat([crosscoder.encode(row[None]) for row in values])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


# --- normalization ----------------------------------------------------------------------------------------------------


@every_shape
def test_normalization_centers_and_scales_each_model_by_one_number(shape: str) -> None:
    crosscoder, d_models = small_crosscoder("relu", shape), SHAPES[shape]
    sample = raw_activations(d_models, 512, seed=7)
    normalized = crosscoder.normalize(sample)
    assert normalized.mean(dim=0).abs().max() < 1e-4
    for part, d_model in zip(split_models(normalized, d_models), d_models, strict=True):
        assert float(part.square().sum(dim=1).mean()) == pytest.approx(d_model, rel=1e-4)
    assert_close_to(crosscoder.denormalize(normalized), sample, d_models)
    for part in split_models(sample, d_models):
        assert abs(float(part.square().sum(dim=1).mean()) / part.shape[1] - 1) > 0.5, (
            "raw activations were not normalized"
        )


def test_scaling_or_shifting_one_model_is_undone() -> None:
    crosscoder, sample = small_crosscoder("relu", "two_unequal"), raw_activations((5, 8), 512, seed=7)
    before = crosscoder.normalize(sample)
    moved = sample.clone()
    moved[:, :5] = 37 * moved[:, :5] - 4
    assert not torch.allclose(crosscoder.normalize(moved), before, atol=1e-2)
    crosscoder.set_normalization(moved)
    torch.testing.assert_close(crosscoder.normalize(moved), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 1e-6])
def test_a_model_whose_activations_do_not_vary_is_refused_by_name(value: float) -> None:
    sample = raw_activations((6, 6), 1000)
    sample[:, 6:] = value
    with pytest.raises(DataError, match="activations of 'intervened': all 1000 sampled tokens are equal"):
        small_crosscoder("relu", "two").set_normalization(sample)


def test_faint_variation_on_a_large_offset_is_not_mistaken_for_none() -> None:
    crosscoder, sample = small_crosscoder("relu", "two"), raw_activations((6, 6), 1000)
    sample[:, 6:] = 100 + 1e-3 * sample[:, 6:]
    crosscoder.set_normalization(sample)
    assert float(crosscoder.normalize(sample)[:, 6:].square().sum(dim=1).mean()) == pytest.approx(6, rel=1e-2)


# --- fold -------------------------------------------------------------------------------------------------------------


def assert_equal_dictionaries(first: Crosscoder, second: Crosscoder, values: Tensor) -> None:
    latents, others = first.encode(values), second.encode(values)
    assert torch.equal(latents > 0, others > 0)
    torch.testing.assert_close(others, latents, rtol=1e-3, atol=1e-4)
    assert_close_to(join_models(second(values)), join_models(first(values)), first.config.d_models)


@every_kind
@every_shape
def test_fold_changes_neither_latents_nor_outputs(kind: str, shape: str, tmp_path) -> None:
    """Also after saving and loading, and after folding twice (other tools fold only the biases, or omit the threshold)."""
    crosscoder, d_models = small_crosscoder(kind, shape), SHAPES[shape]
    values = raw_activations(d_models)
    folded = crosscoder.fold()
    assert torch.equal(folded.mean, torch.zeros(sum(d_models)))
    assert torch.equal(folded.scale, torch.ones(len(d_models)))
    assert_equal_dictionaries(crosscoder, folded, values)
    save_crosscoder(folded, tmp_path)
    assert_equal_dictionaries(crosscoder, load_crosscoder(tmp_path).fold(), values)
    for raw, again in zip(crosscoder.raw_decoder(), folded.raw_decoder(), strict=True):
        torch.testing.assert_close(again, raw, rtol=1e-5, atol=1e-6)


@every_kind
def test_fold_leaves_the_original_alone(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two")
    before = {name: value.clone() for name, value in crosscoder.state_dict().items()}
    folded = crosscoder.fold()
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in crosscoder.state_dict().items())


def test_fold_keeps_precision_and_mode() -> None:
    folded = small_crosscoder("batch_topk", "two").double().fold()
    assert folded.W_enc.dtype == torch.float64
    assert not folded.training


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
def test_fold_comparison_notices_scores_in_raw_units(kind: str) -> None:
    """The control: without score_scale, a folded dictionary selects other latents."""
    crosscoder = small_crosscoder(kind, "two")
    folded = crosscoder.fold()
    folded.score_scale.fill_(1)
    with pytest.raises(AssertionError):
        assert_equal_dictionaries(crosscoder, folded, raw_activations((6, 6)))


# --- calibration ------------------------------------------------------------------------------------------------------


def uncalibrated(k: int = 4) -> Crosscoder:
    config = CrosscoderConfig(
        d_models=(48, 48), model_names=model_names(2), n_latents=96, sparsity=BatchTopK(k=k)
    )
    crosscoder = Crosscoder(config)
    crosscoder.set_normalization(PlantedPair().sample(2000, seed=1))
    return crosscoder


def test_encoding_without_calibration_is_refused() -> None:
    with pytest.raises(FormatError, match="never calibrated"):
        uncalibrated().encode(PlantedPair().sample(10))


@pytest.mark.parametrize("k", [1, 4, 17])
def test_calibrated_l0_is_k_on_the_sample_and_within_5_percent_on_fresh_tokens(k: int) -> None:
    crosscoder, pair = uncalibrated(k), PlantedPair()
    sample = pair.sample(6000, seed=1)
    crosscoder.calibrate(sample)
    assert float((crosscoder.encode(sample) > 0).sum()) / 6000 == pytest.approx(k, rel=1e-3)
    fresh = crosscoder.encode(pair.sample(6000, seed=2))
    assert float((fresh > 0).sum()) / 6000 == pytest.approx(k, rel=0.05)
    # The control: another threshold gives another L0.
    crosscoder.sparsity.get_buffer("threshold").mul_(0.7)
    assert float((crosscoder.encode(sample) > 0).sum()) / 6000 > 1.06 * k


@pytest.mark.parametrize("chunk", [1, 37, 999, 1000, 5000])
def test_calibration_in_chunks_is_calibration_of_the_whole(chunk: int) -> None:
    crosscoder, sample = uncalibrated(), PlantedPair().sample(1000, seed=1)
    crosscoder.calibrate(sample, chunk=chunk)
    with torch.no_grad():
        scores = crosscoder.pre_latents(crosscoder.normalize(sample)).relu() * crosscoder.score_norms()
    whole = threshold_for(scores.flatten(), 4000)
    assert float(crosscoder.sparsity.get_buffer("threshold")) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "batch_topk"])
def test_calibration_changes_nothing_of_the_other_kinds(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two")
    before = {name: value.clone() for name, value in crosscoder.state_dict().items()}
    crosscoder.calibrate(raw_activations((6, 6)))
    assert all(torch.equal(value, before[name]) for name, value in crosscoder.state_dict().items())


def test_calibration_without_tokens_is_refused() -> None:
    crosscoder = uncalibrated()
    with pytest.raises(DataError, match="no tokens"):
        crosscoder.calibrate(torch.zeros(0, 96))
    assert isinstance(crosscoder.sparsity, BatchTopKSparsity)
    assert crosscoder.sparsity.threshold.isnan()


# --- initialization ---------------------------------------------------------------------------------------------------


@every_shape
def test_initial_dictionary_has_the_requested_norm_and_a_transposed_encoder(shape: str) -> None:
    d_models = SHAPES[shape]
    config = CrosscoderConfig(
        d_models=d_models, model_names=model_names(len(d_models)), n_latents=24, sparsity=KINDS["relu"]
    )
    crosscoder = Crosscoder(config, decoder_norm=0.4, seed=1)
    torch.testing.assert_close(crosscoder.decoder_norms(), torch.full((24, len(d_models)), 0.4))
    assert torch.equal(crosscoder.W_enc, crosscoder.W_dec.T)
    assert crosscoder.W_enc.data_ptr() != crosscoder.W_dec.data_ptr()
    assert torch.equal(crosscoder.W_dec, Crosscoder(config, decoder_norm=0.4, seed=1).W_dec)
    assert not torch.equal(crosscoder.W_dec, Crosscoder(config, decoder_norm=0.4, seed=2).W_dec)


def test_models_of_equal_width_start_aligned() -> None:
    def blocks(shape: str) -> tuple[Tensor, ...]:
        d_models = SHAPES[shape]
        config = CrosscoderConfig(
            d_models=d_models, model_names=model_names(len(d_models)), n_latents=24, sparsity=KINDS["relu"]
        )
        return split_models(initial_directions(config, 0), d_models)

    first, second, third = blocks("three")
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not torch.equal(*(part[:, :5] for part in blocks("two_unequal")))


def test_exact_dictionary_rebuilds_a_planted_pair_up_to_its_noise() -> None:
    """End to end on a case with a known answer: latent i is the magnitude of feature i."""
    pair = PlantedPair(counts=SMALL)
    crosscoder = pair.dictionary()
    values, magnitudes = pair.sample(500, seed=3), pair.magnitudes(500, seed=3)
    latents = crosscoder.encode(values).detach()
    assert (latents - magnitudes).abs().max() < 0.25
    assert float((latents - magnitudes).square().mean().sqrt()) < 0.05
    residual = (values - join_models(crosscoder.decode(latents))).detach()
    assert float(residual.square().mean().sqrt()) < 2 * pair.noise


# --- exclusive and tied latents ---------------------------------------------------------------------------------------


def constrained(d_models: tuple[int, ...], n_exclusive: int, n_tied: int) -> Crosscoder:
    config = CrosscoderConfig(
        d_models=d_models,
        model_names=model_names(len(d_models)),
        n_latents=24,
        sparsity=BatchTopK(k=6),
        n_exclusive=n_exclusive,
        n_tied=n_tied,
    )
    return Crosscoder(config, seed=3)


@pytest.mark.parametrize(("d_models", "n_tied"), [((6, 6), 0), ((6, 6), 5), ((4, 4, 4), 5), ((5, 8), 0)])
def test_exclusive_and_tied_latents_keep_their_form_through_the_optimizer(
    d_models: tuple[int, ...], n_tied: int
) -> None:
    """Bit for bit, with weight decay and momentum, while the unconstrained latents are trained."""
    crosscoder, n_models = constrained(d_models, 3, n_tied), len(d_models)
    before = crosscoder.W_dec.detach().clone()
    optimizer = torch.optim.AdamW(crosscoder.parameters(), lr=0.05, weight_decay=0.1)
    values = torch.randn(64, sum(d_models), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        optimizer.zero_grad()
        latents = crosscoder.sparsity(crosscoder.pre_latents(values), crosscoder.score_norms())
        (values - crosscoder.rebuild(latents)).square().sum().backward()
        crosscoder.constrain_gradients()
        optimizer.step()
    decoder, encoder = split_models(crosscoder.W_dec, d_models), split_models(crosscoder.W_enc.T, d_models)
    for owner in range(n_models):
        latents = slice(3 * owner, 3 * owner + 3)
        for model in range(n_models):
            for part in (decoder[model], encoder[model]):
                assert bool((part[latents] == 0).all()) == (model != owner)
    if n_tied:
        first = 3 * n_models
        for part in decoder[1:]:
            assert torch.equal(part[first : first + n_tied], decoder[0][first : first + n_tied])
            assert not torch.equal(part[first + n_tied :], decoder[0][first + n_tied :])
    assert (crosscoder.W_dec != before)[crosscoder.W_dec != 0].float().mean() > 0.9


def test_more_exclusive_and_tied_latents_than_there_are() -> None:
    with pytest.raises(ValidationError, match="26 exclusive and tied latents, but there are only 24"):
        constrained((6, 6), 10, 6)
    with pytest.raises(ValidationError, match="tied latents need models of equal width"):
        constrained((5, 8), 0, 6)
