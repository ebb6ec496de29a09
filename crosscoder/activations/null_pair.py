"""A pair of models that differ as much as the real ones, and in no feature: the null of whatever is claimed to have changed.

One model's activations x are kept. The other's, y, are replaced:

    y' = mean_y + (x - mean_x) A + e'        e = y - mean_y - (x - mean_x) A

e' is e mixed over tokens (`changes.mixed_over_tokens`), relative to the length of each token: of the same mean and size and about
the same covariance, but nearly normal and unrelated to x, so that no sparse feature is left in it. So the change has its size
and its directions, but nothing was learned, forgotten, turned or rescaled. A dictionary with latents to spare fits noise like e'
with latents of one model alone. One that is trained on this pair as on the real one shows how many, and how much such a latent
explains.

A   is a multiple of the identity where the models share a space: whatever features are in x are in y', as they are, and all
    that is particular in the change is in e. Where they share none, A is the least-squares map, which leads what only x has
    nowhere: then what is in one model alone in the null says something only where that is the one that was replaced.

The model with more variance is kept: it holds the more features, and the choice does not depend on which of the two is
called the reference.
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
from .linear_map import least_squares_map, share_space
from .transforms import mixed_over_tokens


class NullPair:
    """The drift of one pair; `fit` estimates it, `apply` makes tokens of the null pair."""

    def __init__(
        self,
        kept: int,
        means: tuple[Float64[Tensor, " kept"], Float64[Tensor, " changed"]],
        linear: Float64[Tensor, "kept changed"],
        *,
        shared: bool,
    ) -> None:
        self.kept = kept
        """Index of the model whose activations stay."""
        self.shared = shared
        """Whether the two models share a space, so that whatever the kept one has is in both."""
        self.means, self.linear = means, linear
        # As batches need them: in their precision, and the means in the order of the models.
        self._linear, self._offset = linear.float(), (means[1] - means[0] @ linear).float()
        self._centers = tuple(mean.float() for mean in (means if kept == 0 else reversed(means)))
        self.d_models = tuple(linear.shape) if kept == 0 else tuple(reversed(linear.shape))

    @classmethod
    def fit(cls, sample: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> Self:
        """Estimate the drift from some tokens. Raises `DataError` unless there are two models."""
        if len(d_models) != 2:
            raise DataError(f"controls.drift: needs two models, found {len(d_models)}; switch it off")
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
        return cls(kept, (means[kept], means[1 - kept]), linear, shared=shared)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Tokens of the null pair, in the precision of `values`."""
        parts = list(split_models(values, self.d_models))
        linear, offset = self._linear.to(values.device), self._offset.to(values.device)
        account = torch.addmm(offset, parts[self.kept].float(), linear)
        error = parts[1 - self.kept].float() - account
        # Relative to the length of the token: else the noise of a long one would be that of the tokens it is mixed with.
        length = self._lengths(parts)
        noise = length * mixed_over_tokens(error / length)
        noise *= (error.square().sum() / noise.square().sum().clamp_min(1e-30)).sqrt()
        noise += error.mean(dim=0) - noise.mean(dim=0)
        parts[1 - self.kept] = account.add_(noise).to(values.dtype)
        return torch.cat(parts, dim=1)

    def _lengths(self, parts: list[Tensor]) -> Float[Tensor, "token 1"]:
        """How far each token is from the mean, in both models together."""
        square = sum(
            (part.float() - center.to(part.device)).square().sum(dim=1, keepdim=True)
            for part, center in zip(parts, self._centers, strict=True)
        )
        return torch.as_tensor(square).sqrt().clamp_min(1e-12)

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """Of the models of the null pair."""
        return tuple(d_models)

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        tensors = {
            "kept": torch.tensor(self.kept),
            "shared": torch.tensor(self.shared),
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
            return cls(int(tensors["kept"]), means, tensors["linear"], shared=bool(tensors["shared"]))
        except (OSError, KeyError, SafetensorError) as error:
            raise FormatError(
                f"{path}: not a drift ({error}); remove its folder and train the control again"
            ) from error
