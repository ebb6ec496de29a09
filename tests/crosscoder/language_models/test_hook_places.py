"""Hookpoints by the names of TransformerLens: the module that is found returns what is at that place."""

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from crosscoder.command.app import app
from crosscoder.config import PairConfig
from crosscoder.config.hook_names import HookName, parse_hook_name
from crosscoder.config.load import dump_config, load_config
from crosscoder.errors import PairError
from crosscoder.language_models.decoder_layers import find_decoder_layers
from crosscoder.language_models.hook_places import module_path
from crosscoder.language_models.hooks import forward, hidden, read_output
from crosscoder.language_models.pair import load_pair
from crosscoder.run.folder import RunFolder
from tests.tiny_pairs import run_config, save_adapter, save_gpt2, save_llama

from . import zoo_architectures

PLACES = {
    "llama": ("model.embed_tokens", "model.embed_tokens", "model.layers.", "self_attn", "mlp"),
    "gpt2": ("transformer.wte", "transformer.drop", "transformer.h.", "attn", "mlp"),
    "gpt_neox": ("gpt_neox.embed_in", "gpt_neox.embed_in", "gpt_neox.layers.", "attention", "mlp"),
    "gptj": ("transformer.wte", "transformer.wte", "transformer.h.", "attn", "mlp"),
    "falcon": ("transformer.word_embeddings",) * 2 + ("transformer.h.", "self_attention", "mlp"),
    "gemma": ("model.embed_tokens", "model.embed_tokens", "model.layers.", "self_attn", "mlp"),
    "gemma2": ("model.embed_tokens",) * 2
    + ("model.layers.", "post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("model.language_model.embed_tokens",) * 2
    + ("model.language_model.layers.", "post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("model.embed_tokens",) * 2
    + ("model.layers.", "post_attention_layernorm", "post_feedforward_layernorm"),
    "qwen3_moe": ("model.embed_tokens", "model.embed_tokens", "model.layers.", "self_attn", "mlp"),
    "mpt": ("transformer.wte", "transformer.wte", "transformer.blocks.", "attn", "ffn.down_proj"),
}
"""Architecture: modules of hook_embed and of the first hook_resid_pre, the layers, and inside a layer attention and MLP."""

KNOWN = ("llama", "gpt2", "gpt_neox", "gemma2")
"""Architectures that TransformerLens has a definition of, too."""


@cache
def made(name: str) -> nn.Module:
    return zoo_architectures.make(name)


def found(model: nn.Module, hookpoint: str) -> str:
    return module_path("pair.hookpoint", model, hookpoint, "a model")


def ids(n_tokens: int = 9) -> Tensor:
    """Other tokens than those of the search."""
    return torch.randint(3, 60, (2, n_tokens), generator=torch.Generator().manual_seed(1))


def read(model: nn.Module, hookpoint: str) -> Tensor:
    """Return what the toolkit reads at a hookpoint."""
    module = model.get_submodule(found(model, hookpoint))
    output = read_output(model, module, ids(), torch.ones_like(ids(), dtype=torch.bool))
    assert output is not None
    return output


def stream(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs and outputs of all decoder layers by hooks of torch."""
    layers = find_decoder_layers(model)
    assert layers is not None
    before, after = [], []
    handles = []
    for layer in model.get_submodule(layers[0]).children():
        handles.append(
            layer.register_forward_pre_hook(
                lambda _, given, options: before.append((*given, *options.values())[0].clone()),
                with_kwargs=True,
            )
        )
        handles.append(
            layer.register_forward_hook(lambda _, given, output: after.append(hidden(output).clone()))
        )
    forward(model, ids(), torch.ones_like(ids(), dtype=torch.bool))
    for handle in handles:
        handle.remove()
    return before, after


@pytest.mark.parametrize("name", PLACES)
def test_the_module_is_the_one_that_people_would_name(name: str) -> None:
    model = made(name)
    embedding, first, layers, attention, mlp = PLACES[name]
    assert found(model, "hook_embed") == embedding
    assert found(model, "blocks.0.hook_resid_pre") == first
    assert found(model, "blocks.1.hook_resid_pre") == f"{layers}0"
    assert found(model, "blocks.1.hook_resid_post") == f"{layers}1"
    assert found(model, "blocks.1.hook_attn_out") == f"{layers}1.{attention}"
    assert found(model, "blocks.2.hook_mlp_out") == f"{layers}2.{mlp}"


@pytest.mark.parametrize("name", [*PLACES, "bloom", "dbrx"])
def test_what_is_read_is_what_the_name_says(name: str) -> None:
    model = made(name)
    before, after = stream(model)
    for layer in range(3):
        assert torch.equal(read(model, f"blocks.{layer}.hook_resid_pre"), before[layer])
        assert torch.equal(read(model, f"blocks.{layer}.hook_resid_post"), after[layer])
        attention = read(model, f"blocks.{layer}.hook_attn_out")
        mlp = read(model, f"blocks.{layer}.hook_mlp_out")
        torch.testing.assert_close(before[layer] + attention + mlp, after[layer], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(attention, mlp)


@pytest.mark.parametrize("name", ["bloom", "dbrx"])
def test_the_middle_of_a_layer_is_read_where_a_module_returns_it(name: str) -> None:
    model = made(name)
    middle = stream(model)[0][1] + read(model, "blocks.1.hook_attn_out")
    torch.testing.assert_close(read(model, "blocks.1.hook_resid_mid"), middle, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KNOWN)
def test_transformerlens_has_the_same_activations_there(name: str, tmp_path: Path) -> None:
    bridges = pytest.importorskip("transformer_lens.model_bridge", reason="transformer-lens is not installed")
    folder = zoo_architectures.save(name, tmp_path / name)
    theirs = bridges.TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    _, cache = theirs.run_with_cache(ids())
    model = made(name)
    places = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
    for hookpoint in ("hook_embed", *(f"blocks.{layer}.{place}" for layer in range(3) for place in places)):
        torch.testing.assert_close(read(model, hookpoint), cache[hookpoint], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "hookpoint", "reason"),
    [
        ("llama", "blocks.1.attn.hook_z", "values of each head before they are projected"),
        ("llama", "blocks.1.hook_resid_mid", "a sum that the layer computes itself"),
        ("llama", "hook_pos_embed", "the same for every document"),
        ("llama", "blocks.3.hook_resid_pre", "the decoder layers go from 0 to 2"),
        ("llama", "blocks.1.hook_residpost", "did you mean 'blocks.N.hook_resid_post'"),
        ("llama", "blocks.1.hook_embed", "a name of TransformerLens whose place is not read here"),
        ("llama", "hook_resid_pre", "a name of TransformerLens whose place is not read here"),
        ("llama", "blocks.1.mlp.hook_post", "a name of TransformerLens whose place is not read here"),
        ("openai-gpt", "blocks.1.hook_mlp_out", "does not hold for the outputs of any two modules"),
        ("mamba", "blocks.1.hook_attn_out", "does not hold for the outputs of any two modules"),
        ("nanochat", "hook_embed", "not what the embedding returns"),
        # One module normalizes the embedding and the last layer's output, so its output is no one place.
        ("nanochat", "blocks.0.hook_resid_pre", "the input of the first layer, which no module returns"),
        ("opt", "blocks.0.hook_resid_pre", "the input of the first layer, which no module returns"),
        ("xlm", "blocks.0.hook_resid_pre", "no decoder layers that run one after another"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(name: str, hookpoint: str, reason: str) -> None:
    with pytest.raises(
        PairError, match=f"^pair.hookpoint: '{re.escape(hookpoint)}' of 'a model' is .*{reason}"
    ):
        found(made(name), hookpoint)


def test_states_that_are_rescaled_between_layers_are_not_those_of_the_layer_before() -> None:
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(
        vocab_size=64, hidden_size=16, attention_hidden_size=16, num_hidden_layers=5, rescale_every=2
    )
    model = RwkvForCausalLM(config).eval()
    assert found(model, "blocks.1.hook_resid_pre") == "rwkv.blocks.0"
    with pytest.raises(PairError, match="not the output of layer 1: the model changes it in between"):
        found(model, "blocks.2.hook_resid_pre")


@pytest.mark.parametrize(
    "path",
    ["model.layers.1", "blocks.1", "transformer.blocks.1.ffn", "hook", "blocks.x.hook_resid_pre.more", ""],
)
def test_a_path_is_no_name(path: str) -> None:
    assert parse_hook_name(path) is None
    assert found(made("llama"), path) == path


def test_names_are_taken_apart() -> None:
    assert parse_hook_name("blocks.14.hook_resid_pre") == HookName(14, "hook_resid_pre")
    assert parse_hook_name("blocks.3.attn.hook_z") == HookName(3, "attn.hook_z")
    assert parse_hook_name("hook_embed") == HookName(None, "hook_embed")


# --- in a pair --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    llama = save_llama(folder / "llama")
    return {
        "llama": llama,
        "changed": save_llama(folder / "changed", seed=1),
        "gpt2": save_gpt2(folder / "gpt2"),
        "adapter": save_adapter(llama, folder / "adapter"),
    }


def pair_config(reference: Path, intervened: dict[str, Any], **more: Any) -> PairConfig:
    return PairConfig.model_validate(
        {
            "reference": {"model": str(reference), "dtype": "bfloat16"},
            "intervened": intervened,
            "device": "cpu",
        }
        | more
    )


def test_a_pair_by_name_is_the_pair_by_path(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    intervened = {"model": str(models["changed"]), "dtype": "bfloat16"}
    with caplog.at_level(logging.INFO, "crosscoder.language_models.hook_places"):
        named = load_pair(pair_config(models["llama"], intervened, hookpoint="blocks.1.hook_attn_out"))
    plain = load_pair(pair_config(models["llama"], intervened, hookpoint="model.layers.1.self_attn"))
    assert named.config == plain.config
    assert named.identity() == plain.identity()
    said = [record.message for record in caplog.records]
    assert said[0] == (
        f"pair.hookpoint: blocks.1.hook_attn_out of {str(models['llama'])!r} is model.layers.1.self_attn"
    )
    mask = torch.ones_like(ids(), dtype=torch.bool)
    for one, other in zip(named.activations(ids(), mask), plain.activations(ids(), mask), strict=True):
        assert torch.equal(one, other)


def test_an_adapter_does_not_change_where_a_place_is(models: dict[str, Path]) -> None:
    pair = load_pair(
        pair_config(models["llama"], {"adapter": str(models["adapter"])}, hookpoint="blocks.2.hook_mlp_out")
    )
    assert pair.hookpoints == ("model.layers.2.mlp", "model.layers.2.mlp")
    assert pair.config.intervened_hookpoint is None


def test_a_name_may_be_another_module_in_each_model(models: dict[str, Path]) -> None:
    intervened = {"model": str(models["gpt2"]), "dtype": "bfloat16"}
    pair = load_pair(pair_config(models["llama"], intervened, hookpoint="blocks.1.hook_resid_post"))
    assert pair.hookpoints == ("model.layers.1", "transformer.h.1")
    mixed = {"hookpoint": "model.layers.0", "intervened_hookpoint": "blocks.2.hook_resid_pre"}
    pair = load_pair(pair_config(models["llama"], intervened, **mixed))
    assert pair.hookpoints == ("model.layers.0", "transformer.h.1")
    with pytest.raises(PairError, match=r"^pair.intervened_hookpoint: 'blocks.1.attn.hook_z' of '.*gpt2' is"):
        load_pair(
            pair_config(
                models["llama"], intervened, **mixed | {"intervened_hookpoint": "blocks.1.attn.hook_z"}
            )
        )


@pytest.mark.slow
def test_a_run_by_name_is_the_run_by_path(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(tmp_path, models["llama"], models["changed"])
    folder = RunFolder(config.output)
    plain, named = tmp_path / "plain.yaml", tmp_path / "named.yaml"
    plain.write_text(dump_config(config))
    named.write_text(dump_config(config).replace("model.layers.1", "blocks.1.hook_resid_post"))
    assert "blocks.1.hook_resid_post" in named.read_text()

    def harvest(file: Path, *words: str) -> Any:
        return CliRunner().invoke(app, ["harvest", str(file), "wandb.mode=disabled", *words])

    first = harvest(named)
    assert first.exit_code == 0, first.output
    assert "hook_resid_post" not in folder.config.read_text()
    stored = load_config(folder.config).pair
    assert stored is not None
    assert stored.hookpoint == "model.layers.1"
    shards = sorted(path.stat().st_mtime_ns for path in folder.activations.rglob("*.safetensors"))
    for again in (plain, named):
        done = harvest(again)
        assert done.exit_code == 0, done.output
        assert sorted(path.stat().st_mtime_ns for path in folder.activations.rglob("*.safetensors")) == shards
    other = harvest(named, "pair.hookpoint=blocks.1.hook_resid_pre")
    assert other.exit_code == 2
    assert "pair.hookpoint" in other.output
