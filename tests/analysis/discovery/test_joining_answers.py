"""Which answers join the text: both models', to the prompts of the find set alone."""

from pathlib import Path

import numpy as np
import pytest

from analysis.behaviors.prompts import Prompt, encode
from analysis.discovery.answer_features import Answer
from analysis.discovery.joining_answers import joining_answers
from analysis.discovery.probes import Probe, as_chat
from analysis.discovery.search import Asked
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.record_shapes import Text
from tests.tiny_pairs import run_config, save_llama


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    folder = tmp_path_factory.mktemp("pair")
    config = run_config(folder, save_llama(folder / "a"), save_llama(folder / "b", 1, words=True))
    assert config.pair is not None
    return load_pair(config.pair.model_copy(update={"align": "characters"}))


def asked(answers: list[tuple[str, str, bool]]) -> Asked:
    """Chats with both models' answers; the last says whether it is in the find set."""
    probes = [
        Probe(Prompt(f"q {i}", np.array([5])), as_chat(f"q {i}", f"file, line {i}"), "probes", find, i)
        for i, (_, _, find) in enumerate(answers)
    ]
    sides = [
        [Answer(answer, bool(answer)) for answer in side] for side in list(zip(*answers, strict=True))[:2]
    ]
    return Asked(probes, *sides)


def test_answers_to_the_claim_set_stay_out(pair: ModelPair) -> None:
    found = joining_answers(
        asked([("oak", "elm", True), ("pine", "rose", False), ("fern", "kale", True)]), pair
    )
    contents = [[message["content"] for message in one.text.messages or ()] for one in found]
    assert contents == [["q 0", "oak"], ["q 0", "elm"], ["q 2", "fern"], ["q 2", "kale"]]
    assert [one.model for one in found] == ["reference", "intervened"] * 2
    assert [(one.prompt, one.text.origin) for one in found] == [(0, "file, line 0")] * 2 + [
        (2, "file, line 2")
    ] * 2


def test_an_answer_that_both_give_joins_once_and_an_empty_one_not(pair: ModelPair) -> None:
    found = joining_answers(asked([("oak", "oak", True), ("", "elm", True), ("", "", True)]), pair)
    assert [(one.model, one.prompt) for one in found] == [("both", 0), ("intervened", 1)]
    cut = asked([("oak", "oak", True)])
    cut.intervened[0] = cut.intervened[0]._replace(finished=False)
    assert [(one.model, one.finished) for one in joining_answers(cut, pair)] == [
        ("reference", True),
        ("intervened", False),
    ]


def test_a_text_goes_on_as_its_tokens_say(pair: ModelPair, tmp_path: Path) -> None:
    """The text of an answer alone has lost the space before it; each model writes tokens of its own."""
    text = Text("amber birch", None, "file, line 1")
    (prompt,) = encode([text], pair)
    probe = Probe(prompt, text, "text", True, 0)
    answers = [
        Answer(
            "cedar oak", False, tuple(pair.tokenizer_of(model)(words, add_special_tokens=False)["input_ids"])
        )
        for model, words in enumerate((" cedar oak", "cedar oak"))
    ]
    found = joining_answers(Asked([probe], answers[:1], answers[1:]), pair)
    assert [(one.text.content, one.model) for one in found] == [("amber birch cedar oak", "both")]


def test_prompts_near_each_other_share_a_number(pair: ModelPair) -> None:
    made = asked([("oak", "elm", True), ("pine", "rose", True)])
    probe = made.probes[1]
    made.probes[1] = Probe(probe.prompt, probe.text, "similar", True, 1, near=0)
    assert {one.prompt for one in joining_answers(made, pair)} == {0}
