"""A model run on from given activations: as if it had been run whole, with the layers below left out where that can be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosscoder.config import PairConfig
from crosscoder.pair import ModelPair, load_pair
from crosscoder.resumption import Resumption
from tests.tiny_pairs import save_adapter, save_gpt2, save_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_llama(folder / "llama", seed=0)
    save_llama(folder / "tuned", seed=1)
    save_gpt2(folder / "gpt2", seed=0)
    save_adapter(folder / "llama", folder / "adapter")
    return folder


def load(folder: Path, name: str, hookpoint: str | None = None) -> ModelPair:
    reference = "gpt2" if name == "gpt2" else "llama"
    intervened: dict[str, Any] = {
        "adapter": {"adapter": str(folder / "adapter")},
        "context": {"context": "amber birch cedar"},
        "models": {"model": str(folder / "tuned"), "dtype": "float32"},
        "gpt2": {"context": "amber birch"},
    }[name]
    settings = {
        "reference": {"model": str(folder / reference), "dtype": "float32"},
        "intervened": intervened,
        "hookpoint": hookpoint or ("transformer.h.1" if name == "gpt2" else "model.layers.1"),
        "device": "cpu",
    }
    return load_pair(PairConfig.model_validate(settings))


def tokens() -> tuple[Tensor, Tensor]:
    mask = torch.arange(12) < torch.tensor([12, 5, 9])[:, None]
    return torch.randint(3, 280, (3, 12), generator=torch.Generator().manual_seed(0)) * mask, mask


def resumption(pair: ModelPair, model: int) -> Resumption:
    return pair._resumptions[model]


NAMES = ["adapter", "context", "models", "gpt2"]


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_from_its_own_activations_a_model_is_as_it_is(folder: Path, name: str, model: int) -> None:
    pair = load(folder, name)
    ids, mask = tokens()
    found = pair.resume(ids, mask, pair.activations(ids, mask)[model], model)
    torch.testing.assert_close(found[mask], pair.logits(ids, mask, None, model)[mask], rtol=1e-4, atol=1e-4)
    assert len(resumption(pair, model)._skipped) == 2


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_layers_left_out_change_neither_logits_nor_gradients(folder: Path, name: str, model: int) -> None:
    """Beside the same with every layer run and the output of the hookpoint replaced."""
    pair = load(folder, name)
    ids, mask = tokens()
    given = pair.activations(ids, mask)[1 - model]
    found = []
    for skips in (True, False):
        leaf = given.clone().requires_grad_()
        if not skips:
            resumption(pair, model)._skipped = []
        logits = pair.resume(ids, mask, leaf, model, gradients=True)
        (gradient,) = torch.autograd.grad(logits[mask].square().sum(), leaf)
        found.append((logits[mask].detach(), gradient[mask]))
    (one, first), (other, second) = found
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    assert first.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_last_logits_alone(folder: Path, name: str) -> None:
    pair = load(folder, name)
    ids, mask = tokens()
    for model, given in enumerate(pair.activations(ids, mask)):
        whole = pair.resume(ids, mask, given, model)
        torch.testing.assert_close(pair.resume(ids, mask, given, model, n_last=4), whole[:, -4:])
        plain = pair.logits(ids, mask, None, model)
        torch.testing.assert_close(pair.logits(ids, mask, None, model, n_last=4), plain[:, -4:])


@pytest.mark.parametrize("name", ["adapter", "context"])
def test_a_hookpoint_inside_a_layer_runs_every_layer(folder: Path, name: str) -> None:
    pair = load(folder, name, "model.layers.1.mlp")
    ids, mask = tokens()
    for model, given in enumerate(pair.activations(ids, mask)):
        found = pair.resume(ids, mask, given, model)
        torch.testing.assert_close(
            found[mask], pair.logits(ids, mask, None, model)[mask], rtol=1e-4, atol=1e-4
        )
        assert not resumption(pair, model)._skipped


def test_the_same_pair_is_read_elsewhere(folder: Path) -> None:
    pair = load(folder, "adapter")
    ids, mask = tokens()
    elsewhere = pair.at("model.layers.0")
    assert elsewhere.hookpoints == ("model.layers.0", "model.layers.0")
    directly = load(folder, "adapter", "model.layers.0")
    for one, other in zip(elsewhere.activations(ids, mask), directly.activations(ids, mask), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(elsewhere.activations(ids, mask)[1], pair.activations(ids, mask)[1])
