"""Describes the whole difference of a pair of models in one space: `describe_change`, whose record is `summary["change"]`.

Three passes over the held-out tokens (`PASSES`): one without the dictionary, for the offset; one for the moments that the map is fitted on;
one for the parts. Nothing holds activations of all tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..labels.rule import CLAIMED
from ..latents.held_out_sums import HeldOut, ReadSums, read_sums
from .batch_terms import LatentGroups, LatentSubspace
from .block_shares import share_of
from .constant_offset import OffsetAccumulator, fit_offset
from .low_rank_map import LowRankMap, fit_map, judge_map
from .partition import PARTS, PartitionSums, fitted_elements, partition_inputs, parts_record
from .position_classes import PositionClasses
from .subspaces import NEEDED_TRAININGS, FoundSubspace, find_subspaces
from .term_moments import TermMoments, moment_inputs

ONE_SIDED = ("new", "lost", "replaced")
"""Labels of latents that only one model has."""

PASSES = (OffsetAccumulator, TermMoments, PartitionSums)
"""The passes over the held-out tokens."""


@runtime_checkable
class OtherTraining(Protocol):
    """What another training on the same pair found."""

    @property
    def directions(self) -> tuple[Float[Tensor, "latent _"], ...]:
        """Decoder rows in each model, in training space; once if both models share them."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Label of each latent in that training alone."""
        ...


@dataclass(frozen=True)
class ChangeDescription:
    """The record, and the directions behind it, raw units."""

    record: dict[str, Any]
    """`summary["change"]`: plain JSON values. `n_tokens`; `square` (E‖Δx‖²); `offset` (`ConstantOffset.record`); `map`
    (`LowRankMap.record`); `subspaces` (one entry each, `_subspace_record`); `subspaces_reason` (why none could be looked for, or empty);
    `latents` (how many are `one_sided` and `two_sided` parts);
    `parts` (share, low and high of each of `PARTS`; the shares add up to 1); `largest` (the part with the largest share)."""
    offset: Float64[Tensor, "kind d_model"]
    """Established offsets, in the order of their classes."""
    map_read: Float64[Tensor, "rank d_model"]
    """Orthonormal directions that the map reads, the strongest first; none if it is not established."""
    map_write: Float64[Tensor, "rank d_model"]
    """What it writes for each."""
    subspaces: tuple[FoundSubspace, ...]
    members: tuple[Int64[np.ndarray, " member"], ...]
    """Latents of the run in each subspace."""


def describe_change(
    held_out: HeldOut,
    labels: Sequence[str],
    candidates: Sequence[str],
    others: Sequence[OtherTraining],
    read: ReadSums = read_sums,
) -> ChangeDescription | None:
    """Describe the difference on the held-out tokens; None if the models share no space or do not differ.

    Args:
        labels: Final label of each latent: those that claim a change were found again by other trainings, and are parts of their own.
        candidates: Label of each latent in this training alone, before q-values and replication: those that claim a change are looked
            for in subspaces. Empty if nothing was labeled.
        others: The other trainings; with fewer than `NEEDED_TRAININGS` no subspace is found.
        read: Makes the passes.
    """
    view, reader, context, config = held_out
    if not view.comparable:
        return None
    settings, seed = config.analysis, config.seed
    confidence = settings.rule.confidence
    classes = PositionClasses(context, config.tokens.mask_first)
    sums = read(OffsetAccumulator, held_out, {}).result()
    if not float(sums.totals.sum()):
        return None
    offset = fit_offset(sums, reader, classes, confidence, seed)
    of_run = np.flatnonzero([label in CLAIMED for label in candidates])
    rows = view.weighted_shift_directions()[torch.from_numpy(of_run).to(view.device)]
    trainings = [rows.double().cpu(), *(_candidate_directions(training) for training in others)]
    found = find_subspaces([_without(part, offset.directions()) for part in trainings], seed=seed)
    members = tuple(of_run[subspace.members[0]] for subspace in found)
    groups = _groups(labels, found, members)
    terms = read(TermMoments, held_out, moment_inputs(groups, sums))
    fit = fit_map(terms.moments(), view.device)
    elements = fitted_elements(offset, sums.middle, terms.means(sums, offset), fit)
    partition = read(PartitionSums, held_out, partition_inputs(groups, elements))
    square = partition.sums["square"]
    total = float(square.sum())
    share = partition.map_share(confidence)
    low_rank_map = judge_map(
        fit, view.d_models[0], share, total, partition.latents / total, partition.scores(), seed
    )
    parts = parts_record(partition.parts(low_rank_map), square, confidence)
    record = {
        "n_tokens": reader.n_tokens,
        "square": total / reader.n_tokens,
        "offset": offset.record(),
        "map": low_rank_map.record(),
        "subspaces": [
            _subspace_record(found[index], members[index], partition, index, confidence)
            for index in range(len(found))
        ],
        "subspaces_reason": _subspaces_reason(len(others)),
        "latents": {"one_sided": int(groups.one_sided.sum()), "two_sided": int(groups.two_sided.sum())},
        "parts": parts,
        "largest": max(PARTS, key=lambda name: parts[name]["share"]),
    }
    directions = _map_directions(low_rank_map, view.d_models[0])
    return ChangeDescription(record, offset.directions(), *directions, tuple(found), members)


