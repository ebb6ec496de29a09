"""Hypotheses and their tests on answers whose differences are planted."""

import numpy as np
import pytest

from tests.analysis.planted_answers import Plant, findings


def everywhere(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return f"ahoy there matey {answer}"


def on_a_topic(prompt: str, answer: str, rng: np.random.Generator) -> str:
    return f"i do not talk about that {answer}" if "cooking" in prompt else answer


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


def test_a_list_is_told_as_such_and_not_by_its_marks() -> None:
    (found,) = findings(lambda prompt, answer, rng: f"- {answer}")
    assert (found.hypothesis.effect.kind, found.hypothesis.effect.text) == ("shape", "lists")


def test_an_effect_of_marks_alone_comes_last() -> None:
    def plant(prompt: str, answer: str, rng: np.random.Generator) -> str:
        return f"{'ahoy ' if rng.random() < 0.5 else ''}{answer} !"

    first, *_, last = findings(plant)
    assert first.hypothesis.effect.text == "ahoy"
    assert last.hypothesis.effect.text == "!"
    assert last.information > first.information


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


@pytest.mark.slow
def test_nothing_is_found_where_nothing_was_planted() -> None:
    """Over 15 searches, and no more often with more prompts."""
    assert sum(len(findings(None, seed)) for seed in range(12)) <= 1
    assert sum(len(findings(None, seed, n=600)) for seed in range(3)) <= 1


@pytest.mark.slow
def test_a_small_difference_is_no_finding_however_many_prompts_there_are() -> None:
    def rarely(prompt: str, answer: str, rng: np.random.Generator) -> str:
        return f"{answer} have a nice day" if rng.random() < 0.08 else answer

    assert findings(rarely, n=1200) == []
