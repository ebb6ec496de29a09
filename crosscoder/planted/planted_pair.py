"""Pairs of made-up models whose differences are all known.

A feature has a unit direction, fires on a share of the tokens, and is edited in the intervened model as listed in
`truth.KINDS`. `regimes.REGIMES` names the configurations of the benchmark.
"""

import math
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ..config import BatchTopK, CrosscoderConfig
from ..config.model_names import MODEL_NAMES
from ..dictionary.crosscoder import Crosscoder
from ..dictionary.metrics import ReconstructionMeter
from ..dictionary.sparse_latents import SparseLatents
from .directions import SpaceMap, random_rotation, random_stretch, spread_directions, with_cosines
from .exact import exact_dictionary
from .firing import Firing, Groups
from .truth import KINDS, NullKind, PlantedTruth

STANDARD = {"shared": 64, "rotated": 8, "rescaled": 8, "new": 8, "lost": 8}
SMALL = {"shared": 8, "rotated": 3, "rescaled": 3, "new": 3, "lost": 3}

MIN_ALIGNMENT_RATE, HIGHEST_RATE = 0.01, 0.12
PARENTS = 16
GROUP_SIZE = 6
COSINES = (0.1, 0.5)
STRETCH = 2.0
HEAVY_FACTORS = (5.0, 10.0)
RATE_CHANGE = 3.0
SPREAD_CHANGE = 3.0

# Tokens used to estimate expectations over a pair.
_SAMPLE_TOKENS = 16384


