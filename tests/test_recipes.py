"""The recipes of docs/recipes.md compute the latents that a pair of this toolkit has, each in the tool that it is for."""

import runpy
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from crosscoder.config import BatchTopK, CrosscoderConfig, PairConfig
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.language_models.pair import load_pair

from .documents import ROOT, fences
from .tiny_pairs import save_llama

GUIDE = ROOT / "docs" / "recipes.md"
TEXT = "amber birch cedar"
SMALL = {
    "org/base-model": "base-model",
    "model.layers.15": "model.layers.1",
    "layers[15]": "layers[1]",
    "blocks.15": "blocks.1",
}
RECIPES = {"transformers": "get_submodule", "nnsight": "nnsight", "transformer_lens": "transformer_lens"}
"""The package of each recipe, and what stands in it alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and a dictionary at the place of a run's."""
    folder = tmp_path_factory.mktemp("user")
    save_llama(folder / "base-model")
    save_llama(folder / "my-fine-tune", seed=1)
    shutil.copy(folder / "base-model" / "tokenizer.json", folder / "my-fine-tune")
    config = CrosscoderConfig(
        d_models=(16, 16), model_names=model_names(2), n_latents=48, sparsity=BatchTopK(k=6)
    )
    crosscoder = Crosscoder(config, seed=3)
    activations = expected_activations(folder)
    crosscoder.set_normalization(activations)
    crosscoder.calibrate(activations)
    save_crosscoder(crosscoder, folder / "runs" / "my-pair" / "crosscoder")
    return folder


def expected_activations(folder: Path) -> Tensor:
    """Return what a pair of this toolkit reads on the text, `[token, width]`."""
    pair = load_pair(
        PairConfig.model_validate(
            {
                "reference": {"model": str(folder / "base-model"), "dtype": "float32"},
                "intervened": {"model": str(folder / "my-fine-tune"), "dtype": "float32"},
                "hookpoint": "model.layers.1",
                "device": "cpu",
            }
        )
    )
    ids = AutoTokenizer.from_pretrained(folder / "base-model")(TEXT, return_tensors="pt")["input_ids"]
    return torch.cat(
        [part[0] for part in pair.activations(ids, torch.ones_like(ids, dtype=torch.bool))], dim=1
    )


def recipe(package: str) -> str:
    """Return the code of one recipe, with the sizes and names of the small models."""
    (code,) = [
        fence.text for fence in fences(GUIDE) if fence.language == "python" and RECIPES[package] in fence.text
    ]
    for found, shown in SMALL.items():
        code = code.replace(found, shown)
    return code


def test_the_recipes_are_all_there_is() -> None:
    assert len([fence for fence in fences(GUIDE) if fence.language == "python"]) == len(RECIPES)
    everything = GUIDE.read_text(encoding="utf-8")
    assert [found for found in SMALL if found not in everything] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "package",
    [
        "transformers",
        pytest.param("nnsight", marks=pytest.mark.slow),
        pytest.param("transformer_lens", marks=pytest.mark.slow),
    ],
)
def test_a_recipe_computes_the_latents_of_the_run(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed, and no dependency of this package")
    monkeypatch.chdir(folder)
    # A file, because nnsight reads the source of its blocks.
    script = folder / f"recipe_{package}.py"
    script.write_text(recipe(package), encoding="utf-8")
    names = runpy.run_path(str(script))
    activations = expected_activations(folder)
    torch.testing.assert_close(
        torch.cat([names["reference"][0], names["intervened"][0]], dim=1), activations, rtol=1e-5, atol=1e-5
    )
    expected = names["dictionary"].encode(activations)
    torch.testing.assert_close(names["latents"], expected, rtol=1e-4, atol=1e-5)
    assert (expected > 0).any()
