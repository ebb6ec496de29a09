"""Tests and intervals of rates, against published examples and simulations."""

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency, fisher_exact

from analysis.discovery.rates import auroc, depends_on, difference, information, more_often, wilson


def test_wilson_agrees_with_scipy() -> None:
    for count, n in ((0, 10), (3, 10), (10, 10), (97, 100)):
        expected = binomtest(count, n).proportion_ci(method="wilson")
        assert wilson(count, n)[1:] == pytest.approx((expected.low, expected.high))


def test_a_difference_agrees_with_a_published_example() -> None:
    """Newcombe (1998), Table II: (a) 56 of 70 against 48 of 80; equal groups here, so (h) 10 of 10 against 0 of 10."""
    assert difference(10, 0, 10)[1:] == pytest.approx((0.6075, 1.0), abs=1e-4)
    assert difference(0, 10, 10)[1:] == pytest.approx((-1.0, -0.6075), abs=1e-4)
    assert difference(5, 5, 10).value == 0


def shown(*spans: tuple[bool, int]) -> np.ndarray:
    return np.concatenate([np.full(n, value) for value, n in spans])


def test_mcnemar_counts_only_prompts_on_which_the_models_disagree() -> None:
    more, less = shown((True, 12), (False, 8)), shown((True, 4), (False, 6), (True, 3), (False, 7))
    expected = binomtest(6, 7, alternative="greater").pvalue
    assert more_often(more, less) == pytest.approx(expected)
    assert more_often(more, more) == 1


def test_a_trigger_is_tested_as_fisher_does() -> None:
    changed, condition = shown((True, 9), (False, 21)), shown((True, 7), (False, 12), (True, 3), (False, 8))
    table = [[7, 3], [2, 18]]
    assert depends_on(changed, condition) == pytest.approx(fisher_exact(table, alternative="greater")[1])


@pytest.mark.parametrize(("count", "other", "n"), [(59, 27, 157), (1, 9, 10), (30, 30, 31)])
def test_information_is_half_of_the_g_statistic(count: int, other: int, n: int) -> None:
    table = [[count, n - count], [other, n - other]]
    statistic = chi2_contingency(table, correction=False, lambda_="log-likelihood")[0]
    assert information(count, other, n) == pytest.approx(float(statistic) / 2)  # pyright: ignore[reportArgumentType]


def test_what_one_model_never_says_tells_more_than_what_both_say_if_as_many_answers_differ() -> None:
    assert information(0, 30, 150) > information(30, 60, 150) > information(40, 40, 150) == 0
    assert information(0, 50, 50) == pytest.approx(100 * np.log(2))


def test_models_that_answer_alike_are_told_apart_no_more_often_than_the_level_says() -> None:
    """Whatever the rates of the prompts are."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3000):
        rates = rng.beta(0.3, 0.6, size=60)
        found.append(more_often(rng.random(60) < rates, rng.random(60) < rates))
    for level in (0.2, 0.05, 0.01):
        assert np.mean(np.array(found) <= level) <= level + 3 * np.sqrt(level / 3000)


def test_a_perfect_separation_has_an_interval() -> None:
    found = auroc(shown((True, 10), (False, 30)), np.r_[np.ones(10), np.zeros(30)])
    assert found is not None
    assert found.value == 1 and 0.8 < found.low < 0.99 and found.high == 1


def test_an_area_is_mirrored_with_its_score() -> None:
    rng = np.random.default_rng(1)
    positive, score = rng.random(80) < 0.3, rng.normal(size=80)
    one, other = auroc(positive, score), auroc(positive, -score)
    assert one is not None and other is not None
    assert one.low < one.value < one.high
    assert (one.value, one.low, one.high) == pytest.approx((1 - other.value, 1 - other.high, 1 - other.low))
    assert auroc(np.ones(5, dtype=bool), np.arange(5.0)) is None


def test_the_interval_of_an_area_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    positive = shown((True, 25), (False, 60))
    inside = []
    for _ in range(600):
        found = auroc(positive, rng.normal(size=85) + 1.2 * positive)
        assert found is not None
        inside.append(found.low <= 0.8019 <= found.high)
    assert np.mean(inside) >= 0.93
