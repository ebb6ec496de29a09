"""A model organism without a behavioral change: SmolLM2-135M-Instruct with decoder layers rounded to a few bits.

    python -m training.organisms.quantization OUT --bits 8 --group 32

At 8 bits hardly anything changes (KL about 0.002 nats per token), and no change has a meaning: latents that a comparison labels
new here are false discoveries. The rounded weights are stored dequantized, so that the folder is an ordinary checkpoint.

Weights are rounded to the nearest of 2^bits - 1 levels that are symmetric around zero, with one scale per group of neighbors in a
row. The embedding, the norms and the unembedding are unchanged. (The installed file holds 16 levels between the smallest and the
largest of 32 weights; an 8-bit grid between these two would contain all of them and change nothing.)
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
    """Number of neighbors in a row that share a scale."""


def round_weights(
    weight: Float[Tensor, "d_out d_in"], rounding: Rounding
) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, "d_out group"]]:
    """Round weights; return them as float32, and the step between levels of each group. None changes by over half a step.

    Raises:
        ConfigError: Fewer than 2 bits, or a group size that does not divide the rows.
    """
    d_out, d_in = weight.shape
    if rounding.bits < 2:
        raise ConfigError(f"bits: {rounding.bits} is too few; levels on both sides of zero need at least 2")
    if rounding.group < 1 or d_in % rounding.group:
        raise ConfigError(
            f"group: {rounding.group} does not divide a row of {d_in} weights; give a divisor of it"
        )
    groups = weight.float().view(d_out, -1, rounding.group)
    steps = groups.abs().amax(-1, keepdim=True) / (2 ** (rounding.bits - 1) - 1)
    # A group of zeros has step 0; any nonzero step keeps it at zero.
    levels = (groups / torch.where(steps > 0, steps, 1.0)).round()
    return (levels * steps).view(d_out, d_in), steps.squeeze(-1)


def quantize(weights: Mapping[str, Tensor], rounding: Rounding) -> dict[str, Tensor]:
    """Round each linear layer in the decoder layers of a Llama, as float32; other weights are unchanged."""
    return {
        name: round_weights(weight, rounding)[0] if _LINEAR.fullmatch(name) else weight
        for name, weight in weights.items()
    }


def write_quantized(reference: Path, folder: Path, rounding: Rounding) -> None:
    """Round the model in `reference` and write it to `folder`, in its stored precision."""
    weights = load_file(reference / WEIGHTS)
    rounded = quantize(weights, rounding)
    write_variant(folder, reference, rounded)
    changed = [name for name in weights if rounded[name] is not weights[name]]
    error = sum((rounded[name] - weights[name].float()).square().sum().item() for name in changed)
    size = sum(weights[name].float().square().sum().item() for name in changed)
    log.info(
        "%s: rounded %d of %d tensors to %d bits with groups of %d; relative error of these weights %.5f",
        folder, len(changed), len(weights), rounding.bits, rounding.group, (error / size) ** 0.5,
    )  # fmt: skip


def main() -> None:
    """Run the command."""
    with command_line("Round the weights of the decoder layers.", "folder for the checkpoint", Rounding) as (
        arguments,
        rounding,
    ):
        write_quantized(arguments.reference, arguments.out, rounding)


if __name__ == "__main__":
    main()
