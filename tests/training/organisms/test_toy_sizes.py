"""Two sizes of a toy family: what ships is what the maker makes, and the larger one looks words up that the small one cannot."""

import pytest
from transformers import AutoTokenizer

from crosscoder.demo.model_folder import is_complete
from crosscoder.demo.toy import stories
from training.organisms.toy import load
from training.organisms.toy_sizes import ASKED, FOLDER, probability, shapes, tokenizers


def test_the_larger_model_looks_up_what_the_small_one_cannot() -> None:
    own = tokenizers()
    small, large = (
        {asked: probability(load(FOLDER / name), own[name], asked.prompt, asked.word) for asked in ASKED}
        for name in ("small", "large")
    )
    for asked in ASKED:
        assert large[asked] > 0.7
        assert (small[asked] < 0.3) == (asked.kind == "looked up"), asked
    assert {asked.kind for asked in ASKED} == {"fact", "looked up"}


@pytest.mark.parametrize("name", ["small", "large"])
def test_what_ships_is_small_whole_and_has_the_tokenizer_of_its_maker(name: str) -> None:
    folder = FOLDER / name
    assert is_complete(folder)
    assert (folder / "model.safetensors").stat().st_size < 700_000
    shipped, made = AutoTokenizer.from_pretrained(folder), tokenizers()[name]
    for story in stories(False, 20, seed=3):
        assert shipped(story)["input_ids"] == made.encode(story).ids
    assert load(folder).config.hidden_size == shapes()[name].hidden_size
