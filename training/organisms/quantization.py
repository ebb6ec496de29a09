"""A model organism without a behavioral change: SmolLM2-135M-Instruct with decoder layers rounded to a few bits.

    python -m training.organisms.quantization OUT --bits 8 --group 32

At 8 bits hardly anything changes (KL about 0.002 nats per token), and no change has a meaning: latents that a comparison labels
new here are false discoveries. The rounded weights are stored dequantized, so that the folder is an ordinary checkpoint.

`crosscoder.language_models.rounding` says how weights are rounded. The embedding, the norms and the unembedding are unchanged. (The installed file holds 16 levels between the smallest and the
largest of 32 weights; an 8-bit grid between these two would contain all of them and change nothing.)
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from crosscoder.demo.model_folder import WEIGHTS, write_variant
from crosscoder.language_models.rounding import round_weights

from .command_line import command_line

log = logging.getLogger(__name__)

_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+\.weight")


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How weights are rounded."""

    bits: int = 8
    group: int = 32
    """Number of neighbors in a row that share a scale."""


def quantize(weights: Mapping[str, Tensor], rounding: Rounding) -> dict[str, Tensor]:
    """Round each linear layer in the decoder layers of a Llama, as float32; other weights are unchanged."""
    return {
        name: round_weights(weight, rounding.bits, rounding.group)[0] if _LINEAR.fullmatch(name) else weight
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
