import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscoder.config import PairConfig
from crosscoder.demo.corpus import ADAPTER
from crosscoder.demo.smollm2 import PACKAGE, find_gguf, prepare
from crosscoder.demo.toy import FOLDER as TOY_PAIR
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.shared_layers import find_shared_layers
from tests.tiny_pairs import save_adapter, save_gpt2, save_llama

LLAMA, GPT2 = "model.layers.2", "transformer.h.2"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    llama, gpt2 = save_llama(folder / "llama"), save_gpt2(folder / "gpt2")
    found = {"llama": llama, "gpt2": gpt2, "copy": shutil.copytree(llama, folder / "copy")}
    for layers in ([0], [1], [2], [0, 2]):
        name = "adapter" + "".join(map(str, layers))
        found[name] = save_adapter(llama, folder / name, layers_to_transform=layers)
    changes = {
        "layer2": (llama, "model.layers.2.mlp.up_proj.weight"),
        "layer0": (llama, "model.layers.0.mlp.up_proj.weight"),
        "words": (llama, "model.embed_tokens.weight"),
        "norm": (llama, "model.norm.weight"),
        "gpt2_layer1": (gpt2, "transformer.h.1.mlp.c_fc.bias"),
        "gpt2_places": (gpt2, "transformer.wpe.weight"),
    }
    for name, (base, weight) in changes.items():
        found[name] = shutil.copytree(base, folder / name)
        weights = load_file(found[name] / "model.safetensors")
        weights[weight][-1] += 0.25
        save_file(weights, found[name] / "model.safetensors", metadata={"format": "pt"})
    return found


def open_pair(
    reference: Path,
    intervened: Path,
    hookpoint: str = LLAMA,
    dtype: str = "float32",
    other: str | None = None,
) -> ModelPair:
    adapter = (intervened / "adapter_config.json").exists()
    side = {"adapter": str(intervened)} if adapter else {"model": str(intervened), "dtype": dtype}
    settings: dict[str, Any] = {
        "reference": {"model": str(reference), "dtype": dtype},
        "intervened": side,
        "hookpoint": hookpoint,
        "intervened_hookpoint": other,
        "device": "cpu",
    }
    return load_pair(PairConfig.model_validate(settings))


def some_tokens(vocabulary: int = 280) -> tuple[Tensor, Tensor]:
    """Return four right-padded documents with a common prefix."""
    mask = torch.arange(20) < torch.tensor([8, 20, 9, 14])[:, None]
    ids = torch.randint(3, vocabulary, (4, 20))
    ids[:, :6] = ids[0, :6].clone()
    return ids * mask, mask


def two_passes(pair: ModelPair, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Read the two models separately."""
    outputs: list[Tensor] = []
    for model, hookpoint in enumerate(pair.hookpoints):
        with pair.switched(model) as network, torch.no_grad():
            handle = network.get_submodule(hookpoint).register_forward_hook(
                lambda _, __, output: outputs.append(output if isinstance(output, Tensor) else output[0])
            )
            network(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            handle.remove()
    return tuple(outputs)


@contextmanager
def counted(pair: ModelPair) -> Iterator[list[int]]:
    """Record the number of positions that pass through the linear modules of both models' layers."""
    runs: list[int] = []
    maps = {
        module
        for network in pair.models
        for name, module in network.named_modules()
        if name.endswith(("mlp.up_proj", "mlp.c_fc"))
    }
    handles = [
        module.register_forward_hook(lambda _, inputs, __: runs.append(inputs[0].shape[:2].numel()))
        for module in maps
    ]
    yield runs
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("reference", "intervened", "hookpoint", "n_layers"),
    [
        ("llama", "adapter0", LLAMA, 0),
        ("llama", "adapter1", LLAMA, 1),
        ("llama", "adapter2", LLAMA, 2),
        ("llama", "adapter02", LLAMA, 0),
        ("llama", "adapter2", "model.layers.1", 2),
        ("llama", "adapter2", "model.layers.1.mlp", 1),
        ("llama", "layer2", LLAMA, 2),
        ("llama", "layer0", LLAMA, 0),
        ("llama", "copy", LLAMA, 3),
        ("llama", "words", LLAMA, 0),
        ("llama", "norm", LLAMA, 3),
        ("llama", "norm", "model.norm", 0),
        ("gpt2", "gpt2_layer1", GPT2, 1),
        ("gpt2", "gpt2_places", GPT2, 0),
    ],
)
def test_equal_layers_run_once_and_change_no_bit(
    models: dict[str, Path], reference: str, intervened: str, hookpoint: str, n_layers: int
) -> None:
    pair = open_pair(models[reference], models[intervened], hookpoint)
    shared = find_shared_layers(pair.models, pair.hookpoints)
    assert (shared.n_layers if shared else 0) == n_layers
    ids, mask = some_tokens()
    before = two_passes(pair, ids, mask)
    with counted(pair) as runs:
        outputs = pair.activations(ids, mask)
    for one, other in zip(outputs, before, strict=True):
        assert torch.equal(one, other)
    n_below = 3 if hookpoint == "model.norm" else int(hookpoint.split(".")[2]) + 1
    assert runs == [ids.numel()] * (2 * n_below - n_layers)
    # The layers are restored.
    assert all(
        torch.equal(one, other) for one, other in zip(two_passes(pair, ids, mask), before, strict=True)
    )
    assert not any("forward" in vars(module) for model in pair.models for module in model.modules())


