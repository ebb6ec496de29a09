"""Pairs of made-up models whose differences are all known.

A feature has a unit direction, fires on a share of the tokens, and is edited in the intervened model as listed in
`truth.KINDS`. `regimes.REGIMES` names the configurations of the benchmark.
"""

import math
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ..config import BatchTopK, CrosscoderConfig
from ..config.model_names import MODEL_NAMES
from ..dictionary.crosscoder import Crosscoder
from ..dictionary.metrics import ReconstructionMeter
from ..dictionary.sparse_latents import SparseLatents
from .alterations import Alteration
from .directions import LowRankMap, SpaceMap, random_rotation, random_stretch
from .elements import Element
from .exact import exact_dictionary
from .feature_plan import FeaturePlan
from .firing import Firing
from .truth import NullKind, PlantedTruth

STRETCH = 2.0
HEAVY_FACTORS = (5.0, 10.0)
LOW_RANK_STRENGTH = 2.0

# Magnitudes of more features than this are drawn in blocks of about so many tokens, to bound the memory.
_FEATURES_AT_ONCE, _BLOCK_TOKENS = 512, 8192

# Tokens used to estimate expectations over a pair.
_SAMPLE_TOKENS = 16384


@dataclass(frozen=True)
class PlantedPair(FeaturePlan):
    """A pair with known differences; `sample` draws tokens from it.

    The standard regime: 96 features in 48 dimensions (64 shared, 8 rotated by 60°, 8 rescaled to 0.4, 8 new, 8 lost),
    each firing on 1 to 12 % of the tokens (log-uniform; about 4 features per token), magnitude max(0.2, 1 + 0.3 N),
    noise 0.03 per dimension, independent per model. If there are no more features than dimensions (`counts=SMALL`),
    directions are orthogonal and the result of `dictionary` is exact up to the noise.

    Tokens are drawn in documents of 256 rows, the default for arrays without document indices. Settings are those of
    `FeaturePlan`; `altered` and `mapped` add what belongs to no feature.
    """

    truth: PlantedTruth = field(init=False)
    firing: Firing = field(init=False)
    maps: tuple[SpaceMap | None, SpaceMap | None] = field(init=False, default=(None, None))
    common_noise: bool = field(init=False, default=False)
    """Whether both models have the same noise."""

    drift: Float[Tensor, "d_model d_model"] | None = field(init=False, default=None)
    """Square root of the covariance of additional Gaussian noise in the intervened model; None: no such noise."""

    alterations: tuple[tuple[Alteration, ...], tuple[Alteration, ...]] = field(init=False, default=((), ()))
    """What alters the tokens of each model beside its features, in order."""

    def __post_init__(self) -> None:
        firing, truth = self.plant()
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
        return self._transform_tokens(values, seed, with_noise=True)

    def clean(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token width"]:
        """Return the tokens of `sample` without noise: the best reconstruction from the true features and elements of change."""
        return self._transform_tokens(self._signal(n_tokens, seed), seed, with_noise=False)

    def magnitudes(self, n_tokens: int, seed: int = 0) -> Float[Tensor, "token feature"]:
        """Return the magnitude of each feature on each token of `sample` with the same seed, in the model where it is larger."""
        return torch.cat([torch.maximum(*sides) for sides in self._magnitudes(n_tokens, seed)])

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

    def _magnitudes(self, n_tokens: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the magnitudes in the reference and in the intervened model, for one block of tokens after the other."""
        generator = self._generator(1_000_003, seed)
        at_once = len(self.truth.kinds) <= _FEATURES_AT_ONCE
        block = max(n_tokens, 1) if at_once else _BLOCK_TOKENS // self.document_tokens * self.document_tokens
        for start in range(0, max(n_tokens, 1), block):
            yield self.firing.magnitudes(min(block, n_tokens - start), generator)

    def _signal(self, n_tokens: int, seed: int) -> Float[Tensor, "token width"]:
        blocks = self._magnitudes(n_tokens, seed)
        if self.firing.same_in_both_models:
            return torch.cat([reference @ self.truth.rows for reference, _ in blocks])
        sides = [
            torch.cat([reference @ self.truth.reference, intervened @ self.truth.intervened], dim=1)
            for reference, intervened in blocks
        ]
        return torch.cat(sides)

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
        self, values: Float[Tensor, "token width"], seed: int, *, with_noise: bool
    ) -> Float[Tensor, "token width"]:
        """Apply the offset of the space, heavy tails and alterations, those that are noise only `with_noise`."""
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
        if not any(self.alterations):
            return values
        sides = list(values.split(self.d_models, dim=1))
        for model, alterations in enumerate(self.alterations):
            for place, alteration in enumerate(alterations):
                # By place, not by model: an alteration of both models draws the same, and swapping the models changes no draw.
                generator = self._generator(17_000_023 + 1_000_000 * place, seed)
                if with_noise or not alteration.is_noise:
                    sides[model] = alteration.apply(sides[model], self.document_tokens, generator)
        return torch.cat(sides, dim=1)

    def _generator(self, stream: int, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream * (self.seed + 1) + seed)

    # --- derived pairs -----------------------------------------------------------------------------------

    def swapped(self) -> Self:
        """Return the pair with the models swapped: new becomes lost, and lost becomes new."""
        if self.drift is not None:
            raise ValueError("drift changes the intervened model only; swap the pair before calling null()")
        twin = copy(self)
        twin._set(
            truth=self.truth.swapped(),
            firing=self.firing.swapped(),
            maps=(self.maps[1], self.maps[0]),
            alterations=(self.alterations[1], self.alterations[0]),
        )
        return twin

    def altered(self, kind: type[Alteration], *, both: bool = False) -> Self:
        """Return the pair with the tokens of the intervened model altered as well, or those of both models alike.

        What alters one model becomes an element of change of the truth.
        """
        first, second = self.alterations
        if both and len(first) != len(second):
            raise ValueError("altered: alter both models before one of them")
        generator = torch.Generator().manual_seed(4000 + 1_000_000 * len(second) + self.seed)
        alteration = kind.draw(self.d_models[1], generator)
        twin = copy(self)
        elements = () if both else alteration.elements(1)
        twin._set(
            alterations=((*first, alteration) if both else first, (*second, alteration)),
            truth=replace(self.truth, elements=(*self.truth.elements, *elements)),
        )
        return twin

    def mapped(self, rank: int) -> Self:
        """Return the pair with the intervened model's whole space, noise included, mapped by I + s VᵀU of a given rank.

        s is `LOW_RANK_STRENGTH`/√rank, so that the change is as large for every rank. No feature is changed by itself; one that
        lies near what the map reads is turned along with the space.
        """
        if any(self.maps):
            raise ValueError("mapped: the intervened model's space is mapped already")
        generator = torch.Generator().manual_seed(5000 + self.seed)
        low_rank = LowRankMap.draw(self.d_models[1], rank, LOW_RANK_STRENGTH / math.sqrt(rank), generator)
        name = f"map of rank {rank}"
        element = Element(name, "low_rank_map", 1, low_rank.writes, 1.0, reads=low_rank.reads)
        twin = copy(self)
        truth = self._with_rows(self.truth.intervened @ low_rank.matrix)
        twin._set(
            maps=(None, SpaceMap(low_rank.matrix, torch.zeros(self.d_models[1]))),
            truth=replace(truth, elements=(*truth.elements, element)),
        )
        return twin

    def null(self, kind: NullKind = "noise") -> Self:
        """Return a null pair, in which every feature of this pair is shared and nothing else differs but what `kind` says.

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
        firing = self.firing.alike()
        truth = PlantedTruth(("shared",) * len(self.truth.kinds), rows, rows, firing.rates)
        twin._set(
            truth=truth,
            firing=firing,
            maps=(None, None),
            alterations=((), ()),
            common_noise=kind == "identity",
        )
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

    # --- spaces ------------------------------------------------------------------------------------------

    def _map(self) -> SpaceMap:
        generator = torch.Generator().manual_seed(2000 + self.seed)
        d_model = self.truth.intervened.shape[1]
        if self.mapping == "rotation":
            return SpaceMap(random_rotation(d_model, generator), torch.zeros(d_model))
        matrix = random_stretch(d_model, STRETCH, generator)
        return SpaceMap(matrix, 2 * normalize(torch.randn(d_model, generator=generator), dim=0))

    def _with_rows(self, intervened: Float[Tensor, "feature _"]) -> PlantedTruth:
        return replace(self.truth, intervened=intervened)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
