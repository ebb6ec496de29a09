"""Synthetic activations that resemble real ones where it affects speed: sparse sums of many directions with heavy-tailed firing
rates and strengths. Some latents fire often and many rarely, and the number of firing latents varies between tokens.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from crosscoder.activations.batch import ActivationBatch

from .settings import Shape

# Directions fire at rates ∝ 1 / rank, like words; this many per token on average.
_FIRING = 48
_NOISE = 0.05

# Tokens from which the trainer estimates the normalization.
_SAMPLE_TOKENS = 4096


class PlantedActivations:
    """An endless sequence of random batches, reproducible from its seed."""

    def __init__(self, d_models: tuple[int, ...], n_directions: int = 4096, seed: int = 0) -> None:
        self.d_models, self.width = d_models, sum(d_models)
        self._generator = torch.Generator().manual_seed(seed)
        # Directions of the models differ by about a fifth of their length.
        shared = torch.randn(n_directions, max(d_models), generator=self._generator)
        parts = [
            normalize(shared[:, :d_model] + 0.2 * self._normal(n_directions, d_model), dim=1)
            for d_model in d_models
        ]
        self._directions = torch.cat(parts, dim=1)
        self._rates = 1.0 / torch.arange(1, n_directions + 1)

    def batch(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """Draw new tokens in bfloat16, the default precision of cached activations."""
        # Directions are drawn with replacement: one that is drawn twice counts twice.
        counts = torch.poisson(torch.full((n_tokens,), float(_FIRING)), generator=self._generator).long()
        total = int(counts.sum())
        chosen = torch.multinomial(self._rates, total, replacement=True, generator=self._generator)
        strength = torch.exp(0.7 * torch.randn(total, generator=self._generator))
        starts = counts.cumsum(0) - counts
        sums = embedding_bag(chosen, self._directions, starts, mode="sum", per_sample_weights=strength)
        return (sums + _NOISE * self._normal(n_tokens, self.width)).bfloat16()

    def _normal(self, n_rows: int, width: int) -> Float[Tensor, "row width"]:
        return torch.randn(n_rows, width, generator=self._generator)


class Batches:
    """Planted batches: a new one each round, shared by all variants of the round."""

    def __init__(self, shape: Shape, device: torch.device, seed: int) -> None:
        self._planted = PlantedActivations(shape.d_models, seed=seed)
        self._n_tokens, self._device = shape.batch_tokens, device
        self.sample = self._planted.batch(_SAMPLE_TOKENS)
        self.advance()

    def advance(self) -> None:
        """Draw the next batch."""
        self.current = self._planted.batch(self._n_tokens).to(self._device)


class PlantedReader:
    """Planted tokens as an `ActivationReader`, for the trainer's held-out tokens and normalization sample."""

    def __init__(self, values: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> None:
        self.values, self.d_models, self.n_tokens = values, d_models, len(values)

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        """See `ActivationReader.documents`."""
        return np.arange(self.n_tokens)

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """See `ActivationReader.gather`; every token is a document of its own."""
        return ActivationBatch(self.values[rows], rows, torch.zeros_like(rows))

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """See `ActivationReader.batches`."""
        for rows in torch.arange(self.n_tokens).split(size):
            yield self.gather(rows)
