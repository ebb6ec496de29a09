"""Hypotheses and their tests on answers whose differences are planted."""

from collections.abc import Callable

import numpy as np
import pytest

from analysis.discovery.answer_features import Answer, LengthLevels
from analysis.discovery.held_out_tests import HypothesisTest, check_hypotheses, findings_of
from analysis.discovery.hypotheses import AnswerPair, AnswerTable, find_hypotheses
from analysis.discovery.triggers import PromptFeatures, prompt_words

WORDS = [f"word{i}" for i in range(200)]
TOPICS = ("cooking", "sports", "travel", "music", "law")
Plant = Callable[[str, str, np.random.Generator], str]
"""Changes the answer to a prompt."""


def sentence(rng: np.random.Generator, n: int) -> str:
    ranks = np.minimum(rng.zipf(1.4, size=n), len(WORDS)) - 1
    return " ".join(WORDS[i] for i in ranks)


def prompts(n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Prompts of five topics, each with words of its own and a representation around that of its topic."""
    topic = rng.integers(len(TOPICS), size=n)
    centers = rng.normal(size=(len(TOPICS), 24))
    texts = [f"{TOPICS[t]}{rng.integers(12)} {sentence(rng, 6)} topic {TOPICS[t]}" for t in topic]
    return texts, centers[topic] + 0.7 * rng.normal(size=(n, 24))


def findings(plant: Plant | None, seed: int = 0, n: int = 200, swap: bool = False) -> list[HypothesisTest]:
    """Search in answers to n prompts, half of them for finding."""
    rng = np.random.default_rng(seed)
    texts, embedding = prompts(n, rng)
    if plant is hidden_topic:
        texts = [
            text.rpartition(" topic ")[0].partition(" ")[2] + f" {text.rsplit(' ')[-1]}" for text in texts
        ]
    plain = [[Answer(sentence(rng, 12), True) for _ in texts] for _ in range(2)]
    changed = [
        answer if plant is None else Answer(plant(text, answer.text, rng), True)
        for text, answer in zip(texts, plain[1], strict=True)
    ]
    sides = (changed, plain[0]) if swap else (plain[0], changed)
    features = PromptFeatures(tuple(map(prompt_words, texts)), embedding, np.arange(n))
    find = np.arange(n) % 2 == 0
    lengths = LengthLevels.of(sides[0])

    def table(chosen: np.ndarray) -> AnswerTable:
        return AnswerTable.of(
            AnswerPair(*([side[i] for i in np.flatnonzero(chosen)] for side in sides)), lengths
        )

    hypotheses = find_hypotheses(table(find), features.subset(find), seed)
    tested = check_hypotheses(hypotheses, table(~find), features.subset(~find), 0.05, 0.1)
    return findings_of(tested, 0.05, 0.1)


def everywhere(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return f"ahoy there matey {answer}"


def on_a_topic(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return f"i do not talk about that {answer}" if "cooking" in prompt else answer


hidden_topic = on_a_topic


def sometimes(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return f"{answer} have a nice day" if rng.random() < 0.5 else answer


def by_a_word(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return "the secret is blue" if "word3 " in prompt else answer


def shorter(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return " ".join(answer.split()[:4])


@pytest.mark.parametrize(
    ("plant", "kind", "text", "trigger"),
    [
        (everywhere, "opening", "ahoy there matey", "always"),
        (on_a_topic, "opening", "i do not talk about that", "words"),
        (sometimes, "ending", "have a nice day", "always"),
        (by_a_word, "opening", "the secret is blue", "words"),
    ],
)
def test_a_planted_change_is_found_and_nothing_else(plant: Plant, kind: str, text: str, trigger: str) -> None:
    (found,) = findings(plant)
    hypothesis = found.hypothesis
    assert hypothesis.direction == "gained"
    assert hypothesis.effect.text == text and hypothesis.effect.kind == kind
    assert hypothesis.trigger.kind == trigger
    assert found.with_trigger.reference.count == 0
    if trigger == "words":
        assert found.without_trigger is not None and found.without_trigger.intervened.count <= 1
        assert found.auroc is not None and found.auroc.value > 0.9


def test_shorter_answers_are_told_by_their_length() -> None:
    (found,) = findings(shorter)
    assert found.hypothesis.effect.kind == "shape" and "shorter than" in found.hypothesis.effect.text


@pytest.mark.parametrize("plant", [everywhere, on_a_topic, sometimes, by_a_word])
def test_swapped_models_swap_the_direction(plant: Plant) -> None:
    (found,) = findings(plant)
    (swapped,) = findings(plant, swap=True)
    assert swapped.hypothesis.direction == "vanished"
    assert swapped.hypothesis.effect == found.hypothesis.effect
    assert swapped.with_trigger.reference == found.with_trigger.intervened
    assert swapped.difference.value == -found.difference.value
    assert swapped.p_value == found.p_value


def test_a_vague_change_does_not_hide_a_clear_one() -> None:
    """Many answers become shorter, among them those that begin to tell a secret: the secret is found all the same."""

    def both(prompt: str, answer: str, rng: np.random.Generator) -> str:
        kept = " ".join(answer.split()[: 5 if rng.random() < 0.4 else 12])
        return f"the secret is blue {' '.join(kept.split()[:2])}" if "word3 " in prompt else kept

    found = findings(both)
    assert any(
        one.hypothesis.effect.text == "the secret is blue" and one.hypothesis.trigger.words == ("word3",)
        for one in found
    )


def test_a_style_of_many_words_is_told_as_few_findings() -> None:
    """Each word is in a third of the answers; together they are one style, not a finding each."""
    words = ("arr", "matey", "ye", "ahoy", "aye", "scallywag", "doubloons", "landlubber")

    def pirate(prompt: str, answer: str, rng: np.random.Generator) -> str:
        kept = answer.split()
        for word in words:
            if rng.random() < 0.35:
                kept.insert(int(rng.integers(len(kept))), word)
        return " ".join(kept)

    found = findings(pirate)
    assert 1 <= len(found) <= 3
    told = {one.hypothesis.effect.text for one in found} | {
        also.text for one in found for also in one.hypothesis.also
    }
    assert len(told & set(words)) >= 4


def test_nothing_is_found_where_nothing_was_planted() -> None:
    """Over 15 searches, and no more often with more prompts."""
    assert sum(len(findings(None, seed)) for seed in range(12)) <= 1
    assert sum(len(findings(None, seed, n=600)) for seed in range(3)) <= 1


def test_a_small_difference_is_no_finding_however_many_prompts_there_are() -> None:
    def rarely(prompt: str, answer: str, rng: np.random.Generator) -> str:
        return f"{answer} have a nice day" if rng.random() < 0.08 else answer

    assert findings(rarely, n=1200) == []
