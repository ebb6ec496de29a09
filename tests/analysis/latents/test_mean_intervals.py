"""Intervals of a mean: what Student's t and Hall's transformation say of known samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from analysis.latents.mean_intervals import (
    Sample,
    _untransformed,
    effective_freedom,
    margins,
    sample_of,
    transformed,
    zero_mean_p_value,
)

SKEWED = np.random.default_rng(0).lognormal(0, 1, (15, 4))


def test_a_symmetric_sample_has_the_interval_of_student() -> None:
    values = np.r_[-3.0, -1, -1, 0, 0, 0, 0, 1, 1, 3][:, None]
    below, above = margins(sample_of(values), 0.95)
    expected = student.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(10)
    assert below == pytest.approx(expected)
    assert above == pytest.approx(expected)


def test_the_interval_is_longer_on_the_side_of_the_long_tail() -> None:
    below, above = margins(sample_of(SKEWED), 0.95)
    assert (above > below).all()
    mirrored = margins(sample_of(-SKEWED), 0.95)
    assert np.allclose(mirrored.below, above) and np.allclose(mirrored.above, below)


def test_the_interval_moves_and_scales_with_the_values() -> None:
    below, above = margins(sample_of(SKEWED), 0.95)
    moved = margins(sample_of(10 * SKEWED - 7), 0.95)
    assert np.allclose(moved.below, 10 * below) and np.allclose(moved.above, 10 * above)


@given(st.floats(-4, 4), st.floats(-12, 12), st.integers(5, 200))
def test_the_transformation_is_inverted(bound: float, skewness: float, n: int) -> None:
    sample = Sample(*(np.array([value], dtype=np.float64) for value in (n, 0.0, 1.0, skewness, n - 1)))
    relative = _untransformed(np.array([bound]), sample)
    assert np.sqrt(n) * transformed(relative, sample.skewness, sample.n) == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.8, 3.0])
def test_the_p_value_is_where_the_interval_reaches_zero(offset: float) -> None:
    sample = sample_of(SKEWED - offset)
    for latent, p_value in enumerate(zero_mean_p_value(sample)):
        below, above = margins(sample, 1 - p_value)
        bound = sample.mean - below if sample.mean[latent] > 0 else sample.mean + above
        assert bound[latent] == pytest.approx(0, abs=1e-6)


def test_samples_without_spread() -> None:
    values = np.stack([np.zeros(12), np.full(12, 0.1), np.full(12, -7.3)], axis=1)
    sample = sample_of(values)
    assert zero_mean_p_value(sample).tolist() == [1, 0, 0]
    assert np.allclose(margins(sample, 0.95), 0)


def test_uncounted_items_do_not_matter() -> None:
    counted = np.arange(15)[:, None] < [15, 12, 8, 2]
    found = margins(sample_of(np.where(counted, SKEWED, 1e9), counted), 0.95)
    for column, n in enumerate((15, 12, 8)):
        alone = margins(sample_of(SKEWED[:n, [column]]), 0.95)
        assert (found.below[column], found.above[column]) == pytest.approx((alone.below[0], alone.above[0]))
    assert np.isnan(found.below[3]), "two items have no skewness"


def test_degrees_of_freedom_count_the_items_that_carry_the_variance() -> None:
    evenly = np.tile([1.0, -1.0], 10)
    one = np.r_[1.0, np.zeros(19)]
    found = effective_freedom(np.stack([evenly, one], axis=1), np.ones((20, 2), dtype=bool))
    assert found[0] == 19, "all carry the same"
    assert 1 < found[1] < 3
    normal = np.random.default_rng(0).normal(size=(20, 200))
    assert 12 < np.median(effective_freedom(normal, np.ones((20, 200), dtype=bool))) < 19


def test_a_skewed_mean_is_covered_where_student_falls_short() -> None:
    """Of 4,000 lognormal samples of 20, 95 % intervals contain the mean in at least 93 %; Student's in fewer than 90 %."""
    values = np.random.default_rng(1).lognormal(0, 1, (20, 4000))
    sample, truth = sample_of(values), np.exp(0.5)
    below, above = margins(sample, 0.95)
    covered = (sample.mean - below <= truth) & (truth <= sample.mean + above)
    assert 0.93 <= covered.mean() <= 0.97
    student_reach = student.ppf(0.975, 19) * sample.deviation / np.sqrt(20)
    assert np.mean(np.abs(sample.mean - truth) <= student_reach) < 0.9
