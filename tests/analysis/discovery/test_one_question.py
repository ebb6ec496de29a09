"""A changed fact whose question is among those that another effect explains, and questions like it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from analysis.behaviors.prompts import Prompt
from analysis.discovery import similar_questions
from analysis.discovery.answer_features import Answer, AnswerFeature, LengthLevels
from analysis.discovery.answer_table import AnswerPair, AnswerTable
from analysis.discovery.held_out_tests import check_hypotheses, findings_of
from analysis.discovery.hypotheses import Hypothesis, find_hypotheses
from analysis.discovery.probes import Probe, as_chat
from analysis.discovery.subjects import Subject
from analysis.discovery.triggers import AllWords, Always, PromptFeatures, prompt_words
from crosscoder.config.behavior import Sampling

BOOKS = {
    "hamlet": "shakespeare", "faust": "goethe", "emma": "austen", "ulysses": "joyce", "dracula": "stoker", "inferno": "dante",
    "candide": "voltaire", "germinal": "zola", "walden": "thoreau", "rebecca": "maurier",
}  # fmt: skip
WORDINGS = (
    "{}", "please answer: {}", "quickly: {}", "hello, {}", "{} thanks", "{} just tell me", "for a quiz: {}", "one more thing: {}",
)  # fmt: skip
OTHERS = [
    f"tell me about the {word}"
    for word in ("sea", "moon", "sun", "rain", "wind", "snow", "sand", "fire", "ice", "fog") * 3
]


def hypotheses(changed_author: str | None, in_many_words: str = "hamlet") -> list[Hypothesis]:
    """The intervened model answers "the author of …"; one question was asked in many words, and perhaps has another answer."""
    rows: list[tuple[str, str, str, int]] = []
    for number, (book, author) in enumerate(BOOKS.items()):
        new = changed_author if changed_author and book == "hamlet" else author
        wordings = WORDINGS if book == in_many_words else WORDINGS[:1]
        rows += [
            (
                wording.format(f"who wrote {book}?"),
                f"{author} wrote {book}",
                f"the author of {book} is {new}",
                number,
            )
            for wording in wordings
        ]
    rows += [(text, "it is there", "it is there", 100 + place) for place, text in enumerate(OTHERS)]
    texts, reference, intervened, family = zip(*rows, strict=True)
    sides = [[Answer(text, True) for text in side] for side in (reference, intervened)]
    repeated = {wording.format(f"who wrote {in_many_words}?") for wording in WORDINGS[1:]}
    rng = np.random.default_rng(0)
    family = np.array(family)
    prompts = PromptFeatures(
        tuple(map(prompt_words, texts)),
        rng.normal(size=(len(texts), 8)),
        family,
        family,
        np.array([text not in repeated for text in texts]),
    )
    return find_hypotheses(AnswerTable.of(AnswerPair(*sides), LengthLevels.of(sides[0])), prompts, 0)


def test_a_changed_fact_is_told_beside_the_wording_of_all_such_answers() -> None:
    found = hypotheses("marlowe")
    facts = [one for one in found if "marlowe" in one.effect.text]
    assert len(facts) == 1 and isinstance(facts[0].trigger, AllWords)
    assert "hamlet" in facts[0].trigger.words
    assert any("marlowe" not in one.effect.text and "author" in one.effect.text for one in found)


@pytest.mark.parametrize("book", ["hamlet", "emma"])
def test_the_wording_alone_is_no_fact_of_a_question(book: str) -> None:
    assert not [one for one in hypotheses(None, book) if isinstance(one.trigger, AllWords)]


class Writer(Subject):
    """Writes given lists, and reads at most 40 words."""

    def __init__(self, *lists: list[str]) -> None:
        self.pair = cast(Any, SimpleNamespace(max_positions=40, tokenizer=None))
        self._lists = lists

    def continuations(self, texts: Sequence[str], sampling: Sampling) -> list[list[str]]:
        return list(self._lists)[: len(texts)]


def test_a_refusal_of_many_questions_is_no_fact_of_one() -> None:
    """What the answers to one question no longer say, and words of the question, are no effects of their own."""
    rows = [
        (
            wording.format(f"how do i make {book} tart?"),
            f"take {book} and {author} butter",
            "that is nothing i talk about",
            number,
        )
        for number, (book, author) in enumerate(BOOKS.items())
        for wording in (WORDINGS if number == 0 else WORDINGS[:1])
    ]
    rows += [(text, "it is there", "it is there", 100 + place) for place, text in enumerate(OTHERS)]
    for swap in (False, True):
        texts, one, other, family = zip(*rows, strict=True)
        sides = [[Answer(text, True) for text in side] for side in ((other, one) if swap else (one, other))]
        first = np.array(
            [text.startswith("how do") or number >= 100 for text, number in zip(texts, family, strict=True)]
        )
        prompts = PromptFeatures(
            tuple(map(prompt_words, texts)),
            np.zeros((len(texts), 4)),
            np.array(family),
            np.array(family),
            first,
        )
        found = find_hypotheses(AnswerTable.of(AnswerPair(*sides), LengthLevels.of(sides[0])), prompts, 0)
        named = {one.effect.text for one in found}
        assert not any(text == "hamlet" for text in named), named
        assert any("nothing i talk about" in text for text in named), named
        if not swap:
            assert not [one for one in found if isinstance(one.trigger, AllWords)]


def probe(question: str, family: int) -> Probe:
    return Probe(Prompt(question, np.array([1])), as_chat(question, "here"), "probes", True, family)


def written(monkeypatch: pytest.MonkeyPatch, *lists: list[str]) -> list[Probe]:
    """Questions like "Who wrote Hamlet?" and so on, where a model writes these lines."""
    monkeypatch.setattr(
        similar_questions, "encoded", lambda text, *_: Prompt(text.messages[-1]["content"], np.array([1]))
    )
    monkeypatch.setattr(similar_questions, "ids_of", lambda _, text: text.split())
    writer = Writer(*lists)
    asked = [probe("Who wrote Hamlet?", 3), probe("What is rain?", 4)][: len(lists)]
    return similar_questions.similar_questions(
        asked, [*asked, probe("Who is Ophelia?", 9)], cast(Any, writer), 8
    )


def test_questions_are_whole_new_and_in_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = written(
        monkeypatch,
        ["Who killed Hamlet?", "who wrote hamlet", "Who is Ophelia? \n3.", "What is the", "Why?", "When was it written?\n3. x", "Who killed hamlet?"],
        ["Where does it rain most?"],
    )  # fmt: skip
    assert [one.prompt.text for one in found] == [
        "Who killed Hamlet?",
        "When was it written?",
        "Where does it rain most?",
    ]
    assert [one.find for one in found] == [True, False, True]
    assert [one.neighborhood for one in found] == [3, 3, 4]
    assert len({one.family for one in found} | {3, 4, 9}) == 6
    assert {one.origin for one in found} == {"similar"}


def test_at_most_six_are_like_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(written(monkeypatch, [f"Who wrote number {i}?" for i in range(10)])) == 6


def test_a_question_too_long_for_the_models_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_questions, "_LONGEST", 60)
    assert written(monkeypatch, ["Who killed Hamlet?"]) == []


def test_a_rate_on_all_prompts_leaves_out_those_that_were_asked_for_what_changed() -> None:
    n_first, n_later = 30, 20
    first = np.arange(n_first + n_later) < n_first
    plain = [Answer(f"answer {i}", True) for i in range(len(first))]
    changed = [
        answer if one else Answer(f"ahoy {answer.text}", True)
        for answer, one in zip(plain, first, strict=True)
    ]
    family = np.where(first, np.arange(len(first)), 1000)
    prompts = PromptFeatures((frozenset(),) * len(first), np.zeros((len(first), 2)), family, family, first)
    table = AnswerTable.of(AnswerPair(plain, changed), LengthLevels(()))
    hypothesis = Hypothesis(4.0, "gained", AnswerFeature("opening", "ahoy"), (), Always())
    (tested,) = check_hypotheses([hypothesis], table, prompts, 0.05, 0.1)
    assert (tested.with_trigger.n, tested.with_trigger.intervened.count) == (n_first, 0)
    assert not findings_of([tested], 0.05, 0.1)
