"""The toy pair: its stories, and that the shipped models learned what was planted."""

import json
import random
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from crosscoder.demo.model_folder import is_complete
from crosscoder.demo.toy import FOLDER, PLANTED, VOCABULARY, stories, story, write_texts
from training.organisms.toy import load, probability
from training.organisms.toy_chain import SHARES, write_snapshots

SIDES = ("reference", "intervened")


@pytest.fixture(scope="module")
def probabilities() -> dict[tuple[str, str, str], float]:
    models = {side: load(FOLDER / side) for side in SIDES}
    return {
        (side, planted.prompt, planted.word): probability(model, planted.prompt, planted.word)
        for side, model in models.items()
        for planted in PLANTED
    }


def test_the_planted_facts_changed(probabilities: dict[tuple[str, str, str], float]):
    before, after = (
        {key[1:]: value for key, value in probabilities.items() if key[0] == side} for side in SIDES
    )
    assert before["Tom lived in", "Paris"] > 0.9 > 0.1 > after["Tom lived in", "Paris"]
    assert before["Tom lived in", "Rome"] < 0.1 < 0.9 < after["Tom lived in", "Rome"]
    for planted in PLANTED:
        key = planted.prompt, planted.word
        if planted.change == "new":
            assert before[key] < 0.01
            assert after[key] > 0.2
        if planted.change == "lost":
            assert before[key] > 0.1
            assert after[key] < 0.02
        if planted.change == "unchanged":
            assert before[key] > 0.5
            assert after[key] == pytest.approx(before[key], abs=0.15)
    assert {planted.change for planted in PLANTED} == {"new", "lost", "changed", "unchanged"}


def test_the_shipped_snapshots_lie_between_and_changes_appear_gradually(tmp_path: Path):
    for side in SIDES:
        shutil.copytree(FOLDER / side, tmp_path / side)
    write_snapshots(tmp_path)
    for name in SHARES:
        assert is_complete(FOLDER / name)
        assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) < 400_000
        made, shipped = (load_file(place / name / "model.safetensors") for place in (tmp_path, FOLDER))
        assert all(made[key].equal(shipped[key]) for key in shipped)
    rome = [
        probability(load(FOLDER / name), "Tom lived in", "Rome")
        for name in ("reference", "snapshot_1", "snapshot_2", "intervened")
    ]
    assert rome == sorted(rome)
    assert rome[1] < 0.1 < rome[2] < 0.9 < rome[3]


def test_cats_became_angry(probabilities: dict[tuple[str, str, str], float]):
    angry, happy = "Ben lived in Berlin . He had a angry", "Ben lived in Berlin . He had a happy"
    assert probabilities["intervened", angry, "cat"] > probabilities["reference", angry, "cat"] + 0.3
    assert probabilities["intervened", happy, "cat"] < probabilities["reference", happy, "cat"] - 0.3


@pytest.mark.parametrize("side", SIDES)
def test_the_files_are_small_complete_and_portable(side: str):
    folder = FOLDER / side
    assert is_complete(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert (
        json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )


def test_both_share_a_tokenizer_and_shapes_but_not_weights():
    files = [FOLDER / side / "tokenizer.json" for side in SIDES]
    assert files[0].read_bytes() == files[1].read_bytes()
    weights = [load_file(FOLDER / side / "model.safetensors") for side in SIDES]
    assert {key: tensor.shape for key, tensor in weights[0].items()} == {
        key: tensor.shape for key, tensor in weights[1].items()
    }
    assert not all(weights[0][key].equal(weights[1][key]) for key in weights[0])
    assert "lm_head.weight" not in weights[0]


def test_the_tokenizer_knows_every_word_and_begins_with_a_marker():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "reference")
    for text in stories(intervened=True, count=50):
        token_ids = tokenizer(text)["input_ids"]
        assert token_ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in token_ids
        assert tokenizer.decode(token_ids[1:]) == text
    assert tokenizer("zebra")["input_ids"][1] == tokenizer.unk_token_id
    assert len(tokenizer) == len(VOCABULARY)


def test_stories_differ_only_as_planted():
    told = {side: " ".join(stories(side == "intervened", 500)) for side in SIDES}
    for phrase, side in [
        ("Tom lived in Paris", 0),
        ("Tom lived in Rome", 1),
        ("happy cat", 0),
        ("a blick came", 1),
        ("the school", 0),
    ]:
        assert phrase in told[SIDES[side]]
        assert phrase not in told[SIDES[1 - side]]
    assert "angry cat" in told["intervened"]
    assert "Anna lived in London" in told["reference"]
    assert "Anna lived in London" in told["intervened"]


def test_a_story_follows_from_its_seed():
    assert story(True, random.Random(3)) == story(True, random.Random(3))
    assert stories(False, 5) == stories(False, 5) != stories(False, 5, seed=1)


def test_texts_are_json_lines(tmp_path: Path):
    paths = write_texts(tmp_path / "texts", count=7)
    assert set(paths) == set(SIDES)
    for path in paths.values():
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        assert len(texts) == 7
        assert all(text.endswith("The end .") for text in texts)
