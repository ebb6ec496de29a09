"""Intervals over prompts and the tests of a shift, compared with known results."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t as student

from analysis.behaviors.prompt_statistics import (
    Resamples,
    Values,
    prompts_to_see,
    sign_flip_test,
    zero_mean_p,
)
from analysis.behaviors.shift import measure_shift
from crosscoder.config.behavior import ShiftRule

RULE = ShiftRule()


def test_the_interval_of_a_mean_matches_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=200)
    found = Resamples(200, 0.95, seed=0).mean(values)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, rel=0.1)
    assert found.high == pytest.approx(values.mean() + half, rel=0.1)


def test_a_ratio_of_proportional_values_has_no_width() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, size=50)
    found = Resamples(50, 0.95, seed=0).ratio(0.3 * values, values)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


def test_a_ratio_to_zero_is_not_estimated() -> None:
    found = Resamples(40, 0.95, seed=0).ratio(np.ones(40), np.zeros(40))
    assert found.as_dict() == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_a_ratio_to_what_may_be_zero_has_no_interval(bounds: tuple[float, float] | None) -> None:
    generator = np.random.default_rng(0)
    part, whole = np.sign(generator.normal(size=(2, 40)))
    found = Resamples(40, 0.95, 0, bounds).ratio(part, whole)
    assert np.isfinite(found.value) and np.isnan(found.low) and np.isnan(found.high)


def test_the_interval_of_a_ratio_is_that_of_fieller_without_skewness() -> None:
    """For normal residuals, the bounds are the roots of Fieller's quadratic."""
    generator = np.random.default_rng(3)
    whole = 2 + generator.normal(size=400)
    part = 0.4 * whole + 0.5 * generator.normal(size=400)
    found = Resamples(400, 0.95, 0).ratio(part, whole)
    (own, both), (_, other) = np.cov(part, whole) / 400
    limit = student.ppf(0.975, 399) ** 2
    one, two = part.mean(), whole.mean()
    roots = np.roots([two**2 - limit * other, -2 * (one * two - limit * both), one**2 - limit * own])
    assert (found.low, found.high) == pytest.approx(np.sort(roots), abs=2e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_ratio_does_not_depend_on_units(sign: int) -> None:
    generator = np.random.default_rng(1)
    whole = generator.lognormal(0, 0.5, 40)
    part = whole * generator.random(40)
    found = Resamples(40, 0.95, 0).ratio(part, whole)
    assert Resamples(40, 0.95, 0).ratio(sign * 1e-6 * part, sign * 1e-6 * whole) == pytest.approx(found)
    opposite = Resamples(40, 0.95, 0).ratio(-part, whole)
    assert opposite == pytest.approx((-found.value, -found.high, -found.low))


def test_fewer_than_twelve_prompts_have_no_interval() -> None:
    values = np.random.default_rng(0).random(12)
    for bounds in (None, (0.0, 1.0)):
        for n, estimable in ((11, False), (12, True)):
            resamples = Resamples(n, 0.95, 0, bounds)
            found = [resamples.mean(values[:n]), resamples.difference(values[:n])]
            found.append(resamples.ratio(values[:n] / 2, values[:n]))
            assert all(np.isfinite(one.value) for one in found)
            assert all(np.isfinite(one.low) == np.isfinite(one.high) == estimable for one in found)


def test_equal_values_have_an_interval_if_others_would_have_been_seen() -> None:
    assert prompts_to_see(0.1, 0.95) == 29
    assert 0.9**29 <= 0.05 < 0.9**28
    few, enough = (Resamples(n, 0.95, 0).mean(np.full(n, 0.3)) for n in (28, 29))
    assert few.value == 0.3 and np.isnan(few.low)
    assert (enough.low, enough.high) == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize(
    ("n_yes", "low", "high"), [(0, 0.0, 0.0881), (1, 0.0006, 0.1316), (20, 0.3380, 0.6620), (40, 0.9119, 1.0)]
)
def test_intervals_of_shares_match_clopper_and_pearson(n_yes: int, low: float, high: float) -> None:
    """Exact bounds for n_yes of 40."""
    values = np.r_[np.ones(n_yes), np.zeros(40 - n_yes)]
    found = Resamples(40, 0.95, 0, (0.0, 1.0)).mean(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    plain = Resamples(40, 0.95, 0).mean(values)
    assert (plain.high - plain.low > 1e-9) == (n_yes not in (0, 40)), (
        "without bounds, equal values have no width"
    )


def test_an_interval_of_a_share_covers_it_where_one_without_bounds_does_not() -> None:
    generator = np.random.default_rng(0)
    covered = np.zeros(2)
    for seed in range(300):
        values = (generator.random(30) < 0.97).astype(float)
        for index, bounds in enumerate([(0.0, 1.0), None]):
            found = Resamples(30, 0.95, seed, bounds).mean(values)
            covered[index] += found.low <= 0.97 <= found.high
    assert covered[0] >= 0.94 * 300
    assert covered[1] < 0.7 * 300


def test_intervals_scale_with_the_unit() -> None:
    values = np.random.default_rng(0).random(25)
    one = Resamples(25, 0.9, 0, (0.0, 1.0)).mean(values)
    other = Resamples(25, 0.9, 0, (-2.0, 8.0)).mean(10 * values - 2)
    assert other == pytest.approx([10 * number - 2 for number in one])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_share_that_is_equal_on_every_prompt_still_has_width(sign: int) -> None:
    whole = sign * np.r_[np.ones(39), np.zeros(1)]
    found = Resamples(40, 0.95, 0, (0.0, 1.0)).ratio(whole, whole)
    assert found.value == 1.0
    assert 0.88 < found.low < 0.93 and 1.07 < found.high < 1.12
    assert Resamples(40, 0.95, 0).ratio(whole, whole) == pytest.approx((1.0, 1.0, 1.0))


def test_without_observed_differences_the_interval_still_has_width() -> None:
    found = measure_shift(np.zeros(40), np.zeros(40), None, RULE, 0, (0.0, 1.0))
    assert found.verdict == "no difference"
    assert (found.size.low, found.size.high) == pytest.approx((-0.088, 0.088), abs=0.012)


def test_exchanging_the_models_mirrors_the_interval() -> None:
    generator = np.random.default_rng(1)
    one, other = (generator.random((2, 30)) < np.array([[0.3], [0.8]])).astype(float)
    forth = measure_shift(one, other, None, RULE, 0, (0.0, 1.0))
    back = measure_shift(other, one, None, RULE, 0, (0.0, 1.0))
    assert (back.size.low, back.size.high) == pytest.approx((-forth.size.high, -forth.size.low))
    assert back.verdict == forth.verdict


def test_the_permutation_test_holds_its_level() -> None:
    """About one in twenty of 400 pairs of equal models has p below 0.05."""
    generator = np.random.default_rng(0)
    flips = [sign_flip_test(generator.normal(size=20), 0.95, seed) for seed in range(400)]
    below = np.mean([one.p_value <= 0.05 for one in flips])
    assert 0.025 < below < 0.08


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: generator.normal(size=20),
        lambda generator: generator.lognormal(0, 1, 20) - np.exp(0.5),
        lambda generator: np.exp(0.5) - generator.lognormal(0, 1, 20),
    ],
    ids=["normal", "lognormal", "mirrored"],
)
def test_the_test_of_a_mean_holds_its_level_for_skewed_differences(
    draw: Callable[[np.random.Generator], Values],
) -> None:
    """About one in twenty of 1,000 samples with a mean of 0 has p below 0.05. Sign flips reject one in seven where they are skewed."""
    generator = np.random.default_rng(0)
    samples = [draw(generator) for _ in range(1000)]
    assert 0.03 < np.mean([zero_mean_p(one) <= 0.05 for one in samples]) < 0.07


