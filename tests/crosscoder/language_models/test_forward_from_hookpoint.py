"""Forward from the hookpoint equals a full pass, and skips the layers below where possible."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosscoder.config import PairConfig
from crosscoder.errors import PairError
from crosscoder.language_models.forward_from_hookpoint import ForwardFromHookpoint
from crosscoder.language_models.pair import ModelPair, load_pair
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


def upper_layers(pair: ModelPair, model: int) -> ForwardFromHookpoint:
    return pair._from_hookpoint[model]


NAMES = ["adapter", "context", "models", "gpt2"]


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_models_own_activations_give_its_own_logits(folder: Path, name: str, model: int) -> None:
    pair = load(folder, name)
    ids, mask = tokens()
    found = pair.logits_from_hookpoint(ids, mask, pair.activations(ids, mask)[model], model)
    torch.testing.assert_close(found[mask], pair.logits(ids, mask, None, model)[mask], rtol=1e-4, atol=1e-4)
    assert len(upper_layers(pair, model)._skipped) == 2


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_skipped_layers_change_neither_logits_nor_gradients(folder: Path, name: str, model: int) -> None:
    """Compared with running every layer and replacing the output of the hookpoint."""
    pair = load(folder, name)
    ids, mask = tokens()
    given = pair.activations(ids, mask)[1 - model]
    found = []
    for skips in (True, False):
        leaf = given.clone().requires_grad_()
        if not skips:
            upper_layers(pair, model)._skipped = []
        logits = pair.logits_from_hookpoint(ids, mask, leaf, model, gradients=True)
        (gradient,) = torch.autograd.grad(logits[mask].square().sum(), leaf)
        found.append((logits[mask].detach(), gradient[mask]))
    (one, first), (other, second) = found
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    assert first.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_selected_tokens(folder: Path, name: str) -> None:
    pair = load(folder, name)
    ids, mask = tokens()
    at = mask & (ids % 3 == 0)
    for model, given in enumerate(pair.activations(ids, mask)):
        whole = pair.logits_from_hookpoint(ids, mask, given, model)
        torch.testing.assert_close(pair.logits_from_hookpoint(ids, mask, given, model, at=at), whole[at])
        upper_layers(pair, model)._skipped = []
        torch.testing.assert_close(
            pair.logits_from_hookpoint(ids, mask, given, model, at=at), whole[at], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", ["adapter", "context"])
def test_a_hookpoint_inside_a_layer_runs_every_layer(folder: Path, name: str) -> None:
    pair = load(folder, name, "model.layers.1.mlp")
    ids, mask = tokens()
    for model, given in enumerate(pair.activations(ids, mask)):
        found = pair.logits_from_hookpoint(ids, mask, given, model)
        torch.testing.assert_close(
            found[mask], pair.logits(ids, mask, None, model)[mask], rtol=1e-4, atol=1e-4
        )
        assert not upper_layers(pair, model)._skipped


def test_a_pair_can_be_read_at_another_hookpoint(folder: Path) -> None:
    pair = load(folder, "adapter")
    ids, mask = tokens()
    elsewhere = pair.with_hookpoint("model.layers.0")
    assert elsewhere.hookpoints == ("model.layers.0", "model.layers.0")
    directly = load(folder, "adapter", "model.layers.0")
    for one, other in zip(elsewhere.activations(ids, mask), directly.activations(ids, mask), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(elsewhere.activations(ids, mask)[1], pair.activations(ids, mask)[1])


@pytest.mark.parametrize("name", NAMES)
def test_outputs_at_several_hookpoints_equal_separate_passes(folder: Path, name: str) -> None:
    pair = load(folder, name)
    ids, mask = tokens()
    parent = pair.hookpoints[0].rpartition(".")[0]
    paths = [f"{parent}.{layer}" for layer in range(3)]
    for model in range(2):
        found = pair.outputs(paths, ids, mask, model)
        for path, output in zip(paths, found, strict=True):
            expected = pair.with_hookpoint(path).activations(ids, mask)[model]
            torch.testing.assert_close(output[mask], expected[mask], rtol=1e-4, atol=1e-4)


def test_a_hookpoint_that_is_never_run_is_named(folder: Path) -> None:
    pair = load(folder, "adapter")
    pair.models[0].add_module("spare", torch.nn.Linear(1, 1))
    with pytest.raises(
        PairError, match=r"1 of the modules model\.layers\.0 to spare of the reference model are never run"
    ):
        pair.outputs(["model.layers.0", "spare"], *tokens(), 0)
