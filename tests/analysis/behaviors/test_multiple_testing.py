"""Corrections for many tests."""

import numpy as np
import pytest
from scipy.stats import binom

from analysis.behaviors.multiple_testing import (
    benjamini_hochberg,
    draws_for_benjamini_hochberg,
    draws_for_holm,
    holm,
    significant,
)


def test_holm_multiplies_the_smallest_by_all_tests_and_keeps_the_order() -> None:
    assert holm(np.array([0.04, 0.01, 0.5])).tolist() == pytest.approx([0.08, 0.03, 0.5])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert not len(holm(np.zeros(0))) and not len(benjamini_hochberg(np.zeros(0)))


def test_holm_bounds_the_chance_of_any_false_claim_where_plain_tests_do_not() -> None:
    generator, runs = np.random.default_rng(0), 2000
    drawn = generator.uniform(size=(runs, 20))
    false = sum(any(significant(p, 0.95) for p in holm(row)) for row in drawn)
    assert false <= binom.ppf(0.999, runs, 0.05)
    assert (drawn.min(axis=1) <= 0.05).mean() > 0.5


def test_benjamini_hochberg_bounds_the_share_of_false_claims_among_true_ones() -> None:
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(1000):
        p_values = np.concatenate([generator.uniform(size=15), np.full(5, 1e-4)])
        claimed = benjamini_hochberg(p_values) <= 0.05
        assert claimed[15:].all()
        shares.append(claimed[:15].sum() / claimed.sum())
    assert np.mean(shares) <= 0.05


@pytest.mark.parametrize(("n_tests", "confidence"), [(2, 0.95), (1, 0.95), (2, 0.99), (2, 0.5)])
def test_holm_needs_as_many_draws_as_it_says(n_tests: int, confidence: float) -> None:
    needed = draws_for_holm(n_tests, confidence)
    for draws, enough in ((needed, True), (needed - 1, False)):
        p_values = np.array([1 / (1 + draws)] + [1.0] * (n_tests - 1))
        assert significant(float(holm(p_values)[0]), confidence) is enough


@pytest.mark.parametrize(("n_tests", "n_significant"), [(20, 2), (22, 2), (10, 1), (4, 2)])
def test_benjamini_hochberg_needs_as_many_draws_as_it_says(n_tests: int, n_significant: int) -> None:
    needed = draws_for_benjamini_hochberg(n_tests, n_significant, 0.95)
    for draws, enough in ((needed, True), (needed - 1, False)):
        p_values = np.array([1 / (1 + draws)] * n_significant + [1.0] * (n_tests - n_significant))
        assert significant(float(benjamini_hochberg(p_values)[0]), 0.95) is enough


def test_the_defaults_need_the_draws_that_the_docs_name() -> None:
    assert draws_for_holm(2, 0.95) == 39 and draws_for_benjamini_hochberg(20, 2, 0.95) == 199