def test_sign_flips_reject_skewed_differences_too_often() -> None:
    """Positive control of the test above."""
    generator = np.random.default_rng(0)
    samples = [generator.lognormal(0, 1, 20) - np.exp(0.5) for _ in range(150)]
    assert np.mean([sign_flip_test(one, 0.95, 0).p_value <= 0.05 for one in samples]) > 0.08


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_the_p_value_says_when_the_interval_excludes_zero(bounds: tuple[float, float] | None) -> None:
    generator = np.random.default_rng(2)
    for mean in np.linspace(-0.3, 0.3, 13):
        differences = np.clip(mean + 0.4 * generator.normal(size=30), -1, 1)
        resamples = Resamples(30, 0.95, 0, bounds)
        found, p_value = resamples.difference(differences), resamples.p_value(differences)
        if not 0.045 < p_value < 0.055:
            assert (found.low * found.high > 0) == (p_value < 0.05)


def test_a_small_exact_case() -> None:
    """For four equal differences, two of sixteen sign patterns are as large."""
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
        (np.array([1.0, -1.0] * 15), RULE, "below the noise floor"),
        (np.full(30, 0.5), ShiftRule(at_least=0.6), "smaller than asked"),
        (np.full(30, 0.5), ShiftRule(at_least=0.4), "established"),
        (np.full(28, 0.5), RULE, "not enough prompts"),
        (np.full(28, 0.5), ShiftRule(unseen=0.2), "established"),
        # However large the difference is.
        (np.full(4, 100.0), RULE, "not enough prompts"),
        (np.full(11, 100.0), ShiftRule(unseen=0.5), "not enough prompts"),
    ],
)
def test_verdicts(difference: np.ndarray, rule: ShiftRule, verdict: str) -> None:
    assert measure_shift(np.zeros(len(difference)), difference, None, rule, 0).verdict == verdict


def test_random_variation_of_answers_raises_the_floor() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=30)
    intervened = reference + 0.5
    again = reference + 2.0 * generator.normal(size=30)
    assert measure_shift(reference, intervened, None, RULE, 0).established
    noisy = measure_shift(reference, intervened, again, RULE, 0)
    assert noisy.verdict == "below the noise floor"
    assert noisy.self_shift == pytest.approx((again - reference).mean())
