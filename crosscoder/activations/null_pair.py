"""The null pair: two models that differ as much as the real ones, but in no feature. It is the null of every claim of change.

The activations x of one model are kept. Those of the other, y, are replaced:

    y' = mean_y + (x - mean_x) A + e'        e = y - mean_y - (x - mean_x) A

e' is e mixed over tokens (`transforms.mixed_over_tokens`), relative to the norm of each token. It has the same mean and size and about
the same covariance, but is nearly normal and independent of x, so it contains no sparse feature. The change keeps its size and its
directions, but no feature is learned, forgotten, rotated or rescaled. A dictionary with spare latents fits such noise with latents of
one model only. A dictionary trained on this pair with the settings of the run shows how many, and how much each explains.

A   is a multiple of the identity if the models share a space: y' then has every feature of x unchanged, and everything specific to the
    change is in e. If they share none, A is the least-squares map, which does not transfer features that only x has. Latents of one model
    only are then a valid null only for the model that was replaced.

With `keeps_sizes`, each e'_t keeps the length of e_t, and only its direction is mixed. Without it, e' is nearly Gaussian, so a change that is
rare and large, but in no feature (bursts, heavy tails), would beat this null by its sizes alone. With it, such a change is in the null too.

The model with more variance is kept: it has more features, and the choice does not depend on which model is the reference.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import DataError, FormatError
from ..runtime.files import write_atomic
from .batch import split_models
from .control_transforms import mixed_over_tokens
from .linear_map import least_squares_map, share_space


class NullPair:
    """The null pair of one pair; `fit` estimates it, `apply` turns a batch of the real pair into a batch of the null pair."""

    def __init__(
        self,
        kept: int,
        means: tuple[Float64[Tensor, " kept"], Float64[Tensor, " changed"]],
        linear: Float64[Tensor, "kept changed"],
        *,
        shared: bool,
        keeps_sizes: bool = False,
    ) -> None:
        self.kept = kept
        """Index of the model whose activations are kept."""
        self.shared = shared
        """Whether the two models share a space, so that both have every feature of the kept one."""
        self.keeps_sizes = keeps_sizes
        """Whether each token keeps the size of its change."""
        self.means, self.linear = means, linear
        # For batches: in float32, and the means in the order of the models.
        self._linear, self._offset = linear.float(), (means[1] - means[0] @ linear).float()
        self._centers = tuple(mean.float() for mean in (means if kept == 0 else reversed(means)))
        self.d_models = tuple(linear.shape) if kept == 0 else tuple(reversed(linear.shape))

    @classmethod
    def fit(
        cls, sample: Float[Tensor, "token width"], d_models: tuple[int, ...], *, keeps_sizes: bool = False
    ) -> Self:
        """Estimate the null pair from a sample of tokens. Raises `DataError` unless there are two models."""
        if len(d_models) != 2:
            raise DataError(f"controls.drift: needs two models, found {len(d_models)}; set it to false")
        parts = [part.double().cpu() for part in split_models(sample, d_models)]
        means = [part.mean(dim=0) for part in parts]
        centered = [part - mean for part, mean in zip(parts, means, strict=True)]
        kept = int(centered[1].square().sum() > centered[0].square().sum())
        x, y = centered[kept], centered[1 - kept]
        shared = share_space(centered)
        if shared:
            linear = torch.eye(x.shape[1]).to(x) * ((x * y).sum() / x.square().sum())
        else:
            linear = least_squares_map(x, y)
        centers = means[kept], means[1 - kept]
        return cls(kept, centers, linear, shared=shared, keeps_sizes=keeps_sizes)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Return the batch of the null pair, in the precision of `values`."""
        parts = list(split_models(values, self.d_models))
        linear, offset = self._linear.to(values.device), self._offset.to(values.device)
        predicted = torch.addmm(offset, parts[self.kept].float(), linear)
        error = parts[1 - self.kept].float() - predicted
        # Relative to a size of the token: otherwise a large token would get the noise of the tokens it is mixed with.
        size = _lengths(error) if self.keeps_sizes else self._norms(parts)
        noise = mixed_over_tokens(error / size)
        noise = size * (noise / _lengths(noise) if self.keeps_sizes else noise)
        noise *= (error.square().sum() / noise.square().sum().clamp_min(1e-30)).sqrt()
        noise += error.mean(dim=0) - noise.mean(dim=0)
        parts[1 - self.kept] = predicted.add_(noise).to(values.dtype)
        return torch.cat(parts, dim=1)

    def _norms(self, parts: list[Tensor]) -> Float[Tensor, "token 1"]:
        """Return the distance of each token from the mean, over both models together."""
        square = sum(
            (part.float() - center.to(part.device)).square().sum(dim=1, keepdim=True)
            for part, center in zip(parts, self._centers, strict=True)
        )
        return torch.as_tensor(square).sqrt().clamp_min(1e-12)

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return tuple(d_models)

    def save(self, path: Path) -> None:
        """Write the null pair as safetensors."""
        tensors = {
            "keeps_sizes": torch.tensor(self.keeps_sizes),
            "kept": torch.tensor(self.kept),
            "shared": torch.tensor(self.shared),
            "mean_kept": self.means[0],
            "mean_changed": self.means[1],
            "linear": self.linear,
        }
        write_atomic(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote. Raises `FormatError` if it is missing or damaged."""
        try:
            tensors = load_file(path)
            means = tensors["mean_kept"], tensors["mean_changed"]
            # Files of earlier versions have no sizes to keep.
            keeps_sizes = bool(tensors.get("keeps_sizes", False))
            shared = bool(tensors["shared"])
            return cls(int(tensors["kept"]), means, tensors["linear"], shared=shared, keeps_sizes=keeps_sizes)
        except (OSError, KeyError, SafetensorError) as error:
            raise FormatError(
                f"{path}: not a null pair ({error}); remove its folder and train the control again"
            ) from error


def _lengths(values: Float[Tensor, "token d_model"]) -> Float[Tensor, "token 1"]:
    return values.norm(dim=1, keepdim=True).clamp_min(1e-12)
