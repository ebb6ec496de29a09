"""Intervals over prompts and the paired permutation test, against what is known of them."""

import numpy as np
import pytest

from analysis.behaviors.shift import measure_shift
from analysis.behaviors.statistics import Resamples, sign_flip_test
from crosscoder.behavior import ShiftRule

RULE = ShiftRule()


def test_an_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=200)
    found = Resamples(200, 0.95, seed=0).mean(values)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, rel=0.1)
    assert found.high == pytest.approx(values.mean() + half, rel=0.1)


def test_a_ratio_of_values_that_move_together_has_no_width() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, size=50)
    found = Resamples(50, 0.95, seed=0).ratio(0.3 * values, values)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


def test_a_ratio_to_nothing_is_not_estimated() -> None:
    found = Resamples(8, 0.95, seed=0).ratio(np.ones(8), np.zeros(8))
    assert found.as_dict() == {"value": None, "low": None, "high": None}


def test_the_permutation_test_holds_its_level() -> None:
    """Of 400 pairs of equal models about one in twenty is below 0.05, and the floor is passed as often."""
    generator = np.random.default_rng(0)
    flips = [sign_flip_test(generator.normal(size=20), 0.95, seed) for seed in range(400)]
    below = np.mean([one.p_value <= 0.05 for one in flips])
    assert 0.025 < below < 0.08


def test_a_small_exact_case() -> None:
    """Of four equal differences only two of sixteen signs are as large."""
    found = sign_flip_test(np.ones(4), 0.95, 0)
    assert found.p_value == pytest.approx(2 / 16, abs=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clear_shift_is_established_in_either_direction(sign: int) -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=30)
    found = measure_shift(reference, reference + sign * (1 + 0.1 * generator.normal(size=30)), None, RULE, 0)
    assert found.established
    assert found.size.value == pytest.approx(sign, abs=0.1)
    assert found.floor < abs(found.size.low)


@pytest.mark.parametrize(
    ("difference", "rule", "verdict"),
    [
        (np.zeros(12), RULE, "no difference"),
        (np.array([1.0, -1.0] * 6), RULE, "below the noise floor"),
        (np.full(12, 0.5), ShiftRule(at_least=0.6), "smaller than asked"),
        (np.full(12, 0.5), ShiftRule(at_least=0.4), "established"),
        # Four prompts cannot establish anything at this confidence, however large the difference.
        (np.full(4, 100.0), RULE, "below the noise floor"),
    ],
)
def test_what_is_no_shift(difference: np.ndarray, rule: ShiftRule, verdict: str) -> None:
    assert measure_shift(np.zeros(len(difference)), difference, None, rule, 0).verdict == verdict


def test_answers_that_vary_by_themselves_raise_the_floor() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=30)
    intervened = reference + 0.5
    again = reference + 2.0 * generator.normal(size=30)
    assert measure_shift(reference, intervened, None, RULE, 0).established
    noisy = measure_shift(reference, intervened, again, RULE, 0)
    assert noisy.verdict == "below the noise floor"
    assert noisy.self_shift == pytest.approx((again - reference).mean())
