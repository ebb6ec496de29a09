"""Pairs of made-up models whose every difference is known.

A feature has a unit direction, fires on a share of the tokens, and is edited on its way into the intervened model:

shared      same direction, same strength            rotated   turned by an angle, same strength
rescaled    same direction, multiplied by a factor   new       only in the intervened model
lost        only in the reference
"""

import math
from copy import copy
from dataclasses import dataclass, field
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from crosscoder.config import BatchTopK, CrosscoderConfig, ReLU
from crosscoder.dictionary import Crosscoder
from crosscoder.reading import MODEL_NAMES

STANDARD = {"shared": 64, "rotated": 8, "rescaled": 8, "new": 8, "lost": 8}
SMALL = {"shared": 8, "rotated": 3, "rescaled": 3, "new": 3, "lost": 3}


@dataclass(frozen=True)
class PlantedTruth:
    """What was planted: one row a feature."""

    kinds: tuple[str, ...]
    """shared, rotated, rescaled, new or lost."""

    reference: Float[Tensor, "feature d_model"]
    """Direction times strength in the reference; zero for a new feature."""

    intervened: Float[Tensor, "feature d_model"]
    """Direction times strength in the intervened model; zero for a lost feature."""

    rates: Float[Tensor, " feature"]
    """Share of the tokens a feature fires on."""


