"""What a finding says holds on prompts that nobody has asked yet."""

import numpy as np
import pytest

from analysis.discovery.held_out_tests import HypothesisTest
from tests.analysis.planted_answers import Plant, centers_of, features, findings, prompts, sentence

N_SEARCHES, N_FRESH = 8, 2000


def sometimes(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return f"{answer} have a nice day" if rng.random() < 0.5 else answer


def on_a_topic(prompt: str, answer: str, rng: np.random.Generator) -> str:
    shows = rng.random() < (0.7 if "cooking" in prompt else 0.05)
    return f"i do not talk about that {answer}" if shows else answer


def rarely(prompt: str, answer: str, rng: np.random.Generator) -> str:
    """So close to the smallest difference that counts that the findings are those that luck favored."""
    return f"{answer} have a nice day" if rng.random() < 0.2 else answer


def fresh_rate(found: HypothesisTest, plant: Plant, seed: int) -> float:
    """Rate of the effect, which no unchanged answer shows, after fresh prompts that meet the trigger."""
    rng = np.random.default_rng([seed, 2])
    texts, embedding = prompts(N_FRESH, rng, centers_of(seed))
    holds = found.hypothesis.trigger.holds(features(texts, embedding))
    effect = found.hypothesis.effect.text
    return float(
        np.mean(
            [
                effect in plant(text, sentence(rng, 12), rng)
                for text, one in zip(texts, holds, strict=True)
                if one
            ]
        )
    )


def coverage(plant: Plant, effect: str) -> tuple[int, int]:
    """Findings of the effect whose interval holds the rate on fresh prompts, and all of them."""
    inside = total = 0
    for seed in range(N_SEARCHES):
        for found in findings(plant, seed):
            if found.hypothesis.effect.text == effect:
                rate = found.with_trigger.intervened
                inside += rate.low <= fresh_rate(found, plant, seed) <= rate.high
                total += 1
    return inside, total


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("plant", "effect"),
    [(sometimes, "have a nice day"), (on_a_topic, "i do not talk about that"), (rarely, "have a nice day")],
)
def test_the_rate_on_fresh_prompts_lies_within_the_interval(plant: Plant, effect: str) -> None:
    """Nominally 95 %; 60 searches of each kind held it in 149 of 158 findings."""
    inside, total = coverage(plant, effect)
    assert total >= N_SEARCHES / 4
    assert inside >= 0.85 * total
