"""Models whose modules lie on several devices, or on the disk: everything they compute is that of the model in memory, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosscoder.config import PairConfig
from crosscoder.errors import PairError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.placement import input_device, is_offloaded
from crosscoder.language_models.rounding import rounded
from tests.tiny_pairs import save_adapter, save_gpt2, save_llama

IDS = torch.arange(12).view(2, 6)
MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])

MAPS: list[Any] = [
    "auto",
    {"": "cpu"},
    {"": "disk"},
    {"": "cpu", "{layers}": "disk"},
    {"": "disk", "{layers}": "cpu", "{layers}.1": "disk"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    llama = save_llama(folder / "llama")
    return {
        "llama": llama,
        "other llama": save_llama(folder / "other", seed=1),
        "gpt2": save_gpt2(folder / "gpt2"),  # its embeddings are tied
        "adapter": save_adapter(llama, folder / "adapter"),
    }


def pair_of(reference: Path, intervened: dict[str, Any], layers: str, **placed: Any) -> ModelPair:
    side = {"model": str(reference), "dtype": "bfloat16", **placed}
    settings = {
        "reference": side,
        "intervened": intervened,
        "hookpoint": f"{layers}.1",
        "device": "cpu",
    }
    return load_pair(PairConfig.model_validate(settings))


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("place", ["hook_resid_pre", "hook_resid_post", "hook_attn_out"])
def test_places_are_found_in_a_model_whose_weights_lie_elsewhere(
    models: dict[str, Path], model: str, place: str
) -> None:
    def found(**placed: Any) -> tuple[str, ...]:
        side = {"model": str(models[model]), **placed}
        settings = {"reference": side, "intervened": side, "hookpoint": f"blocks.1.{place}", "device": "cpu"}
        return load_pair(PairConfig.model_validate(settings)).hookpoints

    assert found(device_map={"": "disk"}) == found()


def named(chosen: Any, layers: str) -> Any:
    if isinstance(chosen, str):
        return chosen
    return {path.replace("{layers}", layers): device for path, device in chosen.items()}


def computed(pair: ModelPair) -> list[Tensor]:
    """Return what every way to run the models gives."""
    found = [*pair.activations(IDS, MASK), *pair.activations(IDS, MASK, 2)]
    for model in range(2):
        found += [
            pair.logits(IDS, MASK, None, model),
            pair.logits(IDS, MASK, lambda values: 2 * values, model, at=MASK),
            *(pair.full_pass(IDS, MASK, model).states or ()),
        ]
        activations = pair.activations_of(model, IDS, MASK)
        leaf = activations.float().requires_grad_()
        logits = pair.logits_from_hookpoint(IDS, MASK, leaf, model, gradients=True)
        found += [logits.detach(), *torch.autograd.grad(logits.float().square().sum(), leaf)]
        directions = torch.randn(3, pair.d_models[model], generator=torch.Generator().manual_seed(0))
        lens = pair.direction_logits(directions, model)
        found += [lens, pair.token_cosines(directions, lens, lens.topk(3).indices, model)]
    return found


@pytest.mark.parametrize("chosen", MAPS, ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "context"])
def test_a_model_in_parts_is_the_model(models: dict[str, Path], chosen: Any, kind: str) -> None:
    layers, reference = ("transformer.h", "gpt2") if kind == "gpt2" else ("model.layers", "llama")
    other: dict[str, Any] = {"model": str(models["other llama" if kind == "llama" else reference])}
    if kind == "context":
        other = {"context": "maple oak"}
    whole = pair_of(models[reference], other, layers)
    parts = pair_of(models[reference], other, layers, device_map=named(chosen, layers))
    assert is_offloaded(parts.models[0]) == ("disk" in str(chosen))
    assert input_device(parts.models[0]) == torch.device("cpu")
    for found, expected in zip(computed(parts), computed(whole), strict=True):
        assert torch.equal(found, expected)
    assert parts.identity() == whole.identity()
    assert parts.forward_from_hookpoint(0).n_skipped == whole.forward_from_hookpoint(0).n_skipped > 0


def test_weights_on_the_disk_are_rounded_like_those_in_memory(models: dict[str, Path]) -> None:
    other = {"context": "maple oak"}
    found = []
    for placed in ({}, {"device_map": {"": "disk"}}):
        pair = pair_of(models["llama"], other, "model.layers", **placed)
        before = pair.logits(IDS, MASK, None, 0)
        with rounded(pair.models[0], bits=4):
            found.append(pair.logits(IDS, MASK, None, 0))
        assert torch.equal(pair.logits(IDS, MASK, None, 0), before)
        assert not torch.equal(found[-1], before)
    assert (found[0] - found[1]).norm() < 0.02 * found[0].norm()


def test_an_adapter_is_attached_to_weights_in_memory_alone(models: dict[str, Path]) -> None:
    adapter = {"adapter": str(models["adapter"])}
    whole = pair_of(models["llama"], adapter, "model.layers")
    placed = pair_of(models["llama"], adapter, "model.layers", device_map="auto")
    for found, expected in zip(computed(placed), computed(whole), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(PairError, match="device_map leaves weights on the cpu or the disk"):
        pair_of(models["llama"], adapter, "model.layers", device_map={"": "disk"})


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"": "cpu", "model.layer": "disk"}, r"no module 'model.layer'.*did you mean 'model.layers'"),
        ({"model.layers": "cpu"}, "device_map says nothing of model.embed_tokens"),
        ({"": "nonsense"}, "'nonsense', which is no device"),
        ({"": 99}, "device '99', which is not there"),
        ({"": "xpu:5"}, "device 'xpu:5', which is not there"),
    ],
    ids=str,
)
def test_a_map_that_cannot_be(models: dict[str, Path], chosen: Any, message: str) -> None:
    with pytest.raises(PairError, match=message) as caught:
        pair_of(models["llama"], {"context": "oak"}, "model.layers", device_map=chosen)
    assert str(caught.value).startswith("pair.reference.model: ")


def test_settings_of_the_map() -> None:
    with pytest.raises(ValueError, match="device_map is empty"):
        PairConfig.model_validate(
            {"reference": {"model": "m", "device_map": {}}, "intervened": {"model": "m"}}
        )
    with pytest.raises(ValueError, match="offload_folder is given, but device_map is not"):
        PairConfig.model_validate(
            {"reference": {"model": "m", "offload_folder": "f"}, "intervened": {"model": "m"}}
        )
