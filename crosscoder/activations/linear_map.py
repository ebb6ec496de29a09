"""Linear maps between the activations of two models that share no space, to find the direction of one model in the other.

Two models of the same origin share a space: a direction means the same in both, and no map is needed. Models of different width, or
trained independently, share none. If their activations on the same tokens depend linearly on each other, the maps

    to_reference   argmin_B E‖x - mean_x - (y - mean_y) B‖²        x reference, y intervened
    to_intervened  argmin_A E‖y - mean_y - (x - mean_x) A‖²

carry directions over: d_intervened B is the reference's direction for the feature that d_intervened represents, if both models have it.
Both maps are fitted, so that exchanging the models exchanges the maps. Features of only one model bias the maps little, as long as shared
features span the same dimensions.
"""

from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..config.pair import MIN_MAP_EXPLAINED_VARIANCE
from ..errors import FormatError
from ..runtime.files import write_atomic
from .batch import have_difference, split_models

SHARED_SPACE_COSINE = 0.5
"""Smallest cosine between the centered activations of two models, over all tokens, at which they count as sharing a space."""

# The maps are evaluated on every tenth of about a hundred stretches of the sample. Rows are in document order, so neighboring rows may be
# from one document, and the last rows all from one source.
_STRETCHES, _EVERY = 100, 10

# Ridge, as a share of the mean variance: keeps directions with little variance from being fitted to noise.
_RIDGE = 1e-3


class LinearMap:
    """The maps between two models, in both directions. `fit` estimates them."""

    def __init__(
        self,
        to_reference: Float[Tensor, "d_intervened d_reference"],
        to_intervened: Float[Tensor, "d_reference d_intervened"],
        means: tuple[Float[Tensor, " d_reference"], Float[Tensor, " d_intervened"]],
        explained_variance: tuple[float, float],
    ) -> None:
        self.maps = (to_reference, to_intervened)
        """Indexed by the model that they map into; raw units, float32."""
        self.means = means
        """Mean activation of reference and intervened model; raw units, float32."""
        self.explained_variance = explained_variance
        """Share of the variance of reference and intervened model that the map into each explains, on tokens not fitted on."""

    @classmethod
    def fit(cls, sample: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> "LinearMap | None":
        """Fit the maps between the first two models; None if they share a space, or if a map explains too little."""
        parts = [part.double().cpu() for part in split_models(sample, d_models)[:2]]
        if share_space(parts):
            return None
        stretches = torch.arange(len(sample)) // max(1, len(sample) // _STRETCHES)
        held_out = stretches % _EVERY == _EVERY - 1
        fitted, evaluated = [[part[rows] for part in parts] for rows in (~held_out, held_out)]
        means = [part.mean(dim=0) for part in fitted]
        centered = [part - mean for part, mean in zip(fitted, means, strict=True)]
        test = [part - mean for part, mean in zip(evaluated, means, strict=True)]
        maps = [least_squares_map(centered[1 - into], centered[into]) for into in (0, 1)]
        explained = [_explained_variance(test[into], test[1 - into] @ maps[into]) for into in (0, 1)]
        if min(explained) < MIN_MAP_EXPLAINED_VARIANCE:
            return None
        return cls(
            maps[0].float(),
            maps[1].float(),
            (means[0].float(), means[1].float()),
            (explained[0], explained[1]),
        )

    def unmapped(
        self, values: Float[Tensor, "token width"], d_models: tuple[int, ...]
    ) -> tuple[Float[Tensor, "token d_reference"], Float[Tensor, "token d_intervened"]]:
        """Return the part of each model's centered activations that the map from the other does not explain; raw units."""
        parts = [
            part - mean.to(part)
            for part, mean in zip(split_models(values, d_models)[:2], self.means, strict=True)
        ]
        reference, intervened = (
            parts[into] - parts[1 - into] @ self.maps[into].to(values) for into in (0, 1)
        )
        return reference, intervened

    def save(self, path: Path) -> None:
        """Write the maps as safetensors."""
        tensors = {
            "to_reference": self.maps[0].contiguous(),
            "to_intervened": self.maps[1].contiguous(),
            "mean_reference": self.means[0].contiguous(),
            "mean_intervened": self.means[1].contiguous(),
            "carried": torch.tensor(self.explained_variance, dtype=torch.float64),
        }
        write_atomic(path, save(tensors))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote. Raises `FormatError` if it is damaged."""
        try:
            tensors = load_file(path)
            reference, intervened = tensors["carried"].tolist()
            means = tensors["mean_reference"], tensors["mean_intervened"]
            return cls(tensors["to_reference"], tensors["to_intervened"], means, (reference, intervened))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise FormatError(
                f"{path}: not a file of linear maps ({error}); remove it, and crosscoder train writes it again"
            ) from error


def share_space(parts: list[Float64[Tensor, "token _"]]) -> bool:
    """Whether two models' activations on the same tokens share a space: equal widths, and a cosine of at least `SHARED_SPACE_COSINE`."""
    if not have_difference(tuple(part.shape[1] for part in parts)):
        return False
    one, other = (part - part.mean(dim=0) for part in parts)
    norms = one.square().sum().sqrt() * other.square().sum().sqrt()
    return float((one * other).sum()) >= SHARED_SPACE_COSINE * float(norms)


def least_squares_map(
    x: Float64[Tensor, "token d_from"], y: Float64[Tensor, "token d_to"]
) -> Float64[Tensor, "d_from d_to"]:
    """Return argmin_A E‖y - x A‖² with a slight ridge, for centered x and y."""
    covariance = x.T @ x / len(x)
    ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)).to(x), x.T @ y / len(x))


def _explained_variance(actual: Float64[Tensor, "token _"], predicted: Float64[Tensor, "token _"]) -> float:
    """Return 1 - squared error / sum of squares, for centered activations; 0 if they do not vary."""
    total = float(actual.square().sum())
    return 1 - float((actual - predicted).square().sum()) / total if total else 0.0
