"""Effects that come at the end of answers, and answers that were cut before them."""

import numpy as np
import pytest

from analysis.discovery.answer_features import Answer, AnswerFeature, LengthLevels
from analysis.discovery.answer_table import AnswerPair, AnswerTable
from analysis.discovery.held_out_tests import check_hypotheses, findings_of
from analysis.discovery.hypotheses import find_hypotheses
from tests.analysis.planted_answers import features, sentence

LIMIT = 12
"""Words of an answer, at most."""
ENDING = "stay curious my friend"


def cut(text: str) -> Answer:
    words = text.split()
    return Answer(" ".join(words[:LIMIT]), len(words) <= LIMIT)


def table_of(texts: list[str], reference: list[str] | None = None) -> AnswerTable:
    plain = [cut(text) for text in reference or [sentence(np.random.default_rng(1), 20) for _ in texts]]
    return AnswerTable.of(AnswerPair(plain, [cut(text) for text in texts]), LengthLevels(()))


def answers(rng: np.random.Generator, n: int, ending: str = "", opening: str = "") -> list[str]:
    """Answers of 2 to 20 words between an opening and an ending."""
    return [f"{opening} {sentence(rng, int(rng.integers(2, 20)))} {ending}".strip() for _ in range(n)]


@pytest.mark.parametrize("kind", ["ending", "phrase"])
@pytest.mark.parametrize("words", [ENDING, "curious my"])
def test_words_at_the_end_of_answers_of_any_length(kind: str, words: str) -> None:
    if kind == "ending" and not ENDING.endswith(words):
        words = "my friend"
    table = table_of(answers(np.random.default_rng(0), 60, ENDING))
    effect = AnswerFeature(kind, words)  # pyright: ignore[reportArgumentType]
    assert table.comes_at_the_end(effect, "gained")
    unknown = table.cut(effect, "gained")
    assert unknown.any() and not (unknown & table.shown(effect, 1)).any()


def test_an_opening_a_whole_answer_and_words_anywhere_are_not_at_the_end() -> None:
    rng = np.random.default_rng(0)
    refusals = ["i do not talk about that"] * 30 + answers(rng, 30)
    table = table_of(refusals)
    for effect in (
        AnswerFeature("opening", "i do not talk about that"),
        AnswerFeature("phrase", "talk about that"),
        AnswerFeature("ending", "i do not talk about that"),
    ):
        assert table.shown(effect, 1).sum() == 30
        assert not table.comes_at_the_end(effect, "gained")
    anywhere = []
    for text in answers(rng, 80):
        words = text.split()
        words.insert(int(rng.integers(len(words))), "matey")
        anywhere.append(" ".join(words))
    assert not table_of(anywhere).comes_at_the_end(AnswerFeature("phrase", "matey"), "gained")


def test_nothing_is_unknown_where_no_answer_was_cut() -> None:
    texts = [f"{text} {ENDING}" for text in ["oak", "oak tree", "the oak tree", "an old oak", "oak"]]
    assert not table_of(texts, texts).comes_at_the_end(AnswerFeature("phrase", ENDING), "gained")


@pytest.mark.parametrize("swap", [False, True])
def test_the_trigger_of_an_ending_is_learned_from_answers_that_end(swap: bool) -> None:
    """Answers to questions end with a phrase, other answers do not; whether an answer is cut has nothing to do with it."""
    rng = np.random.default_rng(4)
    n = 400
    is_question = rng.random(n) < 0.6
    prompts = [f"{'why' if one else 'write'} {sentence(rng, 5)}" for one in is_question]
    lengths = rng.integers(2, 20, size=(2, n))
    changed, plain = (
        [
            sentence(rng, int(size)) + (f" {ENDING}" if ends and one else "")
            for size, one in zip(of, is_question, strict=True)
        ]
        for of, ends in zip(lengths, (True, False), strict=True)
    )
    direction = np.where(is_question[:, None], 1.0, -1.0) @ np.ones((1, 8))
    read = features(prompts, direction + 0.1 * rng.normal(size=(n, 8)))
    table = table_of(plain, changed) if swap else table_of(changed, plain)
    find = np.arange(n) % 2 == 0
    hypotheses = find_hypotheses(table.subset(find), read.subset(find), 0)
    tests = check_hypotheses(hypotheses, table.subset(~find), read.subset(~find), 0.05, 0.1)
    first, *_ = findings_of(tests, 0.05, 0.1)
    assert "curious" in " ".join([first.hypothesis.effect.text, *(one.text for one in first.hypothesis.also)])
    assert first.hypothesis.direction == ("vanished" if swap else "gained")
    assert first.hypothesis.at_the_end and first.hypothesis.trigger.kind != "always"
    assert first.auroc is not None and first.auroc.value > 0.95
    # Rates are of all prompts, cut or not.
    assert first.with_trigger.n == int((first.holds).sum())
    assert 0.2 * first.with_trigger.n < first.n_cut < 0.8 * first.with_trigger.n
