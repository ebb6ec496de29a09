"""Weights rounded to a few bits: hardly any behavior changes, so what a comparison finds there is found from nothing.

Weights are rounded to the nearest of 2^bits - 1 levels that are symmetric around zero, with one scale per group of neighbors in a row.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear as multiply

from ..errors import ConfigError
from .placement import input_device, is_plain
from .quantization import quantized_layers

_UNCHANGED = 1e-3
"""Relative change of weights below which rounding them has changed nothing."""


def round_weights(
    weight: Float[Tensor, "d_out d_in"], bits: int, group: int
) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, "d_out group"]]:
    """Round weights; return them as float32, and the step between levels of each group. None changes by over half a step.

    Raises:
        ConfigError: Fewer than 2 bits, or a group size that does not divide the rows.
    """
    d_out, d_in = weight.shape
    if bits < 2:
        raise ConfigError(f"bits: {bits} is too few; levels on both sides of zero need at least 2")
    if group < 1 or d_in % group:
        raise ConfigError(f"group: {group} does not divide a row of {d_in} weights; give a divisor of it")
    groups = weight.float().view(d_out, -1, group)
    steps = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    # A group of zeros has step 0; any nonzero step keeps it at zero.
    levels = (groups / torch.where(steps > 0, steps, 1.0)).round()
    return (levels * steps).view(d_out, d_in), steps.squeeze(-1)


@contextmanager
def rounded(network: nn.Module, bits: int = 8) -> Iterator[None]:
    """Round the linear layers of a model, except its unembedding and adapters, with one scale per row; restore them afterwards.

    The original weights are kept in main memory meanwhile. Layers that are quantized, or whose weights lie elsewhere, compute with rounded
    numbers in place of their weights, which takes the memory of the model without quantization. Where rounding changes nothing, because
    the weights are such levels already, one bit fewer is kept.
    """
    head = getattr(network, "get_output_embeddings", lambda: None)()
    linear: list[Tensor] = [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head and "lora_" not in name and _is_held(module)
    ]
    others = [layer for _, layer in quantized_layers(network) if layer is not head]
    others += [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and module.weight.is_meta
        and module not in others
    ]
    before = [weight.detach().to("cpu", copy=True) for weight in linear]
    with ExitStack() as replaced:
        for layer in others:
            replaced.enter_context(_computing_rounded(layer, bits, getattr(network, "dtype", torch.float32)))
        with _rounded_in_place(linear, before, bits):
            yield


@contextmanager
def _rounded_in_place(linear: Sequence[Tensor], before: Sequence[Tensor], bits: int) -> Iterator[None]:
    try:
        with torch.no_grad():
            for weight in linear:
                weight.copy_(round_weights(weight.detach(), bits, weight.shape[1])[0])
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(linear, before, strict=True):
                weight.copy_(original)


def _is_held(layer: nn.Linear) -> bool:
    """Whether the weights of a linear layer are plain numbers in memory, which can be overwritten."""
    return is_plain(layer.weight) and not layer.weight.is_meta


@contextmanager
def _computing_rounded(layer: nn.Module, bits: int, dtype: torch.dtype) -> Iterator[None]:
    """Make a linear layer compute with rounded weights, whatever holds its own: they are what it maps unit vectors to."""
    width: int = layer.in_features  # type: ignore[assignment]
    with torch.no_grad():
        unit = torch.eye(width, device=input_device(layer), dtype=dtype)
        bias = layer(torch.zeros_like(unit[:1]))
        weight = (layer(unit) - bias).T.float()
        for kept in (bits, bits - 1):
            rounded_weight = round_weights(weight.contiguous(), kept, width)[0]
            if (rounded_weight - weight).norm() > _UNCHANGED * weight.norm():
                break
        rounded_weight, bias = rounded_weight.to(dtype), bias[0]
    before = vars(layer).get("forward")

    def compute(values: Tensor) -> Tensor:
        return multiply(
            values.to(rounded_weight.device), rounded_weight.to(values.dtype), bias.to(values.dtype)
        )

    layer.forward = compute
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before