def test_one_model_with_two_hookpoints_shares_the_lower_layers(models: dict[str, Path]) -> None:
    pair = open_pair(models["llama"], models["llama"], "model.layers.1", other=LLAMA)
    ids, mask = some_tokens()
    before = two_passes(pair, ids, mask)
    with counted(pair) as runs:
        assert all(torch.equal(*outputs) for outputs in zip(pair.activations(ids, mask), before, strict=True))
    assert len(runs) == 3


def test_equal_weights_under_another_configuration_are_not_shared(
    models: dict[str, Path], tmp_path: Path
) -> None:
    other = shutil.copytree(models["llama"], tmp_path / "other")
    settings = (other / "config.json").read_text()
    assert '"rms_norm_eps": 1e-06' in settings
    (other / "config.json").write_text(settings.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'))
    pair = open_pair(models["llama"], other)
    assert find_shared_layers(pair.models, pair.hookpoints) is None
    reference, intervened = pair.activations(*some_tokens())
    assert not torch.equal(reference, intervened)


def test_layers_whose_inner_outputs_are_read_again_above_are_not_shared(models: dict[str, Path]) -> None:
    """The trial pass detects a skip connection over the shared layers."""
    pair = open_pair(models["llama"], models["adapter2"])
    network: Any = pair.models[0]
    first: list[Tensor] = []
    layers = network.model.layers
    layers[0].register_forward_hook(lambda _, __, output: first.append(output))
    layers[2].register_forward_pre_hook(lambda _, inputs: (inputs[0] + first[-1], *inputs[1:]))
    skipping = ModelPair(pair.config, pair.networks, pair.tokenizer, None, pair.device)
    assert find_shared_layers(skipping.models, skipping.hookpoints) is not None
    ids, mask = some_tokens()
    for one, other in zip(skipping.activations(ids, mask), two_passes(skipping, ids, mask), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("reference", "intervened", "hookpoint"),
    [
        ("llama", "llama", LLAMA),
        ("llama", "adapter1", LLAMA),
        ("llama", "layer0", LLAMA),
        ("llama", "layer2", "model.layers.2.self_attn"),
        ("gpt2", "gpt2_layer1", GPT2),
        ("gpt2", "gpt2_places", GPT2),
    ],
)
def test_a_prefix_that_is_run_once_changes_no_more_than_rounding(
    models: dict[str, Path], reference: str, intervened: str, hookpoint: str
) -> None:
    pair = open_pair(models[reference], models[intervened], hookpoint)
    ids, mask = some_tokens()
    pair.activations(ids, mask, 6)
    with counted(pair) as runs:
        outputs = pair.activations(ids, mask, 6)
    assert set(runs) == {6, ids[:, 6:].numel()}
    for one, other in zip(outputs, two_passes(pair, ids, mask), strict=True):
        torch.testing.assert_close(one[mask], other[mask], rtol=1e-4, atol=1e-4)


def test_models_that_cannot_continue_a_prefix_run_it_in_every_document(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = open_pair(models["llama"], models["adapter1"])
    network: Any = pair.models[0]
    forward = network.forward

    def forgetful(*arguments: Any, past_key_values: Any = None, **options: Any) -> Any:
        del past_key_values
        return forward(*arguments, **options | {"attention_mask": None})

    def refusing(*arguments: Any, **options: Any) -> Any:
        if options.pop("past_key_values", None) is not None:
            raise ValueError("no cache")
        return forward(*arguments, **options)

    ids, mask = some_tokens()
    expected = pair.activations(ids, mask)
    for replacement in (forgetful, refusing):
        monkeypatch.setattr(network, "forward", replacement)
        again = ModelPair(pair.config, pair.networks, pair.tokenizer, None, pair.device)
        for one, other in zip(again.activations(ids, mask, 6), expected, strict=True):
            torch.testing.assert_close(one[mask], other[mask], rtol=1e-4, atol=1e-4)


def test_the_toy_pair_equals_two_passes() -> None:
    pair = open_pair(TOY_PAIR / "reference", TOY_PAIR / "intervened", "model.layers.1")
    ids, mask = some_tokens(60)
    for one, other in zip(pair.activations(ids, mask), two_passes(pair, ids, mask), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_shipped_adapter_begins_at_layer_10_and_no_bit_changes(tmp_path: Path) -> None:
    if find_gguf() is None:
        pytest.skip(f"{PACKAGE} is not installed")
    pair = open_pair(prepare(tmp_path / "model"), ADAPTER, "model.layers.26", dtype="bfloat16")
    shared = find_shared_layers(pair.models, pair.hookpoints)
    assert shared is not None
    assert shared.n_layers == 10
    ids, mask = some_tokens(40_000)
    for one, other in zip(pair.activations(ids, mask), two_passes(pair, ids, mask), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(pair.activations(ids, mask, 6), two_passes(pair, ids, mask), strict=True):
        error = (one - other)[mask].float().norm(dim=1) / other[mask].float().norm(dim=1)
        assert error.median() < 0.03