@dataclass(frozen=True)
class PlantedPair:
    """A pair with known differences; `sample` draws tokens from it.

    The standard regime: 96 features in 48 dimensions (64 shared, 8 rotated by 60°, 8 rescaled to 0.4, 8 new, 8 lost),
    each firing on 1 to 12 % of the tokens (log-uniform; about 4 of them on a token), magnitude max(0.2, 1 + 0.3 N),
    noise 0.03 per dimension, independent per model. Where the features fit into the space (`counts=SMALL`), their
    directions are orthogonal and a dictionary made by `dictionary` is exact up to the noise.
    """

    seed: int = 0
    d_model: int = 48
    counts: dict[str, int] = field(default_factory=lambda: dict(STANDARD))
    angle: float = 60.0
    factor: float = 0.4
    rare: float | None = None
    """Firing rate of new and lost features, where it differs from that of the others."""

    noise: float = 0.03
    truth: PlantedTruth = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "truth", self._plant())

    def sample(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token width"]:
        """Raw activations of both models side by side; the same seed gives the same tokens."""
        return self.values_of(self.magnitudes(n_tokens, seed), seed)

    def magnitudes(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token feature"]:
        """How strongly each feature fires on each token: the truth behind `sample` with the same seed."""
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + seed)
        fires = torch.rand(n_tokens, len(self.truth.kinds), generator=generator) < self.truth.rates
        strength = 1 + 0.3 * torch.randn(n_tokens, len(self.truth.kinds), generator=generator)
        return fires * strength.clamp(min=0.2)

    def values_of(
        self, magnitudes: Float[Tensor, "token feature"], seed: int = 0
    ) -> Float[Tensor, "token width"]:
        """Activations for given magnitudes, with fresh noise."""
        generator = torch.Generator().manual_seed(7_000_003 * (self.seed + 1) + seed)
        noise = self.noise * torch.randn(len(magnitudes), 2 * self.d_model, generator=generator)
        return magnitudes @ torch.cat([self.truth.reference, self.truth.intervened], dim=1) + noise

    @property
    def true_l0(self) -> float:
        """Features that fire on a token, on average."""
        return float(self.truth.rates.sum())

    def swapped(self) -> Self:
        """The same pair with the models exchanged: new is lost and lost is new."""
        names = {"new": "lost", "lost": "new"}
        twin = copy(self)
        truth = PlantedTruth(
            tuple(names.get(kind, kind) for kind in self.truth.kinds),
            self.truth.intervened,
            self.truth.reference,
            self.truth.rates,
        )
        object.__setattr__(twin, "truth", truth)
        return twin

    def null(self) -> Self:
        """A pair without a difference: the intervened model is the reference plus fresh noise."""
        twin = copy(self)
        everywhere = self.truth.reference + self.truth.intervened * torch.tensor(
            [kind == "new" for kind in self.truth.kinds]
        ).unsqueeze(1)
        truth = PlantedTruth(("shared",) * len(self.truth.kinds), everywhere, everywhere, self.truth.rates)
        object.__setattr__(twin, "truth", truth)
        return twin

    def dictionary(self, *, threshold: float = 0.19, extra_latents: int = 0) -> Crosscoder:
        """The dictionary that knows the truth: latent i is feature i; `extra_latents` never fire.

        Exact only where the directions of different features are orthogonal (`counts=SMALL`). Normalization is fitted
        to a sample, so that training space and raw space differ.
        """
        decoder = torch.cat([self.truth.reference, self.truth.intervened], dim=1)
        n_latents = len(decoder) + extra_latents
        config = CrosscoderConfig(
            d_models=(self.d_model, self.d_model),
            model_names=MODEL_NAMES,
            n_latents=n_latents,
            sparsity=BatchTopK(k=max(1, round(self.true_l0))),
        )
        return exact_dictionary(config, decoder, self.sample(4096, seed=99), threshold)

    def matches(
        self,
        reference: Float[Tensor, "latent d_model"],
        intervened: Float[Tensor, "latent d_model"],
        cosine: float = 0.7,
    ) -> list[int]:
        """For each latent the planted feature with the nearest pair of directions, or -1 where none is nearer than `cosine`.

        The cosine is that of the two directions laid end to end (raw units).
        """
        planted = normalize(torch.cat([self.truth.reference, self.truth.intervened], dim=1), dim=1)
        found = normalize(torch.cat([reference, intervened], dim=1).to(planted), dim=1)
        best = (found @ planted.T).max(dim=1)
        return [
            int(index) if value > cosine else -1
            for value, index in zip(best.values, best.indices, strict=True)
        ]

    def _plant(self) -> PlantedTruth:
        generator = torch.Generator().manual_seed(1000 + self.seed)
        kinds = tuple(kind for kind, count in self.counts.items() for _ in range(count))
        is_kind = {kind: torch.tensor([other == kind for other in kinds]) for kind in STANDARD}
        n_rotated = int(is_kind["rotated"].sum())
        directions = spread_directions(len(kinds) + n_rotated, self.d_model, generator)
        reference, sideways = directions[: len(kinds)].clone(), directions[len(kinds) :]
        intervened = reference.clone()
        start = reference[is_kind["rotated"]]
        sideways = normalize(sideways - (sideways * start).sum(dim=1, keepdim=True) * start, dim=1)
        angle = math.radians(self.angle)
        intervened[is_kind["rotated"]] = math.cos(angle) * start + math.sin(angle) * sideways
        intervened[is_kind["rescaled"]] *= self.factor
        reference[is_kind["new"]] = 0
        intervened[is_kind["lost"]] = 0
        rates = 0.12 * torch.exp(-torch.rand(len(kinds), generator=generator) * math.log(12.0))
        if self.rare is not None:
            rates[is_kind["new"] | is_kind["lost"]] = self.rare
        return PlantedTruth(kinds, reference, intervened, rates)


def exact_dictionary(
    config: CrosscoderConfig,
    decoder: Float[Tensor, "feature width"],
    sample: Float[Tensor, "token width"],
    threshold: float = 0.19,
) -> Crosscoder:
    """A crosscoder whose first latents write the rows of `decoder` (raw units) and read them by the pseudo-inverse.

    Exact where the rows are linearly independent; further latents never fire.
    """
    crosscoder = Crosscoder(config)
    crosscoder.set_normalization(sample)
    scale = crosscoder.scale.repeat_interleave(torch.tensor(config.d_models))
    with torch.no_grad():
        crosscoder.W_dec.zero_()
        crosscoder.W_enc.zero_()
        crosscoder.b_enc.fill_(-1.0)
        rows = decoder * scale
        crosscoder.W_dec[: len(decoder)] = rows
        crosscoder.W_enc[:, : len(decoder)] = torch.linalg.pinv(rows)
        # Normalization subtracts the mean; b_dec and b_enc put it back, so that a latent is the feature's magnitude.
        crosscoder.b_dec.copy_(-crosscoder.mean * scale)
        crosscoder.b_enc[: len(decoder)] = (crosscoder.mean * scale) @ crosscoder.W_enc[:, : len(decoder)]
        if isinstance(config.sparsity, BatchTopK):
            # Scores are latent times norm; the faintest magnitude is 0.2.
            crosscoder.sparsity.get_buffer("threshold").fill_(
                threshold * float(crosscoder.score_norms()[: len(decoder)].min())
            )
        elif isinstance(config.sparsity, ReLU):
            crosscoder.b_enc[: len(decoder)] -= threshold
    return crosscoder.eval()


def spread_directions(
    count: int, d_model: int, generator: torch.Generator
) -> Float[Tensor, "direction d_model"]:
    """Unit directions that keep apart: orthogonal where they fit, else pushed apart by gradient steps on Σ cos⁴."""
    start = torch.randn(count, d_model, generator=generator)
    if count <= d_model:
        return torch.linalg.qr(start.T).Q.T[:count].contiguous()
    weights = normalize(start, dim=1).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=1e-2)
    for _ in range(200):
        directions = normalize(weights, dim=1)
        overlap = directions @ directions.T - torch.eye(count)
        optimizer.zero_grad()
        overlap.pow(4).sum().backward()
        optimizer.step()
    return normalize(weights, dim=1).detach()