@dataclass(frozen=True)
class PlantedPair:
    """A pair with known differences; `sample` draws tokens from it.

    The standard regime: 96 features in 48 dimensions (64 shared, 8 rotated by 60°, 8 rescaled to 0.4, 8 new, 8 lost),
    each firing on 1 to 12 % of the tokens (log-uniform; about 4 features per token), magnitude max(0.2, 1 + 0.3 N),
    noise 0.03 per dimension, independent per model. If there are no more features than dimensions (`counts=SMALL`),
    directions are orthogonal and the result of `dictionary` is exact up to the noise.

    Tokens are drawn in documents of 256 rows, the default for arrays without document indices.
    """

    seed: int = 0
    d_model: int = 48
    counts: dict[str, int] = field(default_factory=lambda: dict(STANDARD))
    angle: float = 60.0
    """Rotation angle of rotated features, in degrees."""

    split_angle: float = 45.0
    """Angle between each direction of a split or merged pair and their common direction, in degrees."""

    factor: float = 0.4
    rare: float | None = None
    """Firing rate of new and lost features; None: drawn like that of the others."""

    noise: float = 0.03
    intervened_d_model: int | None = None
    """Width of the intervened model, if it differs; its directions are then drawn independently."""

    hierarchical: bool = False
    """Whether all changed features, and every third shared one, are children: they fire only if their parent does, on at
    most half of its tokens. Parents are the `PARENTS` shared features that fire most."""

    entangled: bool = False
    """Whether features form groups of `GROUP_SIZE` of mixed kinds, with correlated firing (`firing.Groups`) and cosines
    between 0.1 and 0.5 before they are edited."""

    document_share: float = 0.0
    """For entangled groups; see `firing.Groups`."""

    mapping: Literal["none", "rotation", "affine"] = "none"
    """Map applied to the intervened model's whole space, noise included: a random rotation, or a random matrix with
    singular values from 1/2 to 2 and an offset of length 2."""

    heavy_tails: float = 0.0
    """Share of the tokens whose activations are scaled by 5 to 10, in both models."""

    truth: PlantedTruth = field(init=False)
    firing: Firing = field(init=False)
    maps: tuple[SpaceMap | None, SpaceMap | None] = field(init=False, default=(None, None))
    common_noise: bool = field(init=False, default=False)
    """Whether both models have the same noise."""

    drift: Float[Tensor, "d_model d_model"] | None = field(init=False, default=None)
    """Square root of the covariance of additional Gaussian noise in the intervened model; None: no such noise."""

    def __post_init__(self) -> None:
        if unknown := self.counts.keys() - set(KINDS):
            raise ValueError(f"counts: unknown kinds {sorted(unknown)}; the kinds are {KINDS}")
        turned = sum(self.counts.get(kind, 0) for kind in ("rotated", "split", "merged"))
        if turned and not self._comparable:
            raise ValueError("counts: rotated, split and merged features need models with a common space")
        firing, truth = self._plant()
        self._set(firing=firing, truth=truth)
        if self.mapping != "none":
            space = self._map()
            self._set(maps=(None, space), truth=self._with_rows(truth.intervened @ space.matrix))

    # --- drawing ------------------------------------------------------------------------------------------------------

    @property
    def d_models(self) -> tuple[int, int]:
        """Width of each model."""
        reference, intervened = self.truth.reference, self.truth.intervened
        return reference.shape[1], intervened.shape[1]

    def sample(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token width"]:
        """Draw raw activations of both models, concatenated; the same seed gives the same tokens."""
        values = self._signal(n_tokens, seed) + self._noise(n_tokens, seed)
        return self._transform_tokens(values, seed)

    def clean(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token width"]:
        """Return the tokens of `sample` without noise: the best reconstruction from the true features."""
        return self._transform_tokens(self._signal(n_tokens, seed), seed)

    def magnitudes(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token feature"]:
        """Return the magnitude of each feature on each token of `sample` with the same seed, in the model where it is larger."""
        return torch.maximum(*self._magnitudes(n_tokens, seed))

    def noise_ceiling(self, n_tokens: int = _SAMPLE_TOKENS, seed: int = 99) -> dict[str, float | None]:
        """Return the FVE of perfect knowledge of the features, per model and of the difference; None if constant.

        A dictionary that spends latents on noise can slightly exceed it.
        """
        meter = ReconstructionMeter(self.d_models, 1)
        no_latents = SparseLatents.from_dense(torch.zeros(n_tokens, 1))
        meter.update(self.sample(n_tokens, seed), self.clean(n_tokens, seed), no_latents)
        ceiling = {name: part.result() for name, part in zip(MODEL_NAMES, meter.per_model, strict=True)}
        return ceiling | {"difference": meter.difference.result() if meter.difference is not None else None}

    @property
    def true_l0(self) -> float:
        """Mean number of features that fire per token."""
        return self.truth.l0()

    def _magnitudes(self, n_tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        return self.firing.magnitudes(n_tokens, self._generator(1_000_003, seed))

    def _signal(self, n_tokens: int, seed: int) -> Float[Tensor, "token width"]:
        reference, intervened = self._magnitudes(n_tokens, seed)
        if self.firing.same_in_both_models:
            return reference @ self.truth.rows
        return torch.cat([reference @ self.truth.reference, intervened @ self.truth.intervened], dim=1)

    def _noise(self, n_tokens: int, seed: int) -> Float[Tensor, "token width"]:
        generator = self._generator(7_000_003, seed)
        noise = self.noise * torch.randn(n_tokens, sum(self.d_models), generator=generator)
        sides = list(noise.split(self.d_models, dim=1))
        if self.common_noise:
            sides[1] = sides[0]
        if self.drift is not None:
            drawn = torch.randn(n_tokens, len(self.drift), generator=generator)
            sides[1] = sides[1] + drawn @ self.drift
        for model, space in enumerate(self.maps):
            if space is not None:
                sides[model] = sides[model] @ space.matrix
        return torch.cat(sides, dim=1)

    def _transform_tokens(
        self, values: Float[Tensor, "token width"], seed: int
    ) -> Float[Tensor, "token width"]:
        """Apply the offset of the space, and heavy tails."""
        if any(self.maps):
            zeros = [torch.zeros(d_model) for d_model in self.d_models]
            values = values + torch.cat(
                [
                    zero if space is None else space.offset
                    for zero, space in zip(zeros, self.maps, strict=True)
                ]
            )
        if self.heavy_tails:
            generator = self._generator(11_000_003, seed)
            heavy = torch.rand(len(values), 1, generator=generator) < self.heavy_tails
            low, high = HEAVY_FACTORS
            length = low + (high - low) * torch.rand(len(values), 1, generator=generator)
            values = torch.where(heavy, length * values, values)
        return values

    def _generator(self, stream: int, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream * (self.seed + 1) + seed)

    # --- derived pairs -----------------------------------------------------------------------------------

    def swapped(self) -> Self:
        """Return the pair with the models swapped: new becomes lost, and lost becomes new."""
        if self.drift is not None:
            raise ValueError("drift changes the intervened model only; swap the pair before calling null()")
        twin = copy(self)
        twin._set(truth=self.truth.swapped(), firing=self.firing.swapped(), maps=(self.maps[1], self.maps[0]))
        return twin

    def null(self, kind: NullKind = "noise") -> Self:
        """Return a null pair, in which every feature of this pair is shared.

        identity  both models have the same activations.
        noise     both models have the same features, with independent noise.
        drift     x' = x (1 + a G) + η, as far from x as the models of this pair are from each other (E‖x' - x‖², without
                  noise), half of it from each term. G has independent entries N(0, 1/d_model), so all features are rotated
                  and stretched slightly, none in particular. η is Gaussian with the covariance of x, so none of its
                  directions stands out against x.
        """
        twin = copy(self)
        is_new = self.truth.is_kind("new").unsqueeze(1)
        rows = self.truth.reference + self.truth.intervened * is_new
        firing = copy(self.firing)
        for name in ("high", "spread"):
            stronger = getattr(firing, name).amax(dim=0, keepdim=True).repeat(2, 1)
            object.__setattr__(firing, name, stronger)
        truth = PlantedTruth(("shared",) * len(self.truth.kinds), rows, rows, firing.rates)
        twin._set(truth=truth, firing=firing, maps=(None, None), common_noise=kind == "identity")
        if kind == "drift":
            twin._drift(self._shift_size())
        return twin

    def _shift_size(self) -> float:
        """Return E‖x^intervened - x^reference‖², without noise."""
        reference, intervened = self.clean(_SAMPLE_TOKENS, seed=99).split(self.d_models, dim=1)
        return float((intervened - reference).square().sum(dim=1).mean())

    def _drift(self, size: float) -> None:
        generator = torch.Generator().manual_seed(3000 + self.seed)
        d_model = self.d_model
        random = torch.randn(d_model, d_model, generator=generator) / math.sqrt(d_model)
        values = self.clean(_SAMPLE_TOKENS, seed=99)[:, :d_model]
        scale = math.sqrt(size / 2 / float((values @ random).square().sum(dim=1).mean()))
        covariance = values.T.cov().double()
        root = torch.linalg.cholesky(covariance * (size / 2 / covariance.trace())).T.float()
        self._set(
            truth=self._with_rows(self.truth.reference @ (torch.eye(d_model) + scale * random)), drift=root
        )

    def dictionary(self, *, threshold: float = 0.19, extra_latents: int = 0) -> Crosscoder:
        """Return the ground-truth dictionary: latent i is feature i; the `extra_latents` never fire.

        Exact only if the directions of features are orthogonal (`counts=SMALL`). Normalization is fitted to a sample,
        so training space and raw space differ.
        """
        decoder = self.truth.rows
        config = CrosscoderConfig(
            d_models=self.d_models,
            model_names=MODEL_NAMES,
            n_latents=len(decoder) + extra_latents,
            sparsity=BatchTopK(k=max(1, round(self.true_l0))),
        )
        return exact_dictionary(config, decoder, self.sample(4096, seed=99), threshold)

    def matches(
        self,
        reference: Float[Tensor, "latent _"],
        intervened: Float[Tensor, "latent _"],
        cosine: float = 0.7,
    ) -> list[int]:
        """Return, for each latent, the planted feature with the nearest pair of directions; see `PlantedTruth.matches`."""
        return self.truth.matches((reference, intervened), cosine=cosine)

    # --- planting -------------------------------------------------------------------------------------------------------

    @property
    def _comparable(self) -> bool:
        return self.mapping == "none" and self.intervened_d_model in (None, self.d_model)

    def _plant(self) -> tuple[Firing, PlantedTruth]:
        generator = torch.Generator().manual_seed(1000 + self.seed)
        kinds = tuple(kind for kind, count in self.counts.items() for _ in range(count))
        reference, intervened = self._rows(kinds, generator)
        rates = HIGHEST_RATE * torch.exp(
            -torch.rand(len(kinds), generator=generator) * math.log(HIGHEST_RATE / MIN_ALIGNMENT_RATE)
        )
        is_kind = _masks(kinds)
        if self.rare is not None:
            rates[is_kind["new"] | is_kind["lost"]] = self.rare
        firing = self._firing(kinds, rates)
        present = torch.stack([reference.any(dim=1), intervened.any(dim=1)])
        return firing, PlantedTruth(kinds, reference, intervened, firing.rates * present, self._comparable)

    def _rows(
        self, kinds: tuple[str, ...], generator: torch.Generator
    ) -> tuple[Float[Tensor, "feature _"], Float[Tensor, "feature _"]]:
        """Return direction times strength of each feature in each model."""
        is_kind = _masks(kinds)
        turned = is_kind["rotated"] | is_kind["split"] | is_kind["merged"]
        directions = spread_directions(len(kinds) + int(turned.sum()), self.d_model, generator)
        reference, spare = directions[: len(kinds)].clone(), directions[len(kinds) :]
        if self.entangled:
            for group in self._groups(len(kinds)).unique():
                members = self._groups(len(kinds)) == group
                reference[members] = with_cosines(reference[members], *COSINES)
        if self.intervened_d_model not in (None, self.d_model):
            intervened = spread_directions(len(kinds), self.intervened_d_model, generator)
        else:
            intervened = reference.clone()
        if turned.any():
            self._rotate_features(is_kind, reference, intervened, spare)
        intervened[is_kind["rescaled"]] *= self.factor
        reference[is_kind["new"]] = 0
        intervened[is_kind["lost"]] = 0
        return reference, intervened

    def _rotate_features(
        self,
        is_kind: dict[str, Bool[Tensor, " feature"]],
        reference: Float[Tensor, "feature d_model"],
        intervened: Float[Tensor, "feature d_model"],
        spare: Float[Tensor, "turned d_model"],
    ) -> None:
        """Rotate rotated features and fan out split and merged pairs, in place, each in the plane of a spare direction."""
        turned = is_kind["rotated"] | is_kind["split"] | is_kind["merged"]
        start = reference[turned]
        spare = normalize(spare - (spare * start).sum(dim=1, keepdim=True) * start, dim=1)
        orthogonal = torch.zeros_like(reference)
        orthogonal[turned] = spare
        angle = math.radians(self.angle)
        rotated = is_kind["rotated"]
        intervened[rotated] = math.cos(angle) * reference[rotated] + math.sin(angle) * orthogonal[rotated]
        angle = math.radians(self.split_angle)
        for kind, common, separate in (("split", reference, intervened), ("merged", intervened, reference)):
            first, second = _siblings(is_kind[kind])
            middle, offset = reference[first], orthogonal[first]
            common[first] = common[second] = middle
            separate[first] = math.cos(angle) * middle + math.sin(angle) * offset
            separate[second] = math.cos(angle) * middle - math.sin(angle) * offset

    def _firing(self, kinds: tuple[str, ...], rates: Float[Tensor, " feature"]) -> Firing:
        is_kind = _masks(kinds)
        firing = Firing.independent(rates)
        for kind in ("split", "merged"):
            # Siblings share one uniform number: each fires on half of the first one's tokens.
            first, second = _siblings(is_kind[kind])
            firing.draw[second] = first
            firing.low[second] = rates[first] / 2
            firing.high[:, first] = rates[first] / 2
            firing.high[:, second] = rates[first]
        reweighted = is_kind["reweighted"].nonzero().flatten()
        firing.high[1, reweighted[0::4]] *= RATE_CHANGE
        firing.high[1, reweighted[1::4]] /= RATE_CHANGE
        firing.spread[1, reweighted[2::4]] *= SPREAD_CHANGE
        firing.spread[0, reweighted[3::4]] *= SPREAD_CHANGE
        if self.hierarchical:
            shared = is_kind["shared"].nonzero().flatten()
            by_rate = shared[rates[shared].argsort(descending=True)]
            parents = by_rate[:PARENTS]
            children = torch.cat([by_rate[PARENTS::3], (~is_kind["shared"]).nonzero().flatten()])
            firing.parent[children] = parents[torch.arange(len(children)) % len(parents)]
            # A child fires on at most half of its parent's tokens.
            firing.high[:, children] = (rates[children] / rates[firing.parent[children]]).clamp(max=0.5)
        if self.entangled:
            firing = replace(
                firing, groups=Groups(self._groups(len(kinds)), document_share=self.document_share)
            )
        return firing

    def _map(self) -> SpaceMap:
        generator = torch.Generator().manual_seed(2000 + self.seed)
        d_model = self.truth.intervened.shape[1]
        if self.mapping == "rotation":
            return SpaceMap(random_rotation(d_model, generator), torch.zeros(d_model))
        matrix = random_stretch(d_model, STRETCH, generator)
        return SpaceMap(matrix, 2 * normalize(torch.randn(d_model, generator=generator), dim=0))

    def _groups(self, count: int) -> Int[Tensor, " feature"]:
        """Return the group of each feature; every kind is spread over the groups."""
        return torch.arange(count) % max(1, count // GROUP_SIZE)

    def _with_rows(self, intervened: Float[Tensor, "feature _"]) -> PlantedTruth:
        return replace(self.truth, intervened=intervened)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _masks(kinds: tuple[str, ...]) -> dict[str, Bool[Tensor, " feature"]]:
    return {kind: torch.tensor([other == kind for other in kinds]) for kind in KINDS}


def _siblings(
    mask: Bool[Tensor, " feature"],
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Return the first and second features of each pair of a kind."""
    index = mask.nonzero().flatten()
    if len(index) % 2:
        raise ValueError(f"counts: split and merged features come in pairs, but {len(index)} is odd")
    return index[0::2], index[1::2]
