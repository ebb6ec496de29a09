"""Every architecture and every kind of adapter either does what the rest relies on, or is refused by name.

The second model of a pair differs from the first in its decoder layers from the second on; the hookpoint is the second layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from analysis.behaviors.activations import PromptActivations
from analysis.behaviors.attribution import attribute, measure_corners
from analysis.behaviors.layers import patch_layers
from analysis.behaviors.logit_metrics import NextTokenLogOdds
from analysis.behaviors.measurement import LogitMeasurement
from analysis.behaviors.prompts import Prompt
from analysis.latents.dictionary_view import view_of
from crosscoder.config import BatchTopK, CrosscoderConfig, PairConfig, TokenPolicy
from crosscoder.config.behavior import AttributionSettings
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.errors import PairError
from crosscoder.language_models.decoder_layers import find_decoder_layers
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.documents import Documents, tokenize
from tests.tiny_pairs import run_config, save_word_tokenizer
from training.doctor import check_hook
from training.survey import survey_layers
from training.survey.layers import relative_change, unbiased_cka

from . import zoo_adapters, zoo_architectures

# peft and transformers warn of what is meant here: random weights, missing kernels, rare kinds of adapters.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def some_tokens() -> tuple[Tensor, Tensor]:
    """Return four right-padded documents with a common prefix, in the middle of the vocabulary."""
    mask = torch.arange(12) < torch.tensor([6, 12, 8, 9])[:, None]
    ids = torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(0))
    ids[:, :4] = ids[0, :4].clone()
    return ids, mask


@contextmanager
def calls(modules: list[nn.Module]) -> Iterator[list[tuple[nn.Module, Any, Any, Any]]]:
    """Record module, arguments, options and first output of every call."""
    seen: list[tuple[nn.Module, Any, Any, Any]] = []

    def keep(module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        seen.append((module, arguments, options, output[0] if isinstance(output, (tuple, list)) else output))

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def own_outputs(network: Any, path: str, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Return what each decoder layer returns in a plain pass; a layer that is called again gives the same."""
    layers = list(network.get_submodule(path))
    with calls(layers) as seen:
        network(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    assert [call[0] for call in seen] == layers
    for layer, arguments, options, output in seen:
        again = layer(*arguments, **options)
        again = again[0] if isinstance(again, (tuple, list)) else again
        torch.testing.assert_close(again, output, rtol=1e-5, atol=1e-5)
    return [call[3] for call in seen]


def save_pair(name: str, folder: Path) -> PairConfig:
    """Save two models that differ in their decoder layers from the second on; return the settings of the pair."""
    zoo_architectures.save(name, folder / "reference")
    model = zoo_architectures.make(name)
    found = find_decoder_layers(model)
    assert found is not None, "no decoder layers"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.startswith(found[0]) and not path.startswith(f"{found[0]}.0."):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    zoo_architectures.save_model(model, folder / "intervened")
    sides = {side: {"model": str(folder / side), "dtype": "float32"} for side in ("reference", "intervened")}
    return PairConfig.model_validate({**sides, "hookpoint": f"{found[0]}.1", "device": "cpu"})


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """Texts in the tokens of all models of this file."""
    folder = tmp_path_factory.mktemp("texts")
    save_word_tokenizer(folder)
    config = run_config(folder, folder, folder)
    assert config.text is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenize(config.text, config.tokens, tokenizer, tokenizer.chat_template, 0)


def check_reading(pair: ModelPair, path: str, tolerance: float = 1e-4) -> None:
    """Hook = the layer's own output, batched = single, prefix-shared = whole."""
    ids, mask = some_tokens()
    whole, shared = pair.activations(ids, mask), pair.activations(ids, mask, 4)
    for model, (read, continued) in enumerate(zip(whole, shared, strict=True)):
        with pair.switched(model) as network:
            own = own_outputs(network, path, ids, mask)
            states = pair.full_pass(ids, mask, model).states
            assert states is not None
            assert len(states) == len(own) + 1
            for state, output in zip(states[1:], own, strict=True):
                assert torch.equal(state[mask], output[mask])
            assert torch.equal(read[mask], own[1][mask]), "the hook reads something else"
            torch.testing.assert_close(continued[mask], read[mask], rtol=tolerance, atol=tolerance)
            for row, length in enumerate(mask.sum(dim=1).tolist()):
                alone = pair.activations_of(model, ids[row : row + 1, :length], mask[row : row + 1, :length])
                torch.testing.assert_close(alone[0], read[row, :length], rtol=tolerance, atol=tolerance)


def check_table(pair: ModelPair, documents: Documents, path: str) -> None:
    """The table of layers = the outputs of the layers, document by document; here every training document is compared."""
    table = survey_layers(pair, documents, 1000)
    assert table is not None
    rows: list[list[list[Tensor]]] = [[], []]
    for document in documents.split(held_out=False).tolist():
        ids = torch.from_numpy(documents.tokens_of(document).astype(np.int64))[None]
        kept = torch.from_numpy(
            ~documents.masked[documents.offsets[document] : documents.offsets[document + 1]]
        )
        for model in range(2):
            with pair.switched(model) as network:
                outputs = own_outputs(network, path, ids, torch.ones_like(ids, dtype=torch.bool))
            rows[model].append([output[0, kept] for output in outputs])
    states = [[torch.cat(parts) for parts in zip(*side, strict=True)] for side in rows]
    assert len(table) == len(states[0]) + 1
    assert [row["hookpoint"] for row in table] == [index == 2 for index in range(len(table))]
    for row, one, other in zip(table[1:], *states, strict=True):
        assert row["change"] == pytest.approx(
            relative_change(one.double(), other.double()), rel=1e-3, abs=1e-7
        )
        assert row["cka"] == pytest.approx(unbiased_cka(one.double(), other.double()), abs=1e-3)


def check_attribution(pair: ModelPair, around: bool = False) -> None:
    """The shift is split onto latents and the rest, and its share at each layer is measured.

    Args:
        around: Whether the models differ above their last layer, too, or in the number of layers.
    """
    generator = np.random.default_rng(0)
    prompts = [Prompt(str(i), generator.integers(5, 20, size=3 + i % 3)) for i in range(4)]
    metric = NextTokenLogOdds(torch.tensor([5]), torch.tensor([6]))
    config = CrosscoderConfig(
        d_models=pair.d_models, model_names=("reference", "intervened"), n_latents=16, sparsity=BatchTopK(k=2)
    )
    dictionary = Crosscoder(config, seed=0)
    with torch.no_grad():
        dictionary.sparsity.threshold.fill_(0.5)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    view = view_of(dictionary, pair.d_models, "paired")
    measured = LogitMeasurement(
        PromptActivations.from_rows(pair, view, metric.rows(prompts), TokenPolicy()), metric
    )
    corners = measure_corners(measured)
    found = attribute(measured, corners, AttributionSettings(residual=0.2, max_steps=8), 16)
    summed = found.latents.sum(axis=1) + sum(found.rest.values()) + found.residual
    np.testing.assert_allclose(summed, corners.represented, atol=1e-8)
    layers = patch_layers(pair, metric, prompts, TokenPolicy(), 0.95, 0)
    assert (layers is not None) == (
        find_decoder_layers(pair.models[0]) == find_decoder_layers(pair.models[1])
    )
    if not around:
        assert layers is not None
        assert layers[-1]["represented"]["value"] == pytest.approx(1, abs=1e-3)


REFUSED = {
    "gemma3n_text": "no decoder layers",  # a layer returns several streams of hidden states
    "xlm": "no decoder layers",  # attention and feed-forward are lists of their own
}


@pytest.mark.parametrize("name", sorted(set(zoo_architectures.ARCHITECTURES) - set(REFUSED)))
def test_an_architecture(name: str, documents: Documents, tmp_path: Path) -> None:
    config = save_pair(name, tmp_path)
    pair = load_pair(config)
    path = pair.hookpoints[0].rpartition(".")[0]
    shared = pair._joint_forward._shared[1]
    assert shared is not None and shared.n_layers == 1, "the layer below the first difference is run twice"
    check_reading(pair, path)
    check_table(pair, documents, path)
    assert "equals the output of layer 1" in check_hook(pair, documents, 1)
    check_attribution(pair)


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_is_refused(name: str, tmp_path: Path) -> None:
    side = {"model": str(zoo_architectures.save(name, tmp_path)), "dtype": "float32"}
    config = PairConfig.model_validate({"reference": side, "intervened": side, "device": "cpu"})
    with pytest.raises(PairError) as caught:
        load_pair(config, middle_if_open=True)
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)


