"""Transforms: what each preserves, and what it removes."""

import pytest
import torch

from crosscoder.activations.batch import split_models
from crosscoder.activations.control_transforms import (
    MixedDifference,
    ReducedPrecision,
    ShuffledTokens,
    TransformedReader,
    mean_keeping_rotation,
)
from crosscoder.planted import PlantedPair
from tests.training.in_memory import InMemoryReader

D_MODELS = (48, 48)


@pytest.fixture(scope="module")
def values() -> torch.Tensor:
    return PlantedPair(0).sample(2000, seed=1)


def test_reduced_precision_changes_only_the_last_digits(values: torch.Tensor) -> None:
    reference, coarse = split_models(ReducedPrecision(D_MODELS).apply(values), D_MODELS)
    assert torch.equal(reference, values[:, :48])
    assert not torch.equal(coarse, reference)
    assert float(((coarse - reference) / reference).abs().max()) <= 1 / 32
    assert torch.equal(
        ReducedPrecision(D_MODELS).apply(values[5:9]), ReducedPrecision(D_MODELS).apply(values)[5:9]
    )


def test_reduced_precision_replaces_an_intervened_model_of_any_width() -> None:
    transform = ReducedPrecision((5, 8))
    assert transform.widths((5, 8)) == (5, 5)
    assert transform.apply(torch.randn(3, 13)).shape == (3, 10)


def test_shuffled_tokens_keep_each_model_and_no_pairing(values: torch.Tensor) -> None:
    shuffled = ShuffledTokens(D_MODELS).apply(values)
    assert torch.equal(shuffled[:, :48], values[:, :48])
    assert torch.equal(shuffled[:, 48:], values[:, 48:].roll(1000, 0))

    def cross(rows: torch.Tensor) -> float:
        one, other = (part - part.mean(0) for part in split_models(rows, D_MODELS))
        return float((one.T @ other / len(rows)).square().sum())

    assert cross(shuffled) < 0.05 * cross(values)


def test_mixed_difference_keeps_mean_and_covariance_and_removes_sparse_structure(
    values: torch.Tensor,
) -> None:
    mixed = MixedDifference(D_MODELS).apply(values)
    assert torch.equal(mixed[:, :48], values[:, :48])
    before, after = (rows[:, 48:] - rows[:, :48] for rows in (values, mixed))
    torch.testing.assert_close(before.mean(0), after.mean(0), atol=1e-5, rtol=0)
    covariances = [torch.cov(rows.T) for rows in (before, after)]
    assert float((covariances[1] - covariances[0]).norm() / covariances[0].norm()) < 0.2

    def kurtosis(rows: torch.Tensor) -> float:
        centered = rows - rows.mean(0)
        return float((centered**4).mean() / (centered**2).mean() ** 2)

    assert kurtosis(before) > 4.5, "what is planted is sparse"
    assert kurtosis(after) == pytest.approx(3, abs=1), "a normal distribution has 3"


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_mixing_is_orthogonal_and_keeps_the_mean(size: int) -> None:
    weights = mean_keeping_rotation(size)
    torch.testing.assert_close(weights @ weights.T, torch.eye(size), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights @ torch.ones(size), torch.ones(size), atol=1e-5, rtol=0)
    if size > 2:
        assert float(weights.diagonal().abs().max()) < 0.9


@pytest.mark.parametrize("transform", [ReducedPrecision, ShuffledTokens, MixedDifference])
@pytest.mark.parametrize("n_tokens", [1, 2, 65])
def test_batches_of_any_size_are_transformed(transform: type[ReducedPrecision], n_tokens: int) -> None:
    rows = torch.randn(n_tokens, 12)
    changed = transform((6, 6)).apply(rows)
    assert changed.shape == (n_tokens, 12) and changed.isfinite().all()
    assert torch.equal(changed, transform((6, 6)).apply(rows)), "the same tokens, the same answer"


def test_a_reader_returns_transformed_tokens(values: torch.Tensor) -> None:
    reader = TransformedReader(InMemoryReader(values[:100], D_MODELS), ReducedPrecision(D_MODELS))
    assert (reader.n_tokens, reader.d_models) == (100, D_MODELS)
    whole = torch.cat([batch.values for batch in reader.batches(30)])
    assert torch.equal(whole, ReducedPrecision(D_MODELS).apply(values[:100]))
    assert torch.equal(reader.gather(torch.tensor([4, 7])).values, whole[[4, 7]])
