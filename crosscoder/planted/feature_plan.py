"""Which features are planted: their kinds, directions and firing, from the settings of a pair."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ..activations.user_files import BLOCK_ROWS
from .directions import circle, spread_directions, with_cosines
from .elements import Element
from .firing import Firing, Groups
from .truth import KINDS, PlantedTruth

STANDARD = {"shared": 64, "rotated": 8, "rescaled": 8, "new": 8, "lost": 8}
SMALL = {"shared": 8, "rotated": 3, "rescaled": 3, "new": 3, "lost": 3}

MIN_ALIGNMENT_RATE, HIGHEST_RATE = 0.01, 0.12
PARENTS = 16
GROUP_SIZE = 6
COSINES = (0.1, 0.5)
RATE_CHANGE = 3.0
SPREAD_CHANGE = 3.0
CIRCLE_FEATURES, CIRCLE_RATE = 8, 0.16
LOCAL_RATE = 0.15
ZIPF_HIGHEST_RATE, ZIPF_CHANGED_RANKS = 0.3, (4, 64)


@dataclass(frozen=True)
class FeaturePlan:
    """Settings from which the features of a pair are drawn; see `PlantedPair`."""

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

    unwritten: float | None = None
    """Share of its tokens on which the intervened model does not write a reweighted feature. None: reweighted features fire
    three times as often, a third as often, or with three times the spread of magnitudes in the intervened model or in the
    reference, in turn."""

    near: tuple[float, float] | None = None
    """Lowest and highest cosine of new and lost features, each with a shared feature of its own; None: spread out."""

    local: float | None = None
    """Share of the documents in which new, lost and every fourth shared feature can fire, there on `LOCAL_RATE` of the tokens."""

    zipf: bool = False
    """Whether firing rates are `ZIPF_HIGHEST_RATE` divided by the rank of the feature, new and lost ones at ranks log-spaced
    between `ZIPF_CHANGED_RANKS`, and directions are independent: there may be many more features than dimensions."""

    circles: bool = False
    """Whether rotated features lie on circles: `CIRCLE_FEATURES` directions at equal angles in a plane, of which at most one
    fires on a token, one of each circle on `CIRCLE_RATE` of the tokens. The intervened model turns the plane by `angle`."""

    mapping: Literal["none", "rotation", "affine"] = "none"
    """Map applied to the intervened model's whole space, noise included: a random rotation, or a random matrix with
    singular values from 1/2 to 2 and an offset of length 2."""

    heavy_tails: float = 0.0
    """Share of the tokens whose activations are scaled by 5 to 10, in both models."""

    document_tokens: int = BLOCK_ROWS
    """Rows per document."""

    @property
    def comparable(self) -> bool:
        """Whether both models write a shared feature in the same direction."""
        return self.mapping == "none" and self.intervened_d_model in (None, self.d_model)

    def plant(self) -> tuple[Firing, PlantedTruth]:
        """Draw the features.

        Raises:
            ValueError: Settings contradict each other.
        """
        self._check()
        generator = torch.Generator().manual_seed(1000 + self.seed)
        kinds = tuple(kind for kind, count in self.counts.items() for _ in range(count))
        reference, intervened = self._rows(kinds, generator)
        rates = HIGHEST_RATE * torch.exp(
            -torch.rand(len(kinds), generator=generator) * math.log(HIGHEST_RATE / MIN_ALIGNMENT_RATE)
        )
        is_kind = _masks(kinds)
        exclusive = is_kind["new"] | is_kind["lost"]
        if self.rare is not None:
            rates[exclusive] = self.rare
        if self.zipf:
            rates = _zipf_rates(exclusive)
        firing = self._firing(is_kind, rates)
        present = torch.stack([reference.any(dim=1), intervened.any(dim=1)])
        truth = PlantedTruth(kinds, reference, intervened, firing.rates * present, self.comparable)
        return firing, replace(truth, elements=_turned_planes(truth)) if self.circles else truth

    def _check(self) -> None:
        if unknown := self.counts.keys() - set(KINDS):
            raise ValueError(f"counts: unknown kinds {sorted(unknown)}; the kinds are {KINDS}")
        turned = sum(self.counts.get(kind, 0) for kind in ("rotated", "split", "merged", "replaced"))
        if turned and not self.comparable:
            raise ValueError(
                "counts: rotated, split, merged and replaced features need models with a common space"
            )
        exclusive = self.counts.get("new", 0) + self.counts.get("lost", 0)
        if self.near is not None and exclusive > self.counts.get("shared", 0):
            raise ValueError("near: each new and lost feature needs a shared one of its own")
        if self.circles and self.counts.get("rotated", 0) % CIRCLE_FEATURES:
            raise ValueError(f"circles: each needs {CIRCLE_FEATURES} rotated features")

    # --- directions ---------------------------------------------------------------------------------------------------

    def _rows(
        self, kinds: tuple[str, ...], generator: torch.Generator
    ) -> tuple[Float[Tensor, "feature _"], Float[Tensor, "feature _"]]:
        """Return direction times strength of each feature in each model."""
        is_kind = _masks(kinds)
        turned = is_kind["rotated"] | is_kind["split"] | is_kind["merged"] | is_kind["replaced"]
        count = len(kinds) + int(turned.sum())
        if self.zipf:
            directions = normalize(torch.randn(count, self.d_model, generator=generator), dim=1)
        else:
            directions = spread_directions(count, self.d_model, generator)
        reference, spare = directions[: len(kinds)].clone(), directions[len(kinds) :]
        if self.entangled:
            for group in self._groups(len(kinds)).unique():
                members = self._groups(len(kinds)) == group
                reference[members] = with_cosines(reference[members], *COSINES)
        if self.near is not None:
            _move_near(reference, is_kind, self.near)
        if self.intervened_d_model not in (None, self.d_model):
            intervened = spread_directions(len(kinds), self.intervened_d_model, generator)
        else:
            intervened = reference.clone()
        if turned.any():
            self._turn(is_kind, turned, reference, intervened, spare)
        intervened[is_kind["rescaled"]] *= self.factor
        reference[is_kind["new"]] = 0
        intervened[is_kind["lost"]] = 0
        return reference, intervened

    def _turn(
        self,
        is_kind: dict[str, Bool[Tensor, " feature"]],
        turned: Bool[Tensor, " feature"],
        reference: Float[Tensor, "feature d_model"],
        intervened: Float[Tensor, "feature d_model"],
        spare: Float[Tensor, "turned d_model"],
    ) -> None:
        """Rotate rotated features, replace replaced ones and fan out split and merged pairs, in place, each in the plane of
        a spare direction."""
        start = reference[turned]
        spare = normalize(spare - (spare * start).sum(dim=1, keepdim=True) * start, dim=1)
        orthogonal = torch.zeros_like(reference)
        orthogonal[turned] = spare
        angle = math.radians(self.angle)
        rotated = is_kind["rotated"].nonzero().flatten()
        if self.circles:
            for members in rotated.split(CIRCLE_FEATURES):
                plane = torch.stack([reference[members[0]], orthogonal[members[0]]])
                reference[members] = circle(CIRCLE_FEATURES, 0.0) @ plane
                intervened[members] = circle(CIRCLE_FEATURES, angle) @ plane
        else:
            intervened[rotated] = math.cos(angle) * reference[rotated] + math.sin(angle) * orthogonal[rotated]
        intervened[is_kind["replaced"]] = orthogonal[is_kind["replaced"]]
        angle = math.radians(self.split_angle)
        for kind, common, separate in (("split", reference, intervened), ("merged", intervened, reference)):
            first, second = _siblings(is_kind[kind])
            middle, offset = reference[first], orthogonal[first]
            common[first] = common[second] = middle
            separate[first] = math.cos(angle) * middle + math.sin(angle) * offset
            separate[second] = math.cos(angle) * middle - math.sin(angle) * offset

    # --- firing -------------------------------------------------------------------------------------------------------

    def _firing(
        self, is_kind: dict[str, Bool[Tensor, " feature"]], rates: Float[Tensor, " feature"]
    ) -> Firing:
        firing = replace(Firing.independent(rates), document_tokens=self.document_tokens)
        for kind in ("split", "merged"):
            # Siblings share one uniform number: each fires on half of the first one's tokens.
            first, second = _siblings(is_kind[kind])
            firing.draw[second] = first
            firing.low[second] = rates[first] / 2
            firing.high[:, first] = rates[first] / 2
            firing.high[:, second] = rates[first]
        self._reweight(firing, is_kind["reweighted"].nonzero().flatten())
        # The two directions of every second replaced feature fire together, but not equally strongly.
        firing.own_strength[1, is_kind["replaced"].nonzero().flatten()[1::2]] = True
        if self.circles:
            for members in is_kind["rotated"].nonzero().flatten().split(CIRCLE_FEATURES):
                edges = torch.linspace(0, CIRCLE_RATE, CIRCLE_FEATURES + 1)
                firing.draw[members] = members[0]
                firing.low[members], firing.high[:, members] = edges[:-1], edges[1:]
        if self.local is not None:
            exclusive = (is_kind["new"] | is_kind["lost"]).nonzero().flatten()
            members = torch.cat([is_kind["shared"].nonzero().flatten()[::4], exclusive])
            firing.document_share[members] = self.local
            firing.high[:, members] = LOCAL_RATE
        if self.hierarchical:
            shared = is_kind["shared"].nonzero().flatten()
            by_rate = shared[rates[shared].argsort(descending=True)]
            parents = by_rate[:PARENTS]
            children = torch.cat([by_rate[PARENTS::3], (~is_kind["shared"]).nonzero().flatten()])
            firing.parent[children] = parents[torch.arange(len(children)) % len(parents)]
            # A child fires on at most half of its parent's tokens.
            firing.high[:, children] = (rates[children] / rates[firing.parent[children]]).clamp(max=0.5)
        if self.entangled:
            groups = Groups(self._groups(len(rates)), document_share=self.document_share)
            firing = replace(firing, groups=groups)
        return firing

    def _reweight(self, firing: Firing, reweighted: Int[Tensor, " reweighted"]) -> None:
        if self.unwritten is not None:
            firing.high[1, reweighted] *= 1 - self.unwritten
            return
        firing.high[1, reweighted[0::4]] *= RATE_CHANGE
        firing.high[1, reweighted[1::4]] /= RATE_CHANGE
        firing.spread[1, reweighted[2::4]] *= SPREAD_CHANGE
        firing.spread[0, reweighted[3::4]] *= SPREAD_CHANGE

    def _groups(self, count: int) -> Int[Tensor, " feature"]:
        """Return the group of each feature; every kind is spread over the groups."""
        return torch.arange(count) % max(1, count // GROUP_SIZE)


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


def _turned_planes(truth: PlantedTruth) -> tuple[Element, ...]:
    circles = truth.reference[truth.is_kind("rotated")].split(CIRCLE_FEATURES)
    # A quarter of the circle apart, two directions are orthogonal.
    return tuple(
        Element(f"circle {number}", "turned_plane", 1, rows[[0, CIRCLE_FEATURES // 4]], CIRCLE_RATE)
        for number, rows in enumerate(circles)
    )


def _move_near(
    rows: Float[Tensor, "feature d_model"],
    is_kind: dict[str, Bool[Tensor, " feature"]],
    cosines: tuple[float, float],
) -> None:
    """Tilt new and lost features, in place, each toward a shared feature of its own, with cosines spaced over the range.

    New and lost ones take turns, so that both kinds cover the range.
    """
    new, lost = (is_kind[kind].nonzero().flatten() for kind in ("new", "lost"))
    both = min(len(new), len(lost))
    members = torch.cat([torch.stack([new[:both], lost[:both]], dim=1).flatten(), new[both:], lost[both:]])
    toward = rows[is_kind["shared"].nonzero().flatten()[: len(members)]]
    apart = normalize(rows[members] - (rows[members] * toward).sum(dim=1, keepdim=True) * toward, dim=1)
    cosine = torch.linspace(*cosines, len(members)).unsqueeze(1)
    rows[members] = cosine * toward + (1 - cosine.square()).sqrt() * apart


def _zipf_rates(exclusive: Bool[Tensor, " feature"]) -> Float[Tensor, " feature"]:
    """Return firing rates by rank: first the ranks of new and lost features, then the others in their order."""
    count = int(exclusive.sum())
    ranks, order = torch.arange(1, len(exclusive) + 1), torch.arange(count)
    lowest, highest = (math.log10(rank) for rank in ZIPF_CHANGED_RANKS)
    spaced = torch.logspace(lowest, highest, count).round().long() if count else order
    # Strictly increasing, also where neighboring ranks coincide when rounded.
    chosen = (spaced - order).cummax(0).values + order if count else order
    # New and lost features come one kind after the other; taking turns gives both the same range of ranks.
    turns = torch.cat([order[0::2], order[1::2]])
    rates = torch.zeros(len(exclusive))
    rates[exclusive] = ZIPF_HIGHEST_RATE / chosen[turns]
    rates[~exclusive] = ZIPF_HIGHEST_RATE / ranks[~torch.isin(ranks, chosen)][: len(exclusive) - count]
    return rates