# --- adapters -----------------------------------------------------------------------------------------------------------

ADAPTERS_REFUSED = (
    {
        "activated": "acts only through the forward of PeftModel (alora_invocation_tokens=[7, 8])",
        "corda": "please run `preprocess_corda` first",  # peft loads such an adapter only after its conversion to LoRA
        "lily": "later tokens or other documents change predictions",  # its router averages over the batch
        "loftq": "bitsandbytes is not available",
        "pissa_niter": "gives another model each time",
        "poly": "task_ids should not be None",
        "shadow": "does not run on token ids alone",
    }
    | dict.fromkeys(
        ["cartridge", "cpt", "multitask", "p_tuning", "prefix_tuning", "prompt_tuning"],
        "which adds virtual tokens",
    )
)

OWN_COPIES = {"pissa", "olora", "layer_replication"}

# Adapters that change what is above the last decoder layer, or the number of layers.
AROUND_LAYERS = {
    "head",
    "ln_tuning",
    "modules_to_save",
    "saved_head",
    "saved_embedding",
    "layer_replication",
    "supertuning",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo_architectures.save("llama", tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def biased_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with biases, and with an unembedding that is its embedding."""
    return zoo_architectures.save("starcoder2", tmp_path_factory.mktemp("base") / "starcoder2")


def adapter_pair(base: Path, adapter: Path, dtype: str = "float32") -> PairConfig:
    return PairConfig.model_validate(
        {
            "reference": {"model": str(base), "dtype": dtype},
            "intervened": {"adapter": str(adapter)},
            "hookpoint": "model.layers.1",
            "device": "cpu",
        }
    )


@torch.no_grad()
def plain_logits(base: Path, adapter: Path | None, ids: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return logits of the model, or of peft's own model with the adapter, loaded without any code of this project."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval()(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits


def check_sides(pair: ModelPair, base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> None:
    """Adapter off = the bare base, on = peft's own forward, in either order."""
    ids, mask = some_tokens()
    off, on = (plain_logits(base, path, ids, mask, dtype) for path in (None, adapter))
    for model, expected in ((1, on), (0, off), (1, on)):
        assert torch.equal(pair.logits(ids, mask, None, model)[mask], expected[mask])
    assert (on - off)[mask].abs().max() > 0.01


@pytest.mark.parametrize("name", sorted(set(zoo_adapters.ADAPTERS) - set(ADAPTERS_REFUSED)))
def test_an_adapter(name: str, base: Path, documents: Documents, tmp_path: Path) -> None:
    adapter = zoo_adapters.save(name, base, tmp_path / "adapter")
    pair = load_pair(adapter_pair(base, adapter))
    assert pair.networks.own_copies == (name in OWN_COPIES)
    assert ("base_weights" in pair.identity()["intervened"]) == (name in OWN_COPIES)
    check_sides(pair, base, adapter)
    check_reading(pair, "model.layers")
    if name != "layer_replication":
        check_table(pair, documents, "model.layers")
    check_attribution(pair, name in AROUND_LAYERS)
    check_sides(pair, base, adapter)


@pytest.mark.parametrize("name", sorted(ADAPTERS_REFUSED))
def test_an_adapter_that_is_refused(name: str, base: Path, tmp_path: Path) -> None:
    adapter = zoo_adapters.save(name, base, tmp_path / "adapter")
    with pytest.raises(PairError) as caught:
        load_pair(adapter_pair(base, adapter))
    assert ADAPTERS_REFUSED[name] in str(caught.value)
    assert str(adapter) in str(caught.value)
    assert "\n" not in str(caught.value)
