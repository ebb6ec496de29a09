"""What a number of prompts can show."""

import numpy as np
import pytest

from analysis.behaviors.prompt_statistics import Bounds
from analysis.behaviors.shift import Shift, measure_shift
from analysis.behaviors.shift_power import detectable_shift, prompts_needed
from crosscoder.config.behavior import ShiftRule

RULE = ShiftRule()
ANSWERS: Bounds = (0.0, 1.0)


def shift_of(differences: np.ndarray, bounds: Bounds | None = None, rule: ShiftRule = RULE) -> Shift:
    return measure_shift(np.zeros(len(differences)), differences, None, rule, 0, bounds)


@pytest.mark.parametrize(
    ("rule", "bounds", "needed"),
    [
        (RULE, None, 29),
        (ShiftRule(unseen=0.22), None, 13),
        (ShiftRule(unseen=0.5), None, 12),
        (RULE, ANSWERS, 12),
        (ShiftRule(confidence=0.9999), ANSWERS, 15),
        (ShiftRule(at_least=0.5), ANSWERS, 13),
        (ShiftRule(at_least=50.0), (0.0, 100.0), 13),
        (ShiftRule(at_least=2.0), ANSWERS, 12),
    ],
)
def test_prompts_needed(rule: ShiftRule, bounds: Bounds | None, needed: int) -> None:
    assert prompts_needed(rule, bounds) == needed


@pytest.mark.parametrize("rule", [ShiftRule(confidence=0.9998), ShiftRule(at_least=0.5)])
def test_one_prompt_fewer_than_needed_cannot_show_even_the_largest_shift(rule: ShiftRule) -> None:
    needed = prompts_needed(rule, ANSWERS)
    enough, few = (shift_of(np.ones(n), ANSWERS, rule) for n in (needed + 1, needed - 1))
    assert enough.established
    assert few.verdict == "not enough prompts"
    assert few.size.low < max(rule.at_least, 1e-3)


def test_too_few_prompts_are_not_called_no_shift() -> None:
    """A large shift on five prompts: nothing is established, and the numbers say what would be."""
    found = shift_of(np.array([7.2, 8.0, 8.5, 9.1, 10.3]))
    assert found.verdict == "not enough prompts" and not found.established
    assert (found.n_prompts, found.prompts_needed) == (5, 29)
    assert found.detectable is None
    assert found.detectable_when_enough is not None and 0.3 < found.detectable_when_enough < 1.5
    shown = found.as_dict()
    assert shown["prompts_needed"] == 29 and shown["detectable"] is None
    assert shown["size"] == {"value": pytest.approx(8.62), "low": None, "high": None}


@pytest.mark.parametrize("spread", ["normal", "lognormal"])
@pytest.mark.parametrize("n_prompts", [29, 60])
def test_a_detectable_shift_is_established_in_four_of_five_samples(spread: str, n_prompts: int) -> None:
    generator = np.random.default_rng(0)

    def noise(n: int) -> np.ndarray:
        return generator.normal(size=n) if spread == "normal" else generator.lognormal(-0.5, 1, n) - 1

    found = detectable_shift(noise(5000), n_prompts, RULE, 0)
    assert found is not None
    # The long tail decides which direction is harder to show.
    direction = 1 if spread == "normal" else -1
    samples = [shift_of(noise(n_prompts) + direction * found) for _ in range(100)]
    assert 0.68 < np.mean([one.established for one in samples]) < 0.92
    third = [shift_of(noise(n_prompts) + direction * found / 3) for _ in range(100)]
    assert np.mean([one.established for one in third]) < 0.5


def test_a_detectable_shift_of_answers_is_established_in_four_of_five_samples() -> None:
    generator = np.random.default_rng(0)
    found = shift_of(np.zeros(40), ANSWERS)
    assert found.verdict == "no difference" and found.detectable is not None
    samples = [shift_of((generator.random(40) < found.detectable).astype(float), ANSWERS) for _ in range(100)]
    assert 0.7 < np.mean([one.established for one in samples]) < 0.95


def test_a_shift_has_to_be_larger_by_what_is_asked() -> None:
    noise = np.random.default_rng(0).normal(size=40)
    plain, asked = (detectable_shift(noise, 40, ShiftRule(at_least=least), 0) for least in (0.0, 3.0))
    assert plain is not None and asked == pytest.approx(plain + 3)


def test_more_prompts_show_smaller_shifts() -> None:
    noise = np.random.default_rng(0).normal(size=40)
    found = [detectable_shift(noise, n, RULE, 0) for n in (29, 60, 240)]
    assert None not in found and found == sorted(found, key=lambda one: -(one or 0))


def test_nothing_is_detectable_without_spread_or_within_bounds() -> None:
    assert detectable_shift(np.full(40, 0.5), 40, RULE, 0) is None
    assert detectable_shift(np.zeros(40), 40, ShiftRule(at_least=0.99), 0, ANSWERS) is None