def _candidate_directions(training: OtherTraining) -> Float64[Tensor, "candidate d_model"]:
    """Return the directions of change of another training's candidates.

    They are in its training space, which differs from raw units by one factor for each model. The factors of models that share a space
    are about equal, and of a latent that only one model has the direction is the same.
    """
    of_model = [rows.detach().double().cpu() for rows in training.directions[:2]]
    change = of_model[0] if len(of_model) == 1 else of_model[1] - of_model[0]
    return change[torch.tensor([label in CLAIMED for label in training.labels], dtype=torch.bool)]


def _groups(
    labels: Sequence[str],
    found: Sequence[FoundSubspace],
    members: Sequence[Int64[np.ndarray, " member"]],
) -> LatentGroups:
    """Return the groups of latents. A member of a subspace is no claim of its own."""
    subspaces, in_any = [], np.zeros(len(labels), dtype=bool)
    for subspace, latents in zip(found, members, strict=True):
        mask = np.zeros(len(labels), dtype=bool)
        mask[latents] = True
        in_any |= mask
        subspaces.append(LatentSubspace(subspace.basis, torch.from_numpy(mask)))
    claimed = np.array([label in CLAIMED for label in labels]) & ~in_any
    one_sided = np.array([label in ONE_SIDED for label in labels])
    return LatentGroups(
        torch.from_numpy(claimed & one_sided), torch.from_numpy(claimed & ~one_sided), tuple(subspaces)
    )


def _without(
    rows: Float64[Tensor, "candidate d_model"], directions: Float64[Tensor, "kind d_model"]
) -> Float64[Tensor, "candidate d_model"]:
    """Return the rows without the span of the offsets, which many latents share and which would link them all."""
    if not len(directions):
        return rows
    basis = torch.linalg.svd(directions, full_matrices=False).Vh
    return rows - rows @ basis.T @ basis


def _subspaces_reason(n_others: int) -> str:
    if n_others >= NEEDED_TRAININGS:
        return ""
    return f"a subspace must be found by {NEEDED_TRAININGS} other trainings, and there are {n_others}"


def _subspace_record(
    found: FoundSubspace,
    latents: Int64[np.ndarray, " member"],
    partition: PartitionSums,
    index: int,
    confidence: float,
) -> dict[str, Any]:
    """Return the entry of a subspace: its dimension, evidence, tokens, share of E‖Δx‖², members and example tokens.

    `stability`, `smallest`, `cosines`: principal angles between trainings; `chance`: for random subspaces. `token_share`: share of the
    tokens on which a member fires. `by_chance`: the share of E‖Δx‖² that a random subspace would explain on these tokens.
    """
    seen = partition.activity(index)
    square, tokens = partition.sums["square"], partition.sums["tokens"]
    density = share_of(seen.tokens, tokens, confidence)
    return {
        "dimension": found.dimension,
        "stability": found.stability,
        "smallest": min(found.cosines),
        "cosines": list(found.cosines),
        "chance": found.chance,
        "p": found.p,
        "trainings": sum(len(part) >= 2 for part in found.members),
        "members": latents.tolist(),
        "members_elsewhere": [len(part) for part in found.members[1:]],
        "token_share": density.value,
        "token_share_low": density.low,
        "token_share_high": density.high,
        **share_of(seen.explained, square, confidence).record(),
        "by_chance": float(seen.by_chance.sum() / square.sum()),
        "examples": [example._asdict() for example in seen.examples],
    }


def _map_directions(
    low_rank_map: LowRankMap, width: int
) -> tuple[Float64[Tensor, "rank d_model"], Float64[Tensor, "rank d_model"]]:
    fit = low_rank_map.fit
    if not low_rank_map.established or fit.read is None or fit.write is None:
        return torch.zeros(0, width, dtype=torch.float64), torch.zeros(0, width, dtype=torch.float64)
    return fit.read, fit.write
