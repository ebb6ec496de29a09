"""Models that are quantized while they are loaded: what is compared, what the manifest says, and whether gradients pass their layers."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosscoder.config import ModelSource, PairConfig
from crosscoder.errors import PairError, ResourceError
from crosscoder.language_models.hooks import forward
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.quantization import check_gradients, quantization_options
from crosscoder.language_models.rounding import rounded
from tests.tiny_pairs import save_adapter, save_llama

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages warn while they are imported

INT8 = {"kind": "torchao", "scheme": "int8_weight_only"}
INT8_ACTIVATIONS = {"kind": "torchao", "scheme": "int8_dynamic_activation_int8_weight"}
WEIGHTS_ALONE: list[dict[str, Any]] = [
    INT8,
    {"kind": "torchao", "scheme": "float8_weight_only"},
    {"kind": "bitsandbytes", "bits": 8, "outlier_threshold": 0},
    {"kind": "bitsandbytes", "bits": 4},
    {"kind": "bitsandbytes", "bits": 4, "type": "fp4", "nested": True},
]
IDS = torch.arange(12).view(2, 6)
MASK = torch.ones_like(IDS, dtype=torch.bool)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models") / "llama", width=64)


def pair_of(folder: Path, intervened: dict[str, Any], reference: dict[str, Any] | None = None) -> ModelPair:
    side = {"model": str(folder), "dtype": "float32"}
    settings = {
        "reference": side | (reference or {}),
        "intervened": intervened if {"adapter", "context"} & intervened.keys() else side | intervened,
        "hookpoint": "model.layers.1",
        "device": "cpu",
    }
    return load_pair(PairConfig.model_validate(settings))


def needs(quantization: dict[str, Any]) -> None:
    pytest.importorskip(quantization["kind"])


class Layer(nn.Module):
    """A linear layer of 8-bit weights, as packages write them."""

    in_features = 8

    def __init__(self, has_backward: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randint(-9, 9, (8, 8), dtype=torch.int8), requires_grad=False)
        self.has_backward = has_backward

    def forward(self, values: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.has_backward):
            product = values @ self.weight.float().T
        return product if self.has_backward else product + 0 * values


def test_gradients_that_go_around_a_layer_are_refused() -> None:
    check_gradients("pair.intervened", nn.Sequential(Layer(has_backward=True)))
    with pytest.raises(PairError, match=r"no correct gradient passes its layers \(1: relative error 100%\)"):
        check_gradients("pair.intervened", nn.Sequential(Layer(has_backward=True), Layer(has_backward=False)))


@pytest.mark.parametrize("kind", ["torchao", "bitsandbytes"])
def test_a_missing_package_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosscoder.language_models.quantization.find_spec", lambda _: None)
    source = ModelSource.model_validate({"model": "m", "quantization": {"kind": kind}})
    with pytest.raises(ResourceError, match=f"^pair.intervened.quantization: .*pip install {kind}$"):
        quantization_options("pair.intervened", source, object(), "float32")


def test_a_checkpoint_that_is_stored_quantized_is_not_quantized_again() -> None:
    source = ModelSource.model_validate({"model": "m", "quantization": INT8})

    class Stored:
        def __init__(self) -> None:
            self.quantization_config = {"quant_method": "gptq"}

    with pytest.raises(PairError, match=r"'m' is stored quantized already \(gptq\)"):
        quantization_options("pair.reference", source, Stored(), "float32")


@pytest.mark.parametrize("quantization", WEIGHTS_ALONE, ids=str)
def test_a_model_and_its_own_quantized_version(plain: Path, quantization: dict[str, Any]) -> None:
    needs(quantization)
    pair = pair_of(plain, {"quantization": quantization})
    reference, intervened = pair.activations(IDS, MASK)
    assert not pair.identical
    change = (intervened - reference).norm() / reference.norm()
    assert 0.001 < change < 0.8
    assert pair.identity()["intervened"]["quantization"]["quant_method"] == quantization["kind"]
    assert "quantization" not in pair.identity()["reference"]
    again = pair_of(plain, {"quantization": quantization})
    assert again.identity() == pair.identity()
    check_gradients("pair.intervened", pair.models[1])
    # The derivative along the gradient, from two passes: a gradient that misses layers is far from it.
    leaf = intervened.clone().requires_grad_()
    total = pair.logits_from_hookpoint(IDS, MASK, leaf, 1, gradients=True).float().logsumexp(-1).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    step = 0.02 * intervened.norm() * gradient / gradient.norm()
    ends = [
        float(pair.logits_from_hookpoint(IDS, MASK, intervened + sign * step, 1).float().logsumexp(-1).sum())
        for sign in (1, -1)
    ]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(float((gradient * step).sum()), rel=0.25)


def test_quantized_activations_are_read_but_not_attributed(plain: Path) -> None:
    needs(INT8_ACTIVATIONS)
    pair = pair_of(plain, {"quantization": INT8_ACTIVATIONS})
    assert (pair.activations(IDS, MASK)[1] != pair.activations(IDS, MASK)[0]).any()
    weights_alone = pair_of(plain, {"quantization": INT8})
    assert pair.identity()["intervened"]["weights"] == weights_alone.identity()["intervened"]["weights"]
    assert pair.identity() != weights_alone.identity()
    with pytest.raises(PairError, match="no correct gradient passes its layers"):
        check_gradients("pair.intervened", pair.models[1])


@pytest.mark.parametrize("quantization", [INT8, {"kind": "bitsandbytes", "bits": 4}], ids=str)
def test_an_adapter_on_a_quantized_reference(
    plain: Path, tmp_path: Path, quantization: dict[str, Any]
) -> None:
    needs(quantization)
    adapter = save_adapter(plain, tmp_path / "adapter")
    pair = pair_of(plain, {"adapter": str(adapter)}, {"quantization": quantization})
    reference, intervened = pair.activations(IDS, MASK)
    assert not pair.networks.own_copies
    assert not torch.equal(reference, intervened)
    alone = pair_of(plain, {"quantization": quantization}, {"quantization": quantization})
    assert torch.equal(alone.activations(IDS, MASK)[0], reference)
    assert pair.identity()["reference"] == alone.identity()["reference"]


@pytest.mark.parametrize("quantization", WEIGHTS_ALONE, ids=str)
def test_rounding_of_a_quantized_model_changes_it_a_little_and_is_undone(
    plain: Path, quantization: dict[str, Any]
) -> None:
    needs(quantization)
    pair = pair_of(plain, {"context": "maple"}, {"quantization": quantization})
    before = pair.logits(IDS, MASK, None, 0)
    with rounded(pair.models[0]):
        meanwhile = pair.logits(IDS, MASK, None, 0)
    assert 0.001 < (meanwhile - before).norm() / before.norm() < 0.2
    assert torch.equal(pair.logits(IDS, MASK, None, 0), before)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_weights_of_4_bits_stay_as_they_were_loaded(plain: Path) -> None:
    pair = pair_of(plain, {"context": "maple"}, {"quantization": {"kind": "bitsandbytes", "bits": 4}})
    stored = {name: value.clone() for name, value in pair.models[0].state_dict().items()}
    forward(pair.models[0].eval(), IDS, MASK)
    assert all(torch.equal(value, stored[name]) for name, value in pair.models[0].state_dict().items())
