"""Models whose weights are quantized, in the checkpoint or while they are loaded, through transformers' own quantizers.

Kernels of quantized layers may have no backward pass, and autograd then goes around the layer and says nothing. So whatever needs
gradients asks `check_gradients` first.
"""

import logging
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, assert_never

import torch
import transformers
from torch import Tensor, nn

from ..config import BitsAndBytes, ModelSource, TorchAo
from ..errors import PairError, ResourceError
from .load_errors import first_line
from .placement import input_device, is_plain

logger = logging.getLogger(__name__)

_TOLERANCE = 0.25
"""Largest relative error of a layer's gradient. Quantized activations cause a few percent; a layer that is gone around, about 100%."""

_PROBES = 8

_SCHEMES = {
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int4_weight_only": "Int4WeightOnlyConfig",
    "float8_weight_only": "Float8WeightOnlyConfig",
    "int8_dynamic_activation_int8_weight": "Int8DynamicActivationInt8WeightConfig",
    "float8_dynamic_activation_float8_weight": "Float8DynamicActivationFloat8WeightConfig",
}


def quantization_options(setting: str, source: ModelSource, config: Any, dtype: str) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantize a model.

    Args:
        setting: The side of the pair, such as pair.intervened.
        config: config.json of the checkpoint.
        dtype: Precision of the forward passes.

    Raises:
        PairError: The checkpoint is stored quantized already.
        ResourceError: The package is not installed.
    """
    wanted = source.quantization
    if wanted is None:
        return {}
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        method = stored.get("quant_method") if isinstance(stored, dict) else type(stored).__name__
        raise PairError(
            f"{setting}.quantization: {source.model!r} is stored quantized already ({method}); remove this setting, or give the checkpoint "
            "before quantization"
        )
    if find_spec(wanted.kind) is None:
        raise ResourceError(
            f"{setting}.quantization: {wanted.kind} is not installed; install it with: pip install {wanted.kind}"
        )
    match wanted:
        case BitsAndBytes(bits=bits):
            chosen = transformers.BitsAndBytesConfig(
                load_in_8bit=bits == 8,
                load_in_4bit=bits == 4,
                llm_int8_threshold=wanted.outlier_threshold,
                bnb_4bit_quant_type=wanted.type,
                bnb_4bit_compute_dtype=getattr(torch, dtype),
                bnb_4bit_use_double_quant=wanted.nested,
            )
        case TorchAo(scheme=scheme):
            schemes = import_module("torchao.quantization")
            chosen = transformers.TorchAoConfig(getattr(schemes, _SCHEMES[scheme])())
        case _:
            assert_never(wanted)
    return {"quantization_config": chosen}


def describe_quantization(model: Any) -> dict[str, Any] | None:
    """Return how the weights of a loaded model are quantized, as JSON; None if they are not."""
    found = getattr(getattr(model, "config", None), "quantization_config", None)
    if found is None:
        return None
    settings = found if isinstance(found, dict) else found.to_dict()
    return {str(name): _plain(value) for name, value in settings.items()}


def prepare(model: nn.Module) -> None:
    """Make a quantized model fit for what is done with it here, right after it is loaded.

    On some CPUs, bitsandbytes packs 4-bit weights in the first pass, for a kernel without a backward pass; then its gradients are wrong, and
    its weights are no longer those that were loaded. It also warns in every layer of every pass that it multiplies in 16 bits.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers whose weights are not plain numbers, with their paths."""
    for path, module in model.named_modules():
        if not isinstance(getattr(module, "in_features", None), int) or "lora_" in path:
            continue
        weight = getattr(module, "weight", None)
        if not (isinstance(weight, Tensor) and is_plain(weight)) and not hasattr(module, "base_layer"):
            yield path, module


def check_gradients(subject: str, model: nn.Module) -> None:
    """Check that gradients pass the quantized layers of a model.

    A linear layer is y = W x + b, so the gradient of u·y is Wᵀu, and (Wᵀu)·x = u·(y(x) - y(0)) for every x: what the backward pass gives
    is compared with the forward pass.

    Raises:
        PairError: They do not.
    """
    for path, layer in quantized_layers(model):
        error = _gradient_error(layer, model)
        if not error <= _TOLERANCE:
            raise PairError(
                f"{subject} is quantized ({_name(model)}) such that no correct gradient passes its layers ({path}: relative error {error:.0%}), and "
                "attribution needs gradients; quantize the weights alone, e.g. {kind: torchao, scheme: int8_weight_only}, or set "
                "discovery.attribute to 0 and name no behavior with a gradient"
            )


def _gradient_error(layer: nn.Module, model: nn.Module) -> float:
    """Return the relative error of the gradient of one linear layer; infinite if there is none."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(model, "dtype", torch.float32)
    device = input_device(layer)

    def random(width: int) -> Tensor:
        return torch.randn(1, _PROBES, width, generator=generator).to(device, dtype)

    try:
        with torch.no_grad():
            inputs = random(layer.in_features)  # type: ignore[arg-type]
            moved = (layer(inputs) - layer(torch.zeros_like(inputs))).float()
        leaf = inputs.clone().requires_grad_()
        with torch.enable_grad():
            output = layer(leaf)
            along = random(output.shape[-1])
            (gradient,) = torch.autograd.grad((output.float() * along.float()).sum(), leaf)
    except (RuntimeError, NotImplementedError) as error:
        logger.debug("no gradient passes a quantized layer: %s", first_line(error))
        return float("inf")
    expected = (along.float() * moved).sum(-1)
    found = (gradient.float() * inputs.float()).sum(-1)
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _name(model: Any) -> str:
    settings = describe_quantization(model) or {}
    return str(settings.get("quant_method", "by itself"))


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; objects by what they print, enumerations by their value."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "value"):
        return _plain(value.value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
