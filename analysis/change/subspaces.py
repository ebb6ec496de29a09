"""Subspaces that many latents tile, differently in every training: no single latent is found again, but their span is.

A sparse dictionary has no single direction for a change that fills several dimensions on the tokens where it occurs: bursts in random
directions of a subspace, or a feature on a circle. Each training places its latents elsewhere in the subspace. What is found again is the
span, and that is what can be claimed.

From the directions of change (d^intervened - d^reference) of the candidate latents of each training:

1. A candidate that every other training finds again, and that lies near no other of its own (|cosine| beyond that of random directions
   over all pairs: cos² ~ Beta(1/2, (d_model - 1)/2)), is a single latent and is left out.
2. The span that trainings have in common: those principal directions of the other trainings' candidates that carry the candidates of
   each training beyond chance (mean cos² above 1/d_model by four standard errors), in most trainings. Candidates with at least half of their
   squared length in it are members.
3. The members are split into independent subspaces. In coordinates in which all members together are white, members of independent
   subspaces are at right angles (the shape interaction matrix: Costeira and Kanade 1998), also where the subspaces are not; single latents that
   only lie near each other become subspaces of one dimension, which are none.
4. The dimension of each is the number of principal directions of the other trainings' members that carry more than the average direction,
   and at least a tenth of the strongest. It needs two members in the run and in enough other trainings. With about one latent a dimension,
   each of them found again alone, it is no subspace but latents.
5. Principal angles between the trainings' spans say how stable it is. p compares their sum of squared cosines with that of the largest
   subspace found after each other training was turned at random as a whole, which keeps its own geometry and breaks every relation.

Directions that all candidates share, such as a constant offset, must be taken out first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy import stats
from scipy.cluster import hierarchy
from torch import Tensor
from torch.nn.functional import normalize

from .block_shares import permutation_p

FOUND_AGAIN = 0.8
"""Cosine at which another training has found a direction again."""

MIN_STABILITY = 0.8
"""Smallest mean cosine of the principal angles between trainings at which a subspace is claimed."""

NEEDED_TRAININGS = 2
"""Other trainings, beside the run, that must have the subspace."""

# Probability that any two unrelated directions count as near.
_FALSE_NEIGHBORS = 0.01
# Standard errors above chance at which a direction is common to trainings.
_COMMON = 4.0
# Mean squared cosine, in white coordinates, of the members of one subspace: 1 / dimension. Between independent ones it is that of errors.
_TOGETHER = 0.03
_IN_SPAN = 0.5
_WEAKEST_DIMENSION = 0.1
_TILED = 1.5
_DRAWS = 99
_LEVEL = 0.05


class FoundSubspace(NamedTuple):
    """A subspace found in several trainings."""

    dimension: int
    basis: Float64[Tensor, "dimension d_model"]
    """Orthonormal, by decreasing share of the members of all trainings."""
    members: tuple[Int64[np.ndarray, " member"], ...]
    """Candidates of each training in it, as indices into its directions; empty for a training that does not have it."""
    cosines: tuple[float, ...]
    """Cosines of the principal angles, in descending order: means over pairs of trainings."""
    chance: float
    """Mean cosine of the principal angles between random subspaces of this dimension."""
    p: float

    @property
    def stability(self) -> float:
        """Mean cosine of the principal angles between trainings."""
        return float(np.mean(self.cosines))


class _Group(NamedTuple):
    basis: Tensor
    members: tuple[Int64[np.ndarray, " member"], ...]
    cosines: tuple[float, ...]

    @property
    def mass(self) -> float:
        return float(np.square(self.cosines).sum())


def find_subspaces(
    trainings: Sequence[Float64[Tensor, "_ d_model"]], needed: int = NEEDED_TRAININGS, seed: int = 0
) -> list[FoundSubspace]:
    """Return the subspaces that the run (`trainings[0]`) shares with at least `needed` others, the largest first.

    Zero directions are members of nothing. Returns none if there are fewer other trainings than needed.
    """
    unit = [normalize(rows.double().cpu(), dim=1) for rows in trainings]
    if len(unit) <= needed:
        return []
    groups = [group for group in _search(unit, needed) if np.mean(group.cosines) >= MIN_STABILITY]
    if not groups:
        return []
    generator = torch.Generator().manual_seed(seed)
    null = torch.zeros(_DRAWS, dtype=torch.float64)
    for draw in range(_DRAWS):
        turned = [unit[0], *(_turned(rows, generator) for rows in unit[1:])]
        null[draw] = max((group.mass for group in _search(turned, needed)), default=0.0)
    found = [
        FoundSubspace(
            dimension=len(group.basis),
            basis=group.basis,
            members=group.members,
            cosines=group.cosines,
            chance=chance_cosine(len(group.basis), group.basis.shape[1], seed),
            p=permutation_p(group.mass, null),
        )
        for group in groups
    ]
    return sorted((entry for entry in found if entry.p <= _LEVEL), key=lambda entry: -entry.dimension)


def chance_cosine(dimension: int, d_model: int, seed: int, draws: int = 20) -> float:
    """Return the mean cosine of the principal angles between two random subspaces, by simulation."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.eye(d_model, dimension, dtype=torch.float64)
    cosines = [
        torch.linalg.svdvals(fixed.T @ _frame(d_model, dimension, generator)).mean() for _ in range(draws)
    ]
    return float(torch.stack(cosines).mean())


