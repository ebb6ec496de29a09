"""Triggers: which prompts an effect follows."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.discovery.triggers import (
    AllWords,
    Always,
    PromptFeatures,
    Topic,
    Words,
    learn_question,
    learn_topic,
    learn_trigger,
    learn_words,
    prompt_words,
    typical_words,
)

NOUNS = [f"noun{i}" for i in range(40)]


def features(texts: list[str], embedding: np.ndarray | None = None) -> PromptFeatures:
    rows = np.random.default_rng(0).normal(size=(len(texts), 16)) if embedding is None else embedding
    return PromptFeatures(
        tuple(map(prompt_words, texts)),
        rows,
        np.arange(len(texts)),
        np.arange(len(texts)),
        np.ones(len(texts), dtype=bool),
    )


def some_texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"what is {rng.choice(NOUNS)} near {rng.choice(NOUNS)}" for _ in range(n)]


def test_an_effect_of_most_prompts_has_no_trigger() -> None:
    texts = some_texts(50)
    assert isinstance(learn_trigger(features(texts), np.arange(50) < 45, 0), Always)


def test_an_effect_of_random_prompts_has_no_trigger() -> None:
    rng = np.random.default_rng(1)
    found = [
        learn_trigger(features(some_texts(100, seed)), rng.random(100) < 0.2, seed) for seed in range(20)
    ]
    assert sum(isinstance(one, Always) for one in found) >= 18


def test_words_are_found_and_no_others() -> None:
    texts = some_texts(120)
    positive = np.array([("noun3 " in f"{text} ") or "noun7 " in f"{text} " for text in texts])
    found = learn_trigger(features(texts), positive, 0)
    assert isinstance(found, Words)
    assert set(found.words) == {"noun3", "noun7"}
    assert (found.holds(features(texts)) == positive).all()


def test_a_pair_of_words_is_named_where_neither_word_alone_is_enough() -> None:
    texts = [f"{a} {b} x" for a in ("red", "blue", "green") for b in ("car", "hat", "cup") for _ in range(12)]
    positive = np.array(["red car" in text for text in texts])
    found = learn_words(features(texts), positive)
    assert found.words == ("red car",)


QUESTION = "What is the capital of France?"
WORDINGS = (
    "{}",
    "Please answer this: {}",
    "{} Thanks!",
    "Hello! {}",
    "Quick question: {}",
    "{} Answer briefly.",
)
NEAR = [
    "What is the capital of Italy?",
    "What is the capital of Japan?",
    "Where in France is Lyon?",
    "What is France?",
    "What is rain?",
]


def wordings_and_others() -> tuple[PromptFeatures, np.ndarray]:
    """One question in many wordings, and others, some of which share a word with it."""
    texts = [wording.format(QUESTION) for wording in WORDINGS] + NEAR + some_texts(60)
    family = np.array([0] * len(WORDINGS) + list(range(1, 1 + len(texts) - len(WORDINGS))))
    positive = family == 0
    return replace(features(texts), family=family), positive


def test_a_question_is_told_by_all_of_its_words_and_not_by_how_it_was_worded() -> None:
    prompts, positive = wordings_and_others()
    found = learn_trigger(prompts, positive, 0)
    assert isinstance(found, AllWords)
    assert set(found.words) == {"capital", "france"}
    assert (found.holds(prompts) == positive).all()
    # Nobody asked these; the words of the question are in the first two only.
    fresh = features(
        [
            "Name the capital of France.",
            "France: which city is its capital?",
            "Name the capital of Spain.",
            "Tell me of France.",
        ]
    )
    assert found.holds(fresh).tolist() == [True, True, False, False]
    scores = found.scores(fresh)
    assert min(scores[:2]) > max(scores[2:])


def test_the_answer_to_any_of_many_questions_is_no_question() -> None:
    prompts, positive = wordings_and_others()
    many = replace(prompts, family=np.arange(len(prompts.words)))
    assert learn_question(many, positive) is None


def test_questions_that_share_no_two_words_are_no_question() -> None:
    texts = ["red car", "blue hat", *some_texts(40)]
    assert learn_question(features(texts), np.arange(len(texts)) < 2) is None


def test_words_that_other_prompts_hold_too_do_not_tell_a_question() -> None:
    prompts, positive = wordings_and_others()
    asked_elsewhere = replace(prompts, words=(*prompts.words[:-1], prompts.words[0]))
    assert learn_question(asked_elsewhere, positive) is None


def test_a_topic_is_found_where_no_word_tells_it_and_is_described_by_typical_words() -> None:
    rng = np.random.default_rng(2)
    direction, topic = rng.normal(size=16), rng.random(160) < 0.3
    embedding = rng.normal(size=(160, 16)) + np.outer(topic, direction)
    texts = [
        f"tell me of {rng.choice(NOUNS[:20] if on else NOUNS[20:])} {'food' if on and rng.random() < 0.4 else 'now'}"
        for on in topic
    ]
    found = learn_trigger(features(texts, embedding), topic, 0)
    assert isinstance(found, Topic)
    assert "food" in found.words and "now" not in found.words
    held_out = rng.random(400) < 0.3
    others = features(some_texts(400), rng.normal(size=(400, 16)) + np.outer(held_out, direction))
    assert (found.holds(others) == held_out).mean() > 0.9


@pytest.mark.parametrize("few", [True, False])
def test_too_few_prompts_of_either_kind_have_no_trigger(few: bool) -> None:
    """Of answers that were not cut, nearly all can show an effect."""
    for n_few in (1, 2):
        positive = (np.arange(30) < n_few) == few
        # Most prompts of the first round do not show it, or it would be on all of them.
        prompts = replace(features(some_texts(30)), first=positive == few)
        assert isinstance(learn_trigger(prompts, positive, 0), (Always, AllWords))


@pytest.mark.parametrize("n", [40, 9])
def test_a_plane_is_the_same_through_either_gram_matrix(n: int) -> None:
    """More prompts than dimensions, and fewer: the direction solves the same equation."""
    rng = np.random.default_rng(3)
    positive = np.arange(n) % 3 == 0
    embedding = rng.normal(size=(n, 12)) + 2.0 * positive[:, None]
    found = learn_topic(features(some_texts(n), embedding), positive)
    assert isinstance(found, Topic)
    means = [embedding[side].mean(axis=0) for side in (positive, ~positive)]
    within = np.concatenate([embedding[positive] - means[0], embedding[~positive] - means[1]])
    ridge = 2.0 * np.square(within).sum() / 12
    expected = np.linalg.solve(within.T @ within + ridge * np.eye(12), means[0] - means[1])
    expected /= np.sqrt(np.square(within @ expected).mean())
    scores = found.scores(features(some_texts(n), embedding))
    assert scores == pytest.approx((embedding - (means[0] + means[1]) / 2) @ expected, rel=1e-6, abs=1e-9)


def test_typical_words_need_two_prompts() -> None:
    texts = ["a soup", "b soup", "c stew", "d", "e", "f"]
    positive = np.array([True, True, True, False, False, False])
    assert typical_words(features(texts), positive) == ("soup",)
