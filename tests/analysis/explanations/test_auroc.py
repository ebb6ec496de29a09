"""The area counts pairs, and its interval holds what it should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.explanations.auroc import auroc, percentile_interval
from analysis.hashing import block_of
from analysis.intervals import resample_weights


def naive(positive: np.ndarray, score: np.ndarray) -> float:
    """Every pair of a positive and a negative, one by one."""
    won = [
        1.0 if above > below else 0.5 if above == below else 0.0
        for above in score[positive]
        for below in score[~positive]
    ]
    return float(np.mean(won))


def found(positive: np.ndarray, score: np.ndarray, document: np.ndarray, seed: int = 0):
    weights = resample_weights(400, 64, seed).numpy()
    return auroc(positive, score, block_of(document, 64, seed), weights, 0.95)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-2, 3)), min_size=2, max_size=40))
def test_it_is_the_share_of_pairs_in_the_right_order(items: list[tuple[bool, int]]) -> None:
    positive, score = np.array([item[0] for item in items]), np.array([item[1] for item in items])
    value = found(positive, score, np.arange(len(items))).value
    if positive.all() or not positive.any():
        assert np.isnan(value)
    else:
        assert value == pytest.approx(naive(positive, score), abs=1e-12)


def test_a_score_that_knows_nothing_is_at_half_and_the_interval_says_so() -> None:
    """Of 40 such scores about 2 intervals may miss."""
    missed = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        document = np.arange(6000) // 30
        area = found(random.random(6000) < 0.02, random.random(6000) < 0.1, document, seed)
        assert abs(area.value - 0.5) < 0.12
        missed += not area.low <= 0.5 <= area.high
    assert missed <= 6


def test_documents_and_not_tokens_are_resampled() -> None:
    """Tokens that all say the same in a document are worth no more than one of them."""
    random = np.random.default_rng(0)
    positive, score = random.random(200) < 0.5, random.random(200)
    once = found(positive, score, np.arange(200))
    many = found(positive.repeat(20), score.repeat(20), np.arange(200).repeat(20))
    assert many == pytest.approx(once, abs=1e-12)


def test_an_interval_is_not_given_where_resamples_have_no_positive() -> None:
    positive = np.zeros(100, dtype=bool)
    positive[3] = True
    area = found(positive, np.arange(100), np.arange(100))
    assert area.value == pytest.approx(3 / 99)
    assert np.isnan(area.low) and np.isnan(area.high)
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
