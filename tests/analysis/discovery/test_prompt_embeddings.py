"""What triggers read of prompts: the reference's middle layer, and how far the last layers of the models are apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.behaviors.patching import INTERVENED
from analysis.behaviors.prompts import Prompt, encode
from analysis.discovery.prompt_embeddings import PromptEmbedding, embed, joined, standardized
from crosscoder.config import TokenPolicy
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.text_files import Text
from tests.tiny_pairs import run_config, save_adapter, save_llama

POLICY = TokenPolicy(mask_special=False, mask_first=0)
TEXTS = ["amber birch", "cedar dahlia elm fern", "iris"]


def pair_of(kind: str, folder: Path) -> ModelPair:
    reference = save_llama(folder / "reference")
    intervened: Path | dict[str, str]
    if kind == "same":
        intervened = {"model": str(reference)}
    elif kind == "model":
        intervened = save_llama(folder / "intervened", seed=5)
    elif kind == "wider":
        intervened = save_llama(folder / "intervened", width=24)
    elif kind == "adapter":
        intervened = {"adapter": str(save_adapter(reference, folder / "adapter"))}
    else:
        intervened = {"context": "maple nettle oak"}
    return load_pair(run_config(folder, reference, intervened).pair)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]


def prompts_of(pair: ModelPair, texts: Sequence[str] = TEXTS) -> list[Prompt]:
    return list(encode([Text(text, None, "here") for text in texts], pair))


@pytest.mark.parametrize("kind", ["model", "adapter", "context"])
def test_they_are_means_of_the_layers_of_both_models(kind: str, tmp_path: Path) -> None:
    pair = pair_of(kind, tmp_path)
    prompts = prompts_of(pair)
    found = embed(pair, prompts, POLICY, INTERVENED)
    paths = ["model.layers.1", "model.layers.2"]  # of three
    for place, prompt in enumerate(prompts):
        ids = torch.from_numpy(prompt.token_ids)[None]
        own, other = (
            [
                layer[0].double().mean(dim=0).numpy()
                for layer in pair.outputs(paths, ids, torch.ones_like(ids, dtype=torch.bool), m)
            ]
            for m in (0, 1)
        )
        assert found.reference[place] == pytest.approx(own[0], abs=1e-5)
        assert found.shift[place] == pytest.approx(other[1] - own[1], abs=1e-5)
    assert np.abs(found.shift).max() > 1e-3


def test_a_prompt_has_the_same_embedding_among_others_and_alone(tmp_path: Path) -> None:
    pair = pair_of("adapter", tmp_path)
    prompts = prompts_of(pair)
    together, alone = (
        embed(pair, prompts, POLICY, INTERVENED),
        joined([embed(pair, [prompt], POLICY, INTERVENED) for prompt in prompts]),
    )
    assert together.reference == pytest.approx(alone.reference, abs=1e-5)
    assert together.shift == pytest.approx(alone.shift, abs=1e-5)


def test_equal_models_have_no_shift(tmp_path: Path) -> None:
    pair = pair_of("same", tmp_path)
    found = embed(pair, prompts_of(pair), POLICY, INTERVENED)
    assert not found.shift.any()
    width = found.reference.shape[1]
    assert not standardized(found, found)[:, width:].any()


def test_models_of_other_widths_are_read_by_the_reference_alone(tmp_path: Path) -> None:
    found = embed(pair := pair_of("wider", tmp_path), prompts_of(pair), POLICY, INTERVENED)
    assert found.shift.shape == (len(TEXTS), 0)
    assert standardized(found, found).shape == found.reference.shape


def test_every_dimension_counts_in_units_of_its_spread() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 1000.0])
    like = PromptEmbedding(rng.normal(size=(500, 2)) * scale, rng.normal(size=(500, 2)) * scale)
    assert standardized(like, like).std(axis=0) == pytest.approx(np.ones(4), rel=0.1)


def test_what_is_only_rounding_does_not_count() -> None:
    rng = np.random.default_rng(0)
    like = PromptEmbedding(rng.normal(size=(500, 2)), 1e-7 * rng.normal(size=(500, 2)))
    assert np.abs(standardized(like, like)[:, 2:]).max() < 0.01
