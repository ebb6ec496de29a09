"""Linear maps between the activations of two models that share no space, so that a direction of one can be looked for in the other.

Two models of one origin share a space: what a direction means in one it means in the other, and a frame is not needed. Models of
different width, or trained apart, do not. Where their activations of the same tokens depend on each other linearly, the maps

    to_reference   argmin_B E‖x - mean_x - (y - mean_y) B‖²        x reference, y intervened
    to_intervened  argmin_A E‖y - mean_y - (x - mean_x) A‖²

carry directions over: d_intervened B is where the reference would hold what d_intervened stands for, were it one of the things that both hold.
Both are fitted, so that exchanging the models exchanges them. What only one model has bends the maps little, as long as the other things fill the
same dimensions.
"""

from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..config.pair import LEAST_CARRIED
from ..errors import FormatError
from ..runtime.files import write_atomic
from .batch import have_difference, split_models

SAME_SPACE = 0.5
"""Cosine of the centered activations of two models, all tokens together, from which on they are taken to share a space."""

# To measure the maps on: every tenth of about a hundred stretches of the sample. Rows lie in the order of the texts, so that neighbours
# may be of one document, and the last ones all of one source.
_STRETCHES, _EVERY = 100, 10

# Share of the mean variance: directions in which activations hardly vary would otherwise be fitted to chance.
_RIDGE = 1e-3


class LinearMap:
    """Maps that carry directions from either model into the other. `fit` estimates them."""

    def __init__(
        self,
        to_reference: Float[Tensor, "d_intervened d_reference"],
        to_intervened: Float[Tensor, "d_reference d_intervened"],
        means: tuple[Float[Tensor, " d_reference"], Float[Tensor, " d_intervened"]],
        carried: tuple[float, float],
    ) -> None:
        self.maps = (to_reference, to_intervened)
        """By the model that they lead into, raw units, float32."""
        self.means = means
        """Of reference and intervened model, raw units, float32."""
        self.carried = carried
        """Share of the variance of reference and intervened model that the map into each carries, on tokens not fitted on."""

    @classmethod
    def fit(cls, sample: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> "LinearMap | None":
        """The maps between the first two models; None where they share a space, or where no linear map leads across."""
        parts = [part.double().cpu() for part in split_models(sample, d_models)[:2]]
        if share_space(parts):
            return None
        stretches = torch.arange(len(sample)) // max(1, len(sample) // _STRETCHES)
        held_out = stretches % _EVERY == _EVERY - 1
        fitted, apart = [[part[rows] for part in parts] for rows in (~held_out, held_out)]
        means = [part.mean(dim=0) for part in fitted]
        centered = [part - mean for part, mean in zip(fitted, means, strict=True)]
        seen = [part - mean for part, mean in zip(apart, means, strict=True)]
        maps = [least_squares_map(centered[1 - into], centered[into]) for into in (0, 1)]
        carried = [_explained(seen[into], seen[1 - into] @ maps[into]) for into in (0, 1)]
        if min(carried) < LEAST_CARRIED:
            return None
        return cls(
            maps[0].float(), maps[1].float(), (means[0].float(), means[1].float()), (carried[0], carried[1])
        )

    def unmapped(
        self, values: Float[Tensor, "token width"], d_models: tuple[int, ...]
    ) -> tuple[Float[Tensor, "token d_reference"], Float[Tensor, "token d_intervened"]]:
        """What of each model's activations the map from the other does not carry, centered, raw units."""
        parts = [
            part - mean.to(part)
            for part, mean in zip(split_models(values, d_models)[:2], self.means, strict=True)
        ]
        reference, intervened = (
            parts[into] - parts[1 - into] @ self.maps[into].to(values) for into in (0, 1)
        )
        return reference, intervened

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        tensors = {
            "to_reference": self.maps[0].contiguous(),
            "to_intervened": self.maps[1].contiguous(),
            "mean_reference": self.means[0].contiguous(),
            "mean_intervened": self.means[1].contiguous(),
            "carried": torch.tensor(self.carried, dtype=torch.float64),
        }
        write_atomic(path, save(tensors))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises `FormatError` where it is damaged."""
        try:
            tensors = load_file(path)
            reference, intervened = tensors["carried"].tolist()
            means = tensors["mean_reference"], tensors["mean_intervened"]
            return cls(tensors["to_reference"], tensors["to_intervened"], means, (reference, intervened))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise FormatError(
                f"{path}: not a frame ({error}); remove it, and crosscoder train makes it again"
            ) from error


def share_space(parts: list[Float64[Tensor, "token _"]]) -> bool:
    """Whether two models' activations of the same tokens lie in one space: equal widths, and a cosine above `SAME_SPACE`."""
    if not have_difference(tuple(part.shape[1] for part in parts)):
        return False
    one, other = (part - part.mean(dim=0) for part in parts)
    extent = one.square().sum().sqrt() * other.square().sum().sqrt()
    return float((one * other).sum()) >= SAME_SPACE * float(extent)


def least_squares_map(
    x: Float64[Tensor, "token d_from"], y: Float64[Tensor, "token d_to"]
) -> Float64[Tensor, "d_from d_to"]:
    """argmin_A E‖y - x A‖² with a slight ridge, for centered x and y."""
    covariance = x.T @ x / len(x)
    ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)).to(x), x.T @ y / len(x))


def _explained(actual: Float64[Tensor, "token _"], rebuilt: Float64[Tensor, "token _"]) -> float:
    """1 - squared error over squares, of centered activations; nothing of tokens that do not vary."""
    total = float(actual.square().sum())
    return 1 - float((actual - rebuilt).square().sum()) / total if total else 0.0