def _search(unit: Sequence[Tensor], needed: int) -> list[_Group]:
    """Return the subspaces that trainings have in common."""
    d_model = unit[0].shape[1]
    # In the span of all candidates, which is small beside d_model: cosines stay, and nothing is d_model by d_model.
    u, strengths, span = torch.linalg.svd(torch.cat(list(unit)), full_matrices=False)
    rows = u * strengths
    owner = torch.repeat_interleave(torch.arange(len(unit)), torch.tensor([len(part) for part in unit]))
    similar = (rows @ rows.T).abs().fill_diagonal_(0)
    free = (rows.norm(dim=1) > 0.5) & ~_singles(similar, owner, len(unit), d_model)
    if not _in_enough(free, owner, len(unit), needed):
        return []
    common = _common_span([rows[free & (owner == training)] for training in range(len(unit))], d_model)
    members = free & ((rows @ common.T).square().sum(dim=1) >= _IN_SPAN)
    if not members.any():
        return []
    place, subspace = members.nonzero().flatten(), _independent(rows[members] @ common.T)
    groups = []
    for index in np.unique(subspace):
        core = torch.zeros_like(members)
        core[place[torch.from_numpy(subspace == index)]] = True
        if not _in_enough(core, owner, len(unit), needed):
            continue
        of_training = [rows[core & (owner == training)] for training in range(len(unit))]
        dimension = _dimension(of_training, d_model)
        if dimension < 2 or _are_latents(core, owner, len(unit), needed, similar, dimension):
            continue
        places = [core[owner == training].nonzero().flatten().numpy() for training in range(len(unit))]
        basis = _span(rows[core])[:dimension] @ span
        groups.append(_Group(basis, tuple(places), _principal_cosines(of_training, dimension)))
    return groups


def _principal_cosines(of_training: Sequence[Tensor], dimension: int) -> tuple[float, ...]:
    """Return the cosines of the principal angles between the trainings' spans, means over pairs of trainings."""
    spans = [_span(part)[:dimension] for part in of_training if len(part) >= 2]
    cosines = torch.zeros(dimension, dtype=torch.float64)
    pairs = [(one, other) for i, one in enumerate(spans) for other in spans[i + 1 :]]
    for one, other in pairs:
        values = torch.linalg.svdvals(one @ other.T).clamp(max=1)
        cosines[: len(values)] += values / len(pairs)
    return tuple(cosines.tolist())


def _independent(rows: Float64[Tensor, "member common"]) -> Int64[np.ndarray, " member"]:
    """Return the number of the independent subspace of each member, by average linkage of squared cosines in white coordinates."""
    if len(rows) < 2:
        return np.zeros(len(rows), dtype=np.int64)
    white = normalize(torch.linalg.svd(rows, full_matrices=False).U, dim=1)
    apart = 1 - (white @ white.T).square().numpy()
    upper = apart[np.triu_indices(len(apart), 1)]
    tree = hierarchy.linkage(upper.clip(min=0), method="average")
    return hierarchy.fcluster(tree, 1 - _TOGETHER, criterion="distance").astype(np.int64)


