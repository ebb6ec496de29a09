"""The terms of the difference on a batch of tokens: Δx = Σ_j w_j δ_j + b_Δ + e, with the latents in groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, split_models
from crosscoder.dictionary.sparse_latents import SparseLatents

from ..latents.block_sums import BlockSums
from ..latents.dictionary_view import DictionaryView
from ..latents.held_out_sums import HeldOut
from .constant_offset import FOLDS
from .position_classes import PositionClasses


class LatentSubspace(NamedTuple):
    """A subspace, as the run's dictionary sees it."""

    basis: Float64[Tensor, "dimension d_model"]
    members: Bool[Tensor, " latent"]
    """The latents whose firing says where the subspace is active."""


@dataclass(frozen=True)
class LatentGroups:
    """The latents of the run's dictionary by what they are in the decomposition; the masks are disjoint."""

    one_sided: Bool[Tensor, " latent"]
    """New and lost latents that were found again."""
    two_sided: Bool[Tensor, " latent"]
    """Latents of both models whose change was found again: rotated, rescaled, reweighted."""
    subspaces: tuple[LatentSubspace, ...]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `of_tensors` in another process."""
        found = {"one_sided": self.one_sided, "two_sided": self.two_sided}
        for number, subspace in enumerate(self.subspaces):
            found |= {f"basis {number}": subspace.basis, f"members {number}": subspace.members}
        return found

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the groups behind `tensors`."""
        n_subspaces = sum(name.startswith("basis ") for name in tensors)
        subspaces = (
            LatentSubspace(tensors[f"basis {number}"], tensors[f"members {number}"])
            for number in range(n_subspaces)
        )
        return cls(tensors["one_sided"], tensors["two_sided"], tuple(subspaces))


class BatchTerms(NamedTuple):
    """The terms of a batch, float64 on the CPU, raw units."""

    difference: Float64[Tensor, "token d_model"]
    """x^intervened - x^reference."""
    middle: Float64[Tensor, "token d_model"]
    """(x^reference + x^intervened) / 2."""
    one_sided: Float64[Tensor, "token d_model"]
    two_sided: Float64[Tensor, "token d_model"]
    other: Float64[Tensor, "token d_model"]
    """What all other latents add, members of subspaces included."""
    active: tuple[Bool[Tensor, " token"], ...]
    """For each subspace, whether any member fires."""
    weights: SparseLatents
    """How often each latent adds its direction to the difference."""
    block: Int64[Tensor, " token"]
    fold: Int64[Tensor, " token"]
    kind: Int64[Tensor, " token"]


class TermReader:
    """Computes the terms of batches."""

    def __init__(
        self, view: DictionaryView, groups: LatentGroups, classes: PositionClasses, n_blocks: int, seed: int
    ) -> None:
        self.view, self.groups, self.classes = view, groups, classes
        self._blocks = BlockSums(n_blocks, 1, seed)
        self.directions = view.weighted_shift_directions()
        self._written = _span_of(self.directions[groups.one_sided.to(self.directions.device)].double().cpu())
        self._one_sided, self._two_sided = (
            self.directions * mask.to(self.directions)[:, None]
            for mask in (groups.one_sided, groups.two_sided)
        )

    @classmethod
    def of(cls, held_out: HeldOut, groups: LatentGroups) -> Self:
        """Return the reader of the held-out tokens of a run."""
        config = held_out.config
        classes = PositionClasses(held_out.context, config.tokens.mask_first)
        return cls(held_out.view, groups, classes, config.analysis.bootstrap_blocks, config.seed)

    def open_to_map(self, rest: Float64[Tensor, "token d_model"]) -> Float64[Tensor, "token d_model"]:
        """Return what is left after one-sided latents and subspaces, without the dimensions that one-sided latents write into."""
        return rest - rest @ self._written.T @ self._written

    def terms(self, batch: ActivationBatch) -> BatchTerms:
        """Return the terms of a batch."""
        observation = self.view.observe(batch.values)
        weights = observation.weights
        reference, intervened = (
            part.double() for part in split_models(batch.values.cpu(), self.view.d_models)[:2]
        )
        one_sided, two_sided, all_latents = (
            weights.weighted_sum(rows).double().cpu()
            for rows in (self._one_sided, self._two_sided, self.directions)
        )
        block = self._blocks.blocks(batch.document)
        firing = observation.codes.sparse_latents
        return BatchTerms(
            difference=intervened - reference,
            middle=(reference + intervened) / 2,
            one_sided=one_sided,
            two_sided=two_sided,
            other=all_latents - one_sided - two_sided,
            active=tuple(_any_fires(firing, subspace.members) for subspace in self.groups.subspaces),
            weights=weights,
            block=block,
            fold=block % FOLDS,
            kind=self.classes.of(batch.document, batch.position),
        )


def without_subspaces(
    rows: Float64[Tensor, "token d_model"],
    subspaces: Sequence[LatentSubspace],
    active: Sequence[Bool[Tensor, " token"]],
) -> Float64[Tensor, "token d_model"]:
    """Return what is left of each row after its projection onto every subspace active there is taken out, one after the other."""
    for subspace, where in zip(subspaces, active, strict=True):
        rows = rows - in_subspace(rows, subspace, where)
    return rows


def in_subspace(
    rows: Float64[Tensor, "token d_model"], subspace: LatentSubspace, active: Bool[Tensor, " token"]
) -> Float64[Tensor, "token d_model"]:
    """Return the projection of the rows onto a subspace; 0 where it is not active."""
    projected = torch.zeros_like(rows)
    projected[active] = rows[active] @ subspace.basis.T @ subspace.basis
    return projected


def _any_fires(firing: SparseLatents, members: Bool[Tensor, " latent"]) -> Bool[Tensor, " token"]:
    fires = torch.zeros(firing.shape[0], dtype=torch.bool)
    fires[firing.token[members.to(firing.latent.device)[firing.latent]].cpu()] = True
    return fires


def _span_of(rows: Float64[Tensor, "_ d_model"]) -> Float64[Tensor, "_ d_model"]:
    """Return an orthonormal basis of the span of the rows."""
    if not len(rows):
        return rows
    _, strengths, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[strengths > 1e-6 * strengths[0].clamp_min(1e-300)]
