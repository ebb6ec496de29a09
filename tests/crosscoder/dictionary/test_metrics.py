import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosscoder.dictionary.metrics import (
    ReconstructionMeter,
    VarianceExplained,
    decoder_cosine,
    relative_norm,
)
from crosscoder.dictionary.sparse_latents import SparseLatents


def made_up(n_tokens: int = 200, d_model: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    actual = 3 + torch.randn(n_tokens, d_model, generator=generator)
    return actual, actual + 0.4 * torch.randn(n_tokens, d_model, generator=generator)


def fve(actual: Tensor, rebuilt: Tensor) -> float | None:
    meter = VarianceExplained()
    meter.update(actual, rebuilt)
    return meter.result()


def numpy_fve(actual: Tensor, rebuilt: Tensor) -> float:
    y, y_hat = actual.double().numpy(), rebuilt.double().numpy()
    return 1 - ((y - y_hat) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()


# --- variance explained -----------------------------------------------------------------------------------------------


def test_fve_is_one_for_a_perfect_and_zero_for_the_mean_reconstruction() -> None:
    actual, _ = made_up()
    assert fve(actual, actual) == 1
    assert fve(actual, actual.double().mean(dim=0).expand(200, 5)) == pytest.approx(0, abs=1e-12)
    assert (fve(actual, torch.zeros_like(actual)) or 0) < -5, (
        "predicting zero is worse than predicting the mean"
    )


def test_fve_is_the_numpy_reference() -> None:
    actual, rebuilt = made_up()
    assert fve(actual, rebuilt) == pytest.approx(numpy_fve(actual, rebuilt), rel=1e-12)
    assert 0.7 < numpy_fve(actual, rebuilt) < 0.95


def test_fve_is_a_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    """One large, well reconstructed token outweighs many small, badly reconstructed ones."""
    actual = torch.tensor([[100.0], [-100.0], [1.0], [-1.0]])
    rebuilt = torch.tensor([[100.0], [-100.0], [0.0], [0.0]])
    assert fve(actual, rebuilt) == pytest.approx(1 - 2 / 20002)


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 200), max_size=8),
    order=st.randoms(use_true_random=False),
    offset=st.sampled_from([0.0, 1.0, 300.0]),
)
def test_streaming_in_any_split_and_order_is_the_whole(cuts: list[int], order, offset: float) -> None:
    actual, rebuilt = made_up()
    actual, rebuilt = actual + offset, rebuilt + offset
    bounds = [0, *sorted(cuts), 200]
    pieces = list(zip(bounds[:-1], bounds[1:], strict=True))
    order.shuffle(pieces)
    meter = VarianceExplained()
    for start, stop in pieces:
        meter.update(actual[start:stop], rebuilt[start:stop])
    assert meter.result() == pytest.approx(numpy_fve(actual, rebuilt), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1234.567])
def test_fve_of_constant_activations_is_none(value: float) -> None:
    assert fve(torch.full((777, 5), value), torch.zeros(777, 5)) is None
    assert VarianceExplained().result() is None


def test_fve_of_faint_variation_on_an_offset_exists() -> None:
    """The control of the test above."""
    actual, rebuilt = made_up()
    result = fve(100 + 1e-3 * actual, 100 + 1e-3 * rebuilt)
    assert result == pytest.approx(numpy_fve(actual, rebuilt), rel=0.02)


# --- the meter of a pair ----------------------------------------------------------------------------------------------


def meter_of(actual: Tensor, rebuilt: Tensor, d_models: tuple[int, ...]) -> ReconstructionMeter:
    meter = ReconstructionMeter(d_models, 3)
    for start in range(0, len(actual), 64):
        part = slice(start, start + 64)
        meter.update(actual[part], rebuilt[part], SparseLatents.from_dense(torch.ones(len(actual[part]), 3)))
    return meter


def test_meter_of_a_pair_measures_each_model_and_the_difference() -> None:
    actual, rebuilt = made_up(d_model=10)
    actual[:, 5:] *= 20
    rebuilt[:, 5:] *= 20
    meter = meter_of(actual, rebuilt, (5, 5))
    for variance, part in zip(meter.per_model, (slice(0, 5), slice(5, 10)), strict=True):
        assert variance.result() == pytest.approx(numpy_fve(actual[:, part], rebuilt[:, part]), rel=1e-9)
    assert meter.difference is not None
    expected = numpy_fve(actual[:, 5:] - actual[:, :5], rebuilt[:, 5:] - rebuilt[:, :5])
    assert meter.difference.result() == pytest.approx(expected, rel=1e-6)


