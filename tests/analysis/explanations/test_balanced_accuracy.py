"""Balanced accuracy of a perfect judge, a coin, a constant judge, and with unreadable replies."""

import numpy as np
import pytest

from analysis.explanations.balanced_accuracy import MIN_VERDICTS, Verdict, balanced_accuracy


def verdicts(truth: list[bool], answers: list[bool | None]) -> list[Verdict]:
    return [Verdict(*pair) for pair in zip(truth, answers, strict=True)]


TRUTH = [True] * 10 + [False] * 30


def test_a_perfect_judge_scores_one_and_its_interval_is_not_a_point() -> None:
    score = balanced_accuracy(verdicts(TRUTH, list(TRUTH)), 0.95)
    assert (score.value, score.high, score.n, score.unparsed) == (1, 1, 40, 0)
    assert score.low is not None and 0.8 < score.low < 0.9


@pytest.mark.parametrize("always", [True, False])
def test_a_constant_judge_scores_half(always: bool) -> None:
    """Although its accuracy is 0.75 or 0.25."""
    score = balanced_accuracy(verdicts(TRUTH, [always] * 40), 0.95)
    assert score.value == 0.5
    assert score.low is not None and score.high is not None and score.low < 0.5 < score.high


def test_a_coin_scores_half_and_intervals_cover_it() -> None:
    random = np.random.default_rng(0)
    values, missed = [], 0
    for _ in range(300):
        score = balanced_accuracy(verdicts(TRUTH, random.integers(0, 2, 40).astype(bool).tolist()), 0.95)
        assert score.value is not None and score.low is not None and score.high is not None
        values.append(score.value)
        missed += not score.low <= 0.5 <= score.high
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)
    assert missed <= 24, "of 300 intervals of 95 % about 15 miss"


def test_unreadable_replies_are_counted_but_do_not_enter_the_score() -> None:
    answers: list[bool | None] = list(TRUTH)
    answers[:3] = [None] * 3
    score = balanced_accuracy(verdicts(TRUTH, answers), 0.95)
    assert (score.value, score.n, score.unparsed) == (1, 37, 3)
    answers[: 10 - MIN_VERDICTS + 1] = [None] * (10 - MIN_VERDICTS + 1)
    few = balanced_accuracy(verdicts(TRUTH, answers), 0.95)
    assert few.value is few.low is few.high is None
    assert (few.n, few.unparsed) == (34, 6)
