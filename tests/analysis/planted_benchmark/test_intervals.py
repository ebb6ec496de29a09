"""Intervals of shares of labels that come in clusters."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from analysis.planted_benchmark.intervals import clustered_share


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_it_covers_the_true_share_whatever_the_correlation(correlation: float) -> None:
    """100 draws of 25 clusters of 8 to 30 labels, with a share of 6 %: at least 92 % of the intervals hold it."""
    generator, share = np.random.default_rng(0), 0.06
    held = 0
    for _ in range(100):
        totals = generator.integers(8, 30, 25)
        size = (1 - correlation) / correlation if correlation else math.inf
        shares = generator.beta(share * size, (1 - share) * size, 25) if correlation else np.full(25, share)
        counts = generator.binomial(totals, shares)
        _, low, high = clustered_share(counts.tolist(), totals.tolist())
        held += low <= share <= high
    assert held >= 92


def test_many_independent_labels_have_nearly_the_exact_binomial_interval() -> None:
    counts = [1] * 20 + [0] * 180
    share, low, high = clustered_share(counts, [10] * 200)
    exact = binomtest(20, 2000).proportion_ci(method="exact")
    assert share == 0.01
    assert low == pytest.approx(exact.low, rel=0.1) and high == pytest.approx(exact.high, rel=0.1)


def test_labels_that_err_together_say_less() -> None:
    """The same 20 of 2000, in two clusters or in twenty."""
    apart, together = [1] * 20 + [0] * 180, [10] * 2 + [0] * 198
    one, other = (clustered_share(counts, [10] * 200) for counts in (apart, together))
    assert one[0] == other[0]
    assert other[2] - other[1] > 2 * (one[2] - one[1])


def test_without_an_error_pairs_count_and_not_labels() -> None:
    """Five pairs without a false label leave half of all pairs possible, with ten labels each as with a hundred."""
    few, many = clustered_share([0] * 5, [10] * 5), clustered_share([0] * 5, [100] * 5)
    assert few[:2] == many[:2] == (0.0, 0.0)
    assert few[2] == pytest.approx(many[2], rel=0.05) and 0.4 < few[2] < 0.6
    assert clustered_share([0] * 100, [20] * 100)[2] < 0.03


def test_exchanging_right_and_wrong_exchanges_the_bounds() -> None:
    counts, totals = [3, 0, 5, 1, 0, 2], [10, 8, 12, 9, 11, 7]
    share, low, high = clustered_share(counts, totals)
    other = clustered_share([n - k for k, n in zip(counts, totals, strict=True)], totals)
    assert other == pytest.approx((1 - share, 1 - high, 1 - low), abs=1e-6)


def test_nothing_and_one_cluster() -> None:
    nothing = clustered_share([0, 0], [0, 0])
    assert math.isnan(nothing[0]) and nothing[1:] == (0.0, 1.0)
    assert clustered_share([2, 0], [10, 0]) == (0.2, 0.0, 1.0)
