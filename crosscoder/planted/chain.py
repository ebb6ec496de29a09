"""Chains of made-up checkpoints: a planted pair whose changes come in one after the other, at checkpoints that are known."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..config import BatchTopK, CrosscoderConfig
from ..config.model_names import model_names, time_order
from ..dictionary.crosscoder import Crosscoder
from .exact import exact_dictionary
from .planted_pair import PlantedPair


@dataclass(frozen=True)
class PlantedChain:
    """Checkpoints 0 (the reference) to `last` (the intervened model) of a pair.

    A changed feature is as in the reference before its beginning and as in the intervened model from it on; all features fire
    on the same tokens in all checkpoints, and every checkpoint has noise of its own.
    """

    pair: PlantedPair
    last: int
    begins: Int[Tensor, " feature"]
    """Checkpoint from which on a feature is as in the intervened model."""

    @classmethod
    def spread(cls, pair: PlantedPair, last: int) -> Self:
        """The changes spread evenly over the checkpoints after the reference."""
        changed = pair.truth.changed.long()
        return cls(pair, last, 1 + (changed.cumsum(0) - 1).clamp_min(0) % last)

    @property
    def d_models(self) -> tuple[int, ...]:
        """Width of each model on the axis."""
        return (self.pair.d_model,) * (self.last + 1)

    @property
    def rows(self) -> Float[Tensor, "feature width"]:
        """Directions of all models side by side, in the order of the axis: reference, intervened, then the snapshots."""
        truth, by_place = self.pair.truth, [torch.empty(0)] * (self.last + 1)
        for checkpoint, place in enumerate(time_order(self.last + 1)):
            begun = (checkpoint >= self.begins).unsqueeze(1)
            by_place[place] = torch.where(begun, truth.intervened, truth.reference)
        return torch.cat(by_place, dim=1)

    def sample(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token width"]:
        """Raw activations of all checkpoints; the same seed gives the same tokens."""
        signal = self.pair.magnitudes(n_tokens, seed) @ self.rows
        generator = torch.Generator().manual_seed(13_000_003 * (self.pair.seed + 1) + seed)
        return signal + self.pair.noise * torch.randn(signal.shape, generator=generator)

    def reversed(self) -> Self:
        """The same course the other way round: what began at checkpoint t ends there."""
        return replace(self, pair=self.pair.swapped(), begins=self.last + 1 - self.begins)

    def null(self) -> Self:
        """Checkpoints that differ by their noise alone."""
        return replace(self, pair=self.pair.null())

    def dictionary(self) -> Crosscoder:
        """The dictionary that knows the truth: see `PlantedPair.dictionary`."""
        config = CrosscoderConfig(
            d_models=self.d_models,
            model_names=model_names(self.last + 1),
            n_latents=len(self.begins),
            sparsity=BatchTopK(k=max(1, math.ceil(self.pair.true_l0))),
        )
        return exact_dictionary(config, self.rows, self.sample(4096, seed=99))
