"""Made-up activations that are like real ones where speed depends on it: a sparse sum of many directions whose firing
rates and strengths have heavy tails, so that some latents fire often, many seldom, and tokens differ in their number.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from crosscoder.activations.batch import ActivationBatch

from .settings import Shape

# Directions fire with rates ∝ 1 / rank, as words do; this many of them on a token, on average.
_FIRING = 48
_NOISE = 0.05

# Tokens that a trainer sets the normalization on.
_SAMPLE_TOKENS = 4096


class PlantedActivations:
    """Batches without end, each drawn afresh; the same seed gives the same ones."""

    def __init__(self, d_models: tuple[int, ...], n_directions: int = 4096, seed: int = 0) -> None:
        self.d_models, self.width = d_models, sum(d_models)
        self._generator = torch.Generator().manual_seed(seed)
        # The models differ, by a fifth of the length of a direction.
        shared = torch.randn(n_directions, max(d_models), generator=self._generator)
        parts = [
            normalize(shared[:, :d_model] + 0.2 * self._normal(n_directions, d_model), dim=1)
            for d_model in d_models
        ]
        self._directions = torch.cat(parts, dim=1)
        self._rates = 1.0 / torch.arange(1, n_directions + 1)

    def batch(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """Fresh tokens in bfloat16, as the default of the activations on disk is."""
        # Sums of draws with replacement: a direction that is drawn twice is twice as strong.
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
    """Planted tokens, another batch each round, the same for all variants of a round."""

    def __init__(self, shape: Shape, device: torch.device, seed: int) -> None:
        self._planted = PlantedActivations(shape.d_models, seed=seed)
        self._n_tokens, self._device = shape.batch_tokens, device
        self.sample = self._planted.batch(_SAMPLE_TOKENS)
        self.advance()

    def advance(self) -> None:
        """Draw the next batch."""
        self.current = self._planted.batch(self._n_tokens).to(self._device)


class PlantedReader:
    """Some planted tokens as an `ActivationReader`: what a trainer wants to look at beside its batches."""

    def __init__(self, values: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> None:
        self.values, self.d_models, self.n_tokens = values, d_models, len(values)

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """See `ActivationReader.gather`; every token is a document of its own."""
        return ActivationBatch(self.values[rows], rows, torch.zeros_like(rows))

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """See `ActivationReader.batches`."""
        for rows in torch.arange(self.n_tokens).split(size):
            yield self.gather(rows)
