"""Decoder layers are found by what runs, and their outputs come from hooks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import RwkvConfig, RwkvForCausalLM

from crosscoder.config import PairConfig
from crosscoder.errors import PairError
from crosscoder.language_models.decoder_layers import (
    find_decoder_layers,
    find_stack,
    middle_layer,
    text_settings,
    vocabulary_size,
)
from crosscoder.language_models.pair import ModelPair, load_pair
from tests.planted_network import Network

from . import zoo_architectures


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama", "model.layers"),
        ("gpt2", "transformer.h"),
        ("mamba", "backbone.layers"),
        ("openai-gpt", "transformer.h"),
        ("gemma3", "model.language_model.layers"),
        ("llava", "model.language_model.layers"),
        ("bart", "model.decoder.layers"),
    ],
)
def test_the_layers_of_a_model_are_found(name: str, path: str) -> None:
    model = zoo_architectures.make(name)
    assert find_decoder_layers(model) == (path, 3)
    assert vocabulary_size(model) == zoo_architectures.VOCABULARY
    assert text_settings(model).vocab_size == zoo_architectures.VOCABULARY
    stack = find_stack(model, f"{path}.1")
    assert stack is not None
    assert (stack.path, stack.n_below) == (path, 2)
    assert stack.layers is model.get_submodule(path)
    inside = find_stack(model, f"{path}.1.mlp")
    assert inside is not None
    assert inside.n_below == 1
    for outside in (path, f"{path}.3", f"{path}.x", "lm_head"):
        assert find_stack(model, outside) is None
    assert middle_layer([model, model]) == f"{path}.1"


def test_hidden_states_that_are_halved_between_layers_are_still_a_chain() -> None:
    """RWKV halves them after every `rescale_every` layers when it does not train."""
    config = RwkvConfig(
        vocab_size=64, hidden_size=16, attention_hidden_size=16, num_hidden_layers=5, rescale_every=2
    )
    assert find_decoder_layers(RwkvForCausalLM(config).eval()) == ("rwkv.blocks", 5)


@pytest.mark.parametrize("name", ["xlm", "gemma3n_text"])
def test_a_model_whose_layers_are_no_chain_has_none(name: str) -> None:
    """XLM adds between its attention and its feed-forward modules; Gemma 3n hands several streams from layer to layer."""
    model = zoo_architectures.make(name)
    assert find_decoder_layers(model) is None
    with pytest.raises(PairError, match=r"no decoder layers that correspond \(none and none\)"):
        middle_layer([model, model])


def test_a_list_that_is_not_read_in_order_is_no_chain() -> None:
    class Skipping(Network):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: Any) -> Any:
            hidden = self.embedding(input_ids)
            for layer in self.layers:
                hidden = hidden + layer(hidden)
            return hidden

    class Repeating(Network):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: Any) -> Any:
            hidden = self.embedding(input_ids)
            for _ in range(2):
                for layer in self.layers:
                    hidden = layer(hidden)
            return hidden

    embeddings = torch.randn(320, 12)
    assert find_decoder_layers(Network(embeddings, 0.0, 0.0)) == ("layers", 2)
    skipping = Skipping(embeddings, 0.0, 0.0)
    skipping.layers = nn.ModuleList(reversed(skipping.layers))
    assert find_decoder_layers(skipping) is None
    assert find_decoder_layers(Repeating(embeddings, 0.0, 0.0)) is None


def open_pair(folder: Path, name: str, hookpoint: str) -> ModelPair:
    side = {"model": str(zoo_architectures.save(name, folder / name)), "dtype": "float32"}
    return load_pair(
        PairConfig.model_validate(
            {"reference": side, "intervened": side, "hookpoint": hookpoint, "device": "cpu"}
        )
    )


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama", "model.layers"),
        ("mamba", "backbone.layers"),
        ("rwkv", "rwkv.blocks"),
        ("openai-gpt", "transformer.h"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # transformers warns of missing kernels
def test_the_states_of_a_full_pass_are_the_outputs_of_the_layers(
    tmp_path: Path, name: str, path: str
) -> None:
    """The last one is before the final norm. Some architectures return hidden states at another offset."""
    pair = open_pair(tmp_path, name, f"{path}.1")
    ids, mask = torch.arange(5, 17)[None], torch.ones(1, 12, dtype=torch.bool)
    outputs: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output if isinstance(output, torch.Tensor) else output[0])

    layers: Any = pair.models[0].get_submodule(path)
    handles = [layer.register_forward_hook(keep) for layer in layers]
    with torch.no_grad():
        logits = pair.models[0](input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    for handle in handles:
        handle.remove()
    passed = pair.full_pass(ids, mask, 0)
    assert passed.states is not None
    assert len(passed.states) == 4
    assert torch.equal(passed.logits, logits)
    for state, output in zip(passed.states[1:], outputs, strict=True):
        assert torch.equal(state, output)
    assert torch.equal(pair.activations(ids, mask)[0], passed.states[2])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pair.models[0].modules())
    # Replaced by itself, in a tensor, a tuple or a list, it changes nothing; replaced by zeros, it does.
    torch.testing.assert_close(pair.logits(ids, mask, lambda own: own, 0), logits)
    assert not torch.allclose(pair.logits(ids, mask, torch.zeros_like, 0), logits)
