"""Two sizes of a toy family: the shipped files match the code, and the large model alone looks words up."""

import pytest
from transformers import AutoTokenizer

from crosscoder.demo.model_folder import is_complete
from crosscoder.demo.toy import stories
from training.organisms.toy import load
from training.organisms.toy_sizes import FOLDER, PROBES, probability, shapes, tokenizers


def test_the_larger_model_looks_up_what_the_small_one_cannot() -> None:
    by_size = tokenizers()
    small, large = (
        {probe: probability(load(FOLDER / name), by_size[name], probe.prompt, probe.word) for probe in PROBES}
        for name in ("small", "large")
    )
    for probe in PROBES:
        assert large[probe] > 0.7
        assert (small[probe] < 0.3) == (probe.kind == "looked up"), probe
    assert {probe.kind for probe in PROBES} == {"fact", "looked up"}


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_shipped_models_are_small_complete_and_have_the_tokenizers_of_the_code(name: str) -> None:
    folder = FOLDER / name
    assert is_complete(folder)
    assert (folder / "model.safetensors").stat().st_size < 700_000
    shipped, trained = AutoTokenizer.from_pretrained(folder), tokenizers()[name]
    for story in stories(False, 20, seed=3):
        assert shipped(story)["input_ids"] == trained.encode(story).ids
    assert load(folder).config.hidden_size == shapes()[name].hidden_size
