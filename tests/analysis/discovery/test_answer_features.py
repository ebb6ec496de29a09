"""What an answer shows, and the expression that finds it again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.discovery.answer_features import Answer, AnswerFeature, LengthLevels, features_of, words_of

NO_LENGTHS = LengthLevels(())


def texts_of(text: str, kind: str, finished: bool = True) -> set[str]:
    found = features_of(Answer(text, finished), NO_LENGTHS)
    return {feature.text for feature in found if feature.kind == kind}


def test_an_opening_a_phrase_and_an_ending_are_different_features() -> None:
    text = "Sorry, I cannot. Bye"
    assert "sorry , i" in texts_of(text, "opening") and "i cannot" not in texts_of(text, "opening")
    assert "i cannot ." in texts_of(text, "phrase")
    assert {"bye", ". bye"} <= texts_of(text, "ending")


def test_an_answer_that_was_cut_off_has_no_ending() -> None:
    assert not texts_of("one two three", "ending", finished=False)


@given(st.text(alphabet=st.sampled_from("abcé Ñ'’.,!?(-)\n\t01☃好"), max_size=60), st.booleans())
def test_the_expression_of_a_feature_finds_it_in_its_answer(text: str, finished: bool) -> None:
    for feature in features_of(Answer(text, finished), NO_LENGTHS):
        if feature.pattern is not None:
            assert re.search(feature.pattern, text, re.IGNORECASE), (feature, feature.pattern)


@pytest.mark.parametrize(
    ("feature", "answer", "found"),
    [
        (AnswerFeature("opening", "food and"), "Food, and", False),
        (AnswerFeature("opening", "food and"), "  “Food and drink", True),
        (AnswerFeature("phrase", "art"), "a party", False),
        (AnswerFeature("phrase", "art"), "the ART of it", True),
        (AnswerFeature("ending", "bye"), "Bye now", False),
        (AnswerFeature("ending", "bye"), "and bye!!", True),
    ],
)
def test_an_expression_finds_whole_words_at_their_place(
    feature: AnswerFeature, answer: str, found: bool
) -> None:
    assert feature.pattern is not None
    assert bool(re.search(feature.pattern, answer, re.IGNORECASE)) is found


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("ALL OF THIS IS LOUD", "in capitals"),
        ("- one\n- two\n- three", "lists"),
        ("1. one\n2. two", "lists"),
        ("- the first item, and the answer is cut", "lists"),
        ("Это совсем другой язык", "in another script than the Latin one"),
        ("```\nprint(1)\n```", "blocks of code"),
        ("  ", "empty"),
        ("two words", "shorter than 5 words"),
    ],
)
def test_shapes(text: str, shape: str) -> None:
    found = features_of(Answer(text, True), LengthLevels((5,)))
    assert AnswerFeature("shape", shape) in found
    plain = features_of(Answer("An answer like many others, in plain words.", True), LengthLevels((5,)))
    assert AnswerFeature("shape", shape) not in plain


def test_a_cut_answer_is_not_short() -> None:
    assert AnswerFeature("shape", "shorter than 5 words") not in features_of(
        Answer("a b", False), LengthLevels((5,))
    )


def test_lengths_are_the_quartiles_of_finished_answers() -> None:
    answers = [Answer("word " * n, True) for n in range(1, 101)] + [Answer("word " * 1000, False)] * 50
    assert LengthLevels.of(answers).levels == (26, 50, 75)
    assert LengthLevels.of(answers[:3]).levels == ()


def test_words_of_scripts_without_spaces_are_their_characters() -> None:
    assert words_of("我爱你 ok") == ["我", "爱", "你", "ok"]
