"""Chains of made-up checkpoints: a planted pair whose changes set in one after the other, at known checkpoints."""

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

    A changed feature equals its reference version before its onset and its intervened version from the onset on. Features fire
    on the same tokens in all checkpoints; noise is independent in each checkpoint.
    """

    pair: PlantedPair
    last: int
    onsets: Int[Tensor, " feature"]
    """First checkpoint at which each feature equals its version in the intervened model."""

    @classmethod
    def spread(cls, pair: PlantedPair, last: int) -> Self:
        """Spread the changes evenly over the checkpoints after the reference."""
        changed = pair.truth.changed.long()
        return cls(pair, last, 1 + (changed.cumsum(0) - 1).clamp_min(0) % last)

    @property
    def d_models(self) -> tuple[int, ...]:
        """Width of each model, in the order of the model axis."""
        return (self.pair.d_model,) * (self.last + 1)

    @property
    def rows(self) -> Float[Tensor, "feature width"]:
        """Directions in all models, concatenated in the order of the model axis: reference, intervened, then snapshots."""
        truth, by_model = self.pair.truth, [torch.empty(0)] * (self.last + 1)
        for checkpoint, model in enumerate(time_order(self.last + 1)):
            changed = (checkpoint >= self.onsets).unsqueeze(1)
            by_model[model] = torch.where(changed, truth.intervened, truth.reference)
        return torch.cat(by_model, dim=1)

    def sample(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token width"]:
        """Draw raw activations of all checkpoints; the same seed gives the same tokens."""
        signal = self.pair.magnitudes(n_tokens, seed) @ self.rows
        generator = torch.Generator().manual_seed(13_000_003 * (self.pair.seed + 1) + seed)
        return signal + self.pair.noise * torch.randn(signal.shape, generator=generator)

    def reversed(self) -> Self:
        """Return the chain in reverse order: a change that set in at checkpoint t is undone there."""
        return replace(self, pair=self.pair.swapped(), onsets=self.last + 1 - self.onsets)

    def null(self) -> Self:
        """Return a chain whose checkpoints differ only in their noise."""
        return replace(self, pair=self.pair.null())

    def dictionary(self) -> Crosscoder:
        """Return the ground-truth dictionary; see `PlantedPair.dictionary`."""
        config = CrosscoderConfig(
            d_models=self.d_models,
            model_names=model_names(self.last + 1),
            n_latents=len(self.onsets),
            sparsity=BatchTopK(k=max(1, math.ceil(self.pair.true_l0))),
        )
        return exact_dictionary(config, self.rows, self.sample(4096, seed=99))