def test_a_good_reconstruction_of_both_models_can_miss_their_difference() -> None:
    """This is why the difference has a metric of its own."""
    actual, _ = made_up(d_model=10)
    actual[:, 5:] = actual[:, :5] + 0.01 * actual[:, 5:]
    rebuilt = torch.cat([actual[:, :5], actual[:, :5] + 0.03], dim=1)
    meter = meter_of(actual, rebuilt, (5, 5))
    assert meter.difference is not None
    assert (meter.per_model[1].result() or 0) > 0.99
    assert (meter.difference.result() or 0) < 0.1


def test_the_difference_of_identical_models_has_no_fve() -> None:
    actual, rebuilt = made_up(d_model=5)
    meter = meter_of(torch.cat([actual, actual], dim=1), torch.cat([rebuilt, rebuilt], dim=1), (5, 5))
    assert meter.difference is not None
    assert meter.difference.result() is None
    assert (
        meter.per_model[0].result()
        == meter.per_model[1].result()
        == pytest.approx(numpy_fve(actual, rebuilt))
    )


@pytest.mark.parametrize("d_models", [(10,), (4, 6), (4, 3, 3), (2, 4, 2, 2)])
def test_only_two_models_of_equal_width_have_a_difference(d_models: tuple[int, ...]) -> None:
    meter = meter_of(*made_up(d_model=10), d_models)
    assert meter.difference is None
    assert len(meter.per_model) == len(d_models)
    assert all(variance.result() is not None for variance in meter.per_model)


@pytest.mark.parametrize("d_models", [(3, 3, 4), (2, 2, 2, 4)])
def test_the_difference_is_that_of_the_two_ends(d_models: tuple[int, ...]) -> None:
    """Snapshots follow reference and intervened model on the axis, and do not affect their metrics."""
    actual, rebuilt = made_up(d_model=10)
    ends = 2 * d_models[0]
    of_all, of_ends = (
        meter_of(actual, rebuilt, d_models),
        meter_of(actual[:, :ends], rebuilt[:, :ends], d_models[:2]),
    )
    assert of_all.difference is not None and of_ends.difference is not None
    assert of_all.difference.result() == of_ends.difference.result()


def test_l0_and_dead_share_count_firings() -> None:
    meter = ReconstructionMeter((2,), 4)
    actual = torch.randn(3, 2)
    code = torch.tensor([[1.0, 0, 0, 0], [0.5, 2, 0, 0], [0, 0, 0, 0]])
    meter.update(actual, actual, SparseLatents.from_dense(code))
    meter.update(actual[:1], actual[:1], SparseLatents.from_dense(torch.tensor([[0.0, 1, 0, 0]])))
    assert meter.fired.tolist() == [2, 2, 0, 0]
    assert meter.l0() == 1.0
    assert meter.dead_share() == 0.5
    assert ReconstructionMeter((2,), 4).l0() == 0


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_relative_norm_is_the_intervened_share() -> None:
    result = relative_norm(torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([1.0, 3.0, 0.0, 0.0]))
    torch.testing.assert_close(result, torch.tensor([0.5, 1.0, 0.0, float("nan")]), equal_nan=True)


@settings(max_examples=50, deadline=None)
@given(reference=st.floats(0, 1e6), intervened=st.floats(1e-6, 1e6))
def test_swapping_the_models_maps_relative_norm_r_to_1_minus_r(reference: float, intervened: float) -> None:
    first, second = (
        torch.tensor([reference], dtype=torch.float64),
        torch.tensor([intervened], dtype=torch.float64),
    )
    result = relative_norm(first, second)
    assert 0 <= float(result) <= 1
    torch.testing.assert_close(relative_norm(second, first), 1 - result)


def test_geometry_does_not_change_when_both_decoders_are_rotated() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, intervened = torch.randn(2, 30, 8, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    before, after = (
        (relative_norm(a.norm(dim=1), b.norm(dim=1)), decoder_cosine(a, b))
        for a, b in ((reference, intervened), (reference @ rotation, intervened @ rotation))
    )
    for value, rotated in zip(before, after, strict=True):
        torch.testing.assert_close(rotated, value)
    # The control: rotating only one decoder changes the cosine.
    assert (decoder_cosine(reference, intervened @ rotation) - before[1]).abs().max() > 0.1


def test_decoder_cosine_is_numpys_and_stays_within_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, intervened = torch.randn(2, 30, 8, generator=generator)
    result = decoder_cosine(reference, intervened).numpy()
    a, b = reference.numpy(), intervened.numpy()
    expected = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert decoder_cosine(reference, 7 * reference).max() <= 1
    assert decoder_cosine(reference, -reference).min() >= -1
    assert decoder_cosine(torch.zeros(1, 8), reference[:1]).isnan().all()