def _common_span(of_training: Sequence[Tensor], d_model: int) -> Float64[Tensor, "_ coordinate"]:
    """Return an orthonormal basis of what most trainings find of the principal directions of the others."""
    kept = []
    filled = [index for index, rows in enumerate(of_training) if len(rows)]
    for index in filled:
        others = _span(torch.cat([of_training[place] for place in filled if place != index]))
        carried = (of_training[index] @ others.T).square().mean(dim=0)
        limit = (1 + _COMMON * (2 / len(of_training[index])) ** 0.5) / d_model
        kept.append(others[carried >= limit])
    # Squared singular values count the trainings in which a direction was kept.
    _, strengths, directions = torch.linalg.svd(torch.cat(kept), full_matrices=False)
    return directions[strengths.square() >= len(filled) / 2]


def _singles(similar: Tensor, owner: Tensor, n_trainings: int, d_model: int) -> Tensor:
    """Whether each candidate is found again by every other training and lies near no other of its own."""
    pairs = max(1.0, len(similar) * (len(similar) - 1) / 2)
    limit = float(np.sqrt(stats.beta.isf(_FALSE_NEIGHBORS / pairs, 0.5, (d_model - 1) / 2)))
    alone = ~((similar >= limit) & (owner[:, None] == owner[None, :])).any(dim=1)
    return alone & (_found_again(similar, owner, n_trainings) == n_trainings - 1)


def _found_again(similar: Tensor, owner: Tensor, n_trainings: int) -> Tensor:
    """Return the number of other trainings that have each candidate's direction."""
    again = [
        ((similar[:, owner == training] >= FOUND_AGAIN).any(dim=1)) & (owner != training)
        for training in range(n_trainings)
    ]
    return torch.stack(again).sum(dim=0)


def _in_enough(members: Tensor, owner: Tensor, n_trainings: int, needed: int) -> bool:
    """Whether the run and enough other trainings have at least two members each."""
    counts = torch.bincount(owner[members], minlength=n_trainings)
    return int(counts[0]) >= 2 and int((counts[1:] >= 2).sum()) >= needed


def _are_latents(
    members: Tensor, owner: Tensor, n_trainings: int, needed: int, similar: Tensor, dimension: int
) -> bool:
    """Whether the members are single latents that only lie near each other: about one a dimension, and found again alone."""
    counts = torch.bincount(owner[members], minlength=n_trainings).double()
    within = similar * members[None, :]
    again = (_found_again(within, owner, n_trainings) >= needed)[members]
    return float(counts[counts >= 2].mean()) < _TILED * dimension and float(again.double().mean()) >= 0.5


def _span(rows: Float64[Tensor, "_ coordinate"]) -> Float64[Tensor, "_ coordinate"]:
    """Return the principal directions of unit rows, without centering, the strongest first; those of no strength are left out."""
    _, strengths, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[strengths > 1e-9]


def _dimension(of_training: Sequence[Tensor], d_model: int) -> int:
    """Return the number of principal directions of the other trainings' members that carry the members of each training."""
    carried = []
    for index, rows in enumerate(of_training):
        others = torch.cat([part for place, part in enumerate(of_training) if place != index])
        if len(rows) and len(others):
            share = (rows @ _span(others).T).square().mean(dim=0)
            carried.append(share)
    if not carried:
        return 0
    length = min(len(share) for share in carried)
    mean = torch.stack([share[:length] for share in carried]).mean(dim=0)
    limit = max(1 / d_model, _WEAKEST_DIMENSION * float(mean.max()))
    weak = (mean < limit).nonzero()
    return int(weak[0]) if len(weak) else length


def _frame(d_model: int, dimension: int, generator: torch.Generator) -> Float64[Tensor, "d_model dimension"]:
    """Return a random orthonormal frame."""
    return torch.linalg.qr(torch.randn(d_model, dimension, dtype=torch.float64, generator=generator)).Q


def _turned(rows: Float64[Tensor, "_ d_model"], generator: torch.Generator) -> Float64[Tensor, "_ d_model"]:
    """Return the rows after a random rotation of the whole space: their cosines with each other stay."""
    u, s, _ = torch.linalg.svd(rows, full_matrices=False)
    return (u * s) @ _frame(rows.shape[1], len(s), generator).T
