"""How activations are normalized before a dictionary reads them: x' = (x - mean) * scale.

Each model is centered on its mean and scaled by one number so that E‖x'‖² = d_model. The mean and the scale are fitted to a sample
before the training and stored with the dictionary, which therefore takes raw activations.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations.batch import split_models
from ..errors import DataError


def normalize(
    values: Float[Tensor, "token width"], mean: Float[Tensor, " width"], scale: Float[Tensor, " width"]
) -> Float[Tensor, "token width"]:
    """Convert raw to normalized activations; `scale` holds the scale of each dimension's model."""
    return (values - mean) * scale


def denormalize(
    normalized: Float[Tensor, "token width"], mean: Float[Tensor, " width"], scale: Float[Tensor, " width"]
) -> Float[Tensor, "token width"]:
    """Convert normalized to raw activations."""
    return normalized / scale + mean


def fit(
    sample: Float[Tensor, "token width"], d_models: tuple[int, ...], names: Sequence[str]
) -> tuple[Float[Tensor, " width"], Float[Tensor, " model"]]:
    """Return the mean of a sample of raw activations and the scale of each model, in float64.

    Raises:
        DataError: A model's activations are constant.
    """
    sample = sample.double()
    mean = sample.mean(dim=0)
    scales = []
    for name, part in zip(names, split_models(sample - mean, d_models), strict=True):
        mean_square = part.square().sum(dim=1).mean()
        if mean_square == 0:
            raise DataError(
                f"activations of {name!r}: all {len(part)} sampled tokens are equal, so there is no variance to explain"
            )
        scales.append((part.shape[1] / mean_square).sqrt())
    return mean, torch.stack(scales)
