"""The area counts ordered pairs, and its interval has its nominal coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.explanations.auroc import auroc
from analysis.latents.bootstrap import unseen_weights
from analysis.latents.hashing import block_of


def naive(positive: np.ndarray, score: np.ndarray) -> float:
    """Count all pairs of a positive and a negative."""
    won = [
        1.0 if above > below else 0.5 if above == below else 0.0
        for above in score[positive]
        for below in score[~positive]
    ]
    return float(np.mean(won))


def found(positive: np.ndarray, score: np.ndarray, document: np.ndarray, seed: int = 0):
    weights = unseen_weights(400, 64, seed)
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


def test_an_uninformative_score_is_at_half_and_within_the_interval() -> None:
    """About 2 of 40 intervals may miss 0.5."""
    missed = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        document = np.arange(6000) // 30
        area = found(random.random(6000) < 0.02, random.random(6000) < 0.1, document, seed)
        assert abs(area.value - 0.5) < 0.12
        missed += not area.low <= 0.5 <= area.high
    assert missed <= 6


def test_documents_and_not_tokens_are_resampled() -> None:
    """Repeating a token within its document adds no information."""
    random = np.random.default_rng(0)
    positive, score = random.random(200) < 0.5, random.random(200)
    once = found(positive, score, np.arange(200))
    many = found(positive.repeat(20), score.repeat(20), np.arange(200).repeat(20))
    assert many == pytest.approx(once, abs=1e-12)


def test_one_positive_gives_a_wide_interval() -> None:
    positive = np.zeros(100, dtype=bool)
    positive[3] = True
    area = found(positive, np.arange(100), np.arange(100))
    assert area.value == pytest.approx(3 / 99)
    assert area.low < 0.02 and area.high > 0.9


@pytest.mark.parametrize(("n_documents", "low"), [(5, 0.739), (20, 0.916), (50, 0.964)])
def test_the_interval_of_a_perfect_rule_has_width(n_documents: int, low: float) -> None:
    """One firing per document, all correct: the mean of 1 and the exact lower bound of a share (Clopper and Pearson)."""
    document = np.arange(64).repeat(100)
    positive = (np.arange(6400) % 100 == 0) & (document < n_documents)
    weights = unseen_weights(4000, 64, 0)
    area = auroc(positive, positive, document, weights, 0.95)
    assert (area.value, area.high) == (1.0, 1.0)
    assert area.low == pytest.approx(low, abs=0.03)


def test_negating_a_score_mirrors_the_interval() -> None:
    """Negating a score mirrors its interval."""
    random = np.random.default_rng(2)
    positive, score, document = random.random(900) < 0.1, random.random(900), np.arange(900) // 9
    one, other = found(positive, score, document), found(positive, -score, document)
    assert (other.value, other.low, other.high) == pytest.approx(
        (1 - one.value, 1 - one.high, 1 - one.low), abs=1e-9
    )
