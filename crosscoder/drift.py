"""A pair of models that differ as much as the real ones, and in no feature: the null for what is called new or lost.

One model's activations x are kept. The other's, y, are replaced by a linear map of x:

    y' = mean_y + (x - mean_x) (A + s W R L)        e = y - mean_y - (x - mean_x) A

A is the least-squares map, so all that is linear in the real change stays: features turned and rescaled. Lᵀ L is the covariance
of e, what is not linear; in its place stands a random linear map of the same covariance (W whitens x, R is a random matrix with
orthonormal rows or columns, s makes up the total variance). So y' has the mean of y and nearly its covariance, and the
change has its size; but whatever is in one model is in the other, and nothing was learned and nothing forgotten. A
dictionary trained on this pair as on the real one shows how many latents are called new or lost all the same.

The model with more variance is kept: it holds the more features, and the choice does not depend on which of the two is
called the reference.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .activations import split_models
from .errors import DataError, FormatError
from .folder import write_atomic

# Ridge of the least-squares map, as a share of the mean variance of x: directions in which it hardly varies would otherwise
# be fitted to chance.
_RIDGE = 1e-3

# Directions of x with less than this share of the mean variance are whitened as if they had it: what hardly varies in x is
# mostly noise, and blown up it would look like something that y alone has.
_FLOOR = 0.1

_SEED_STREAM = 9


class Drift:
    """The drift of one pair; `fit` estimates it, `apply` makes tokens of the null pair."""

    def __init__(
        self,
        kept: int,
        means: tuple[Float64[Tensor, " kept"], Float64[Tensor, " changed"]],
        linear: Float64[Tensor, "kept changed"],
    ) -> None:
        self.kept = kept
        """Index of the model whose activations stay."""
        self.means, self.linear = means, linear
        self._offset = means[1] - means[0] @ linear
        self.d_models = tuple(linear.shape) if kept == 0 else tuple(reversed(linear.shape))

    @classmethod
    def fit(cls, sample: Float[Tensor, "token width"], d_models: tuple[int, ...], seed: int) -> Self:
        """Estimate the drift from some tokens. Raises `DataError` unless there are two models."""
        if len(d_models) != 2:
            raise DataError(f"controls.drift: needs two models, found {len(d_models)}; switch it off")
        parts = [part.double().cpu() for part in split_models(sample, d_models)]
        means = [part.mean(dim=0) for part in parts]
        centered = [part - mean for part, mean in zip(parts, means, strict=True)]
        kept = int(centered[1].square().sum() > centered[0].square().sum())
        x, y = centered[kept], centered[1 - kept]
        covariance = x.T @ x / len(x)
        ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
        account = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)).to(x), x.T @ y / len(x))
        error = y - x @ account
        linear = account + _random_map(covariance, error.T @ error / len(error), seed)
        return cls(kept, (means[kept], means[1 - kept]), linear)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Tokens of the null pair, in the precision of `values`."""
        parts = list(split_models(values, self.d_models))
        linear, offset = (tensor.to(values.device, torch.float32) for tensor in (self.linear, self._offset))
        parts[1 - self.kept] = torch.addmm(offset, parts[self.kept].float(), linear).to(values.dtype)
        return torch.cat(parts, dim=1)

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """Of the models of the null pair."""
        return tuple(d_models)

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        tensors = {
            "kept": torch.tensor(self.kept),
            "mean_kept": self.means[0],
            "mean_changed": self.means[1],
            "linear": self.linear,
        }
        write_atomic(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises `FormatError` where it is missing or damaged."""
        try:
            tensors = load_file(path)
            means = tensors["mean_kept"], tensors["mean_changed"]
            return cls(int(tensors["kept"]), means, tensors["linear"])
        except (OSError, KeyError, SafetensorError) as error:
            raise FormatError(
                f"{path}: not a drift ({error}); remove its folder and train the control again"
            ) from error


def _random_map(
    covariance: Float64[Tensor, "kept kept"], wanted: Float64[Tensor, "changed changed"], seed: int
) -> Float64[Tensor, "kept changed"]:
    """A random linear map of x whose outputs have about the wanted covariance, and exactly its trace."""
    values, vectors = torch.linalg.eigh(covariance)
    whitening = vectors * values.clamp_min(_FLOOR * values.mean()).rsqrt() @ vectors.T
    generator = np.random.default_rng((seed, _SEED_STREAM))
    normal = torch.from_numpy(generator.standard_normal((len(covariance), len(wanted))))
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    variances, directions = torch.linalg.eigh(wanted)
    root = variances.clamp_min(0).sqrt()[:, None] * directions.T
    candidate = whitening @ (left @ right) @ root
    total = (candidate * (covariance @ candidate)).sum()
    return candidate * (wanted.trace() / total.clamp_min(1e-300)).sqrt()
