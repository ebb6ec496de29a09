"""Snapshots give the same activations in a chain as in a pair of their own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscoder.config import PairConfig
from crosscoder.errors import PairError
from crosscoder.language_models.pair import ModelPair, load_pair
from tests.tiny_pairs import save_adapter, save_llama

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    llama = save_llama(folder / "llama")
    found = {
        "llama": llama,
        "tuned": save_llama(folder / "tuned", seed=1),
        "wide": save_llama(folder / "wide", seed=2, width=24),
        "words": save_llama(folder / "words", extra=("<extra>",)),
        "early": save_adapter(llama, folder / "early", seed=1),
        "late": save_adapter(llama, folder / "late", seed=2, layers_to_transform=[1, 2]),
        "foreign": save_adapter(folder / "wide", folder / "foreign"),
        "late_layer": shutil.copytree(llama, folder / "late_layer"),
    }
    weights = load_file(found["late_layer"] / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][-1] += 0.25
    save_file(weights, found["late_layer"] / "model.safetensors", metadata={"format": "pt"})
    return found


def described(path: Path) -> dict[str, Any]:
    adapter = (path / "adapter_config.json").exists()
    return {"adapter": str(path)} if adapter else {"model": str(path), "dtype": "float32"}


def chain_config(reference: Path, intervened: Path, *snapshots: Path, **more: Any) -> PairConfig:
    settings: dict[str, Any] = {
        "reference": described(reference),
        "intervened": described(intervened),
        "snapshots": [described(path) for path in snapshots],
        "hookpoint": "model.layers.1",
        "device": "cpu",
    }
    return PairConfig.model_validate(settings | more)


def some_tokens() -> tuple[Tensor, Tensor]:
    """Return four right-padded documents with a common prefix."""
    mask = torch.arange(20) < torch.tensor([8, 20, 9, 14])[:, None]
    ids = torch.randint(3, 280, (4, 20), generator=torch.Generator().manual_seed(0))
    ids[:, :6] = ids[0, :6].clone()
    return ids * mask, mask


CHAINS = {
    "adapters": ("late", "early", "late"),
    "checkpoints": ("tuned", "late_layer", "wide"),
    "adapters_before_a_checkpoint": ("tuned", "early", "late"),
    "a_checkpoint_before_an_adapter": ("late", "late_layer"),
    "nothing_but_the_reference": ("llama", "llama"),
    "back_to_the_reference": ("tuned", "llama", "tuned", "early"),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("n_prefix", [0, 6])
def test_every_snapshot_is_read_as_in_a_pair_of_its_own(
    models: dict[str, Path], chain: str, n_prefix: int
) -> None:
    """Bitwise equal to the pair of the reference and this model; a common prefix changes the rounding."""
    intervened, *snapshots = CHAINS[chain]
    pair = load_pair(chain_config(models["llama"], models[intervened], *(models[name] for name in snapshots)))
    assert pair.model_names == (
        "reference", "intervened", *(f"snapshot_{i + 1}" for i in range(len(snapshots))),
    )  # fmt: skip
    ids, mask = some_tokens()
    outputs = pair.activations(ids, mask, n_prefix)
    assert tuple(output.shape[-1] for output in outputs) == pair.d_models
    for name, output in zip((intervened, *snapshots), outputs[1:], strict=True):
        alone = load_pair(chain_config(models["llama"], models[name])).activations(ids, mask)
        tolerance = 1e-4 if n_prefix else 0.0
        for one, other in ((output, alone[1]), (outputs[0], alone[0])):
            torch.testing.assert_close(one[mask], other[mask], rtol=tolerance, atol=tolerance)
    # Reading does not change the models, and their parameters stay frozen.
    for one, other in zip(pair.activations(ids, mask, n_prefix), outputs, strict=True):
        assert torch.equal(one, other)
    assert not any(weight.requires_grad for network in pair.models for weight in network.parameters())


def test_weights_are_loaded_once(models: dict[str, Path]) -> None:
    """Adapters share the weights of the reference; a checkpoint that is named twice is loaded and read once."""
    adapters = load_pair(chain_config(models["llama"], models["late"], models["early"]))
    assert all(network is adapters.models[0] for network in adapters.models)
    again = load_pair(
        chain_config(models["llama"], models["tuned"], models["llama"], models["tuned"], models["late_layer"])
    )
    assert again.models[2] is again.models[0]
    assert again.models[3] is again.models[1]
    runs: list[int] = []
    for network in set(again.models):
        network.get_submodule("model.layers.1").register_forward_hook(lambda *_: runs.append(1))
    reference, intervened, first, second, _ = again.activations(*some_tokens())
    assert len(runs) == 3
    assert torch.equal(reference, first)
    assert torch.equal(intervened, second)


def test_layers_shared_with_the_reference_run_once(models: dict[str, Path]) -> None:
    pair = load_pair(
        chain_config(models["llama"], models["late_layer"], models["late_layer"], models["tuned"])
    )
    runs: list[int] = []
    for network in set(pair.models):
        network.get_submodule("model.layers.0.mlp").register_forward_hook(lambda *_: runs.append(1))
    pair.activations(*some_tokens())
    assert len(runs) == 2, "of the reference, and of the model that shares nothing"


def test_identity_names_every_snapshot(models: dict[str, Path]) -> None:
    def identity(pair: ModelPair) -> dict[str, Any]:
        return json.loads(json.dumps(pair.identity()))

    chain = identity(
        load_pair(chain_config(models["llama"], models["late"], models["early"], models["tuned"]))
    )
    alone = {
        name: identity(load_pair(chain_config(models["llama"], models[name])))
        for name in ("late", "early", "tuned")
    }
    assert chain["intervened"] == alone["late"]["intervened"]
    assert chain["snapshot_1"] == alone["early"]["intervened"]
    assert chain["snapshot_2"] == alone["tuned"]["intervened"]
    assert chain["reference"] == alone["tuned"]["reference"]
    assert set(alone["tuned"]) == {"reference", "intervened", "tokenizer", "chat_template"}


@pytest.mark.parametrize(
    ("snapshots", "more", "message"),
    [
        (("early", "words"), {}, "pair: the tokenizers of '.*llama' .* and '.*words' .* differ in"),
        (("gone",), {}, r"pair\.snapshots\.0\.model: folder '.*gone' does not exist"),
        (("early", "foreign"), {}, r"pair\.snapshots\.1\.adapter: '.*foreign' does not fit the reference"),
        (("late",), {"hookpoint": "model.layers.1.mlp.up"}, r"pair\.hookpoint: .* \(did you mean"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    models: dict[str, Path], tmp_path: Path, snapshots: tuple[str, ...], more: dict[str, str], message: str
) -> None:
    paths = [models.get(name, tmp_path / name) for name in snapshots]
    with pytest.raises(PairError, match=message) as caught:
        load_pair(chain_config(models["llama"], models["tuned"], *paths, **more))
    assert "\n" not in str(caught.value)
