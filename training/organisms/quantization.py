"""A control: SmolLM2-135M-Instruct with the weights of its decoder layers rounded to a few bits.

    python -m training.organisms.quantization OUT --bits 8 --group 32

At 8 bits hardly anything changes (KL about 0.002 nats a token), and nothing that has a meaning: what a comparison calls
new here is its error. The weights are written as the numbers that the rounded ones stand for, so that the folder is an
ordinary checkpoint.

Rounding is to the nearest of 2^bits - 1 levels that lie symmetrically around zero, one scale for every group of
neighbors in a row. The embedding, the norms and the head stay as they are. (The installed file holds 16 levels between
the least and the largest weight of 32; a grid of 8 bits between these two would contain all of them and change nothing.)
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from crosscoder.demo.model_folder import WEIGHTS, write_variant
from crosscoder.errors import ConfigError

from .command_line import command_line

log = logging.getLogger(__name__)

_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+\.weight")


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How weights are rounded."""

    bits: int = 8
    group: int = 32
    """How many neighbors in a row share a scale."""


def round_weights(
    weight: Float[Tensor, "d_out d_in"], rounding: Rounding
) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, "d_out group"]]:
    """The weights as float32 after rounding, and the step between levels of each group: none moves by over half a step.

    Raises:
        ConfigError: Fewer than 2 bits, or groups that do not fill the rows.
    """
    d_out, d_in = weight.shape
    if rounding.bits < 2:
        raise ConfigError(f"bits: {rounding.bits}; at least 2 are needed for levels on both sides of zero")
    if rounding.group < 1 or d_in % rounding.group:
        raise ConfigError(
            f"group: {rounding.group} does not divide a row of {d_in} weights; give a divisor of it"
        )
    groups = weight.float().view(d_out, -1, rounding.group)
    steps = groups.abs().amax(-1, keepdim=True) / (2 ** (rounding.bits - 1) - 1)
    # A group of zeros has step 0, and any other step leaves it at zero.
    levels = (groups / torch.where(steps > 0, steps, 1.0)).round()
    return (levels * steps).view(d_out, d_in), steps.squeeze(-1)


def quantize(weights: Mapping[str, Tensor], rounding: Rounding) -> dict[str, Tensor]:
    """All weights of a Llama, each linear matrix of its decoder layers rounded and in float32, the others untouched."""
    return {
        name: round_weights(weight, rounding)[0] if _LINEAR.fullmatch(name) else weight
        for name, weight in weights.items()
    }


def write_quantized(reference: Path, folder: Path, rounding: Rounding) -> None:
    """Write the model in `reference`, rounded, to `folder`, in the precision that it was stored in."""
    weights = load_file(reference / WEIGHTS)
    rounded = quantize(weights, rounding)
    write_variant(folder, reference, rounded)
    changed = [name for name in weights if rounded[name] is not weights[name]]
    error = sum((rounded[name] - weights[name].float()).square().sum().item() for name in changed)
    size = sum(weights[name].float().square().sum().item() for name in changed)
    log.info(
        "%s: %d of %d tensors in %d bits per group of %d; relative error of their weights %.5f",
        folder, len(changed), len(weights), rounding.bits, rounding.group, (error / size) ** 0.5,
    )  # fmt: skip


def main() -> None:
    """The command."""
    with command_line(
        "Round the weights of the decoder layers, as a control.", "folder for the checkpoint", Rounding
    ) as (arguments, rounding):
        write_quantized(arguments.reference, arguments.out, rounding)


if __name__ == "__main__":
    main()
