"""Weights rounded to a few bits: hardly any behavior changes, so what a comparison finds there is found from nothing.

Weights are rounded to the nearest of 2^bits - 1 levels that are symmetric around zero, with one scale per group of neighbors in a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ConfigError


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

    The original weights are kept in main memory meanwhile. Weights that are stored as integers are left alone.
    """
    head = getattr(network, "get_output_embeddings", lambda: None)()
    linear = [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and "lora_" not in name
        and module.weight.is_floating_point()
    ]
    before = [weight.detach().to("cpu", copy=True) for weight in linear]
    try:
        with torch.no_grad():
            for weight in linear:
                weight.copy_(round_weights(weight.detach(), bits, weight.shape[1])[0])
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(linear, before, strict=True):
                weight.copy_(original)
