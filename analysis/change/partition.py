"""The parts of the difference, which add up to it on every token, and their shares of E‖Δx‖².

Each part is what its element explains of what the elements before it left (Δx_0 = Δx):

    offset          the constant offset of the token's class
    one_sided       Σ w_j δ_j of new and lost latents that other trainings found again
    subspaces       the projection of what is left onto each subspace, on the tokens where a member fires
    map             what the low-rank map says of what is left
    two_sided       Σ w_j δ_j of rotated, rescaled and reweighted latents that were found again
    other_latents   Σ w_j δ_j of all other latents
    bias            what the dictionary adds when no latent fires
    error           the rest

A share is E⟨part, Δx⟩ / E‖Δx‖², so that the shares add up to 1; one can be negative, where a part points against the change.

The order. One element must not be counted in another, and where two could explain the same, the more specific claim has it: the offset first,
because it is one vector and any latent that fires often has a part of it; then latents that changed in one model only, each of which
independent trainings found; then subspaces, confined to few tokens. The map comes after them because, with its many more numbers, it can
imitate them all, and before the latents of both models that changed: a map that acts on all features rotates and rescales many latents a
little, and one map says that more simply than many latents do. It is claimed only where it is not itself a few latents (`low_rank_map`). What
is not established explains nothing, and its part is 0.

No double counting. From the terms of latents, what comes earlier is taken out: their mean over the tokens of a class with an offset, their
projection onto subspaces active there, and what is linear in the scores of the map. The offset and the map of a token are those fitted
without its fold of documents.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch

from ..latents.hashing import hashed, uniform
from .batch_terms import BatchTerms, LatentSubspace, TermReader, in_subspace, without_subspaces
from .block_shares import Share, share_of
from .constant_offset import FOLDS, ConstantOffset
from .low_rank_map import LowRankMap, MapFit, MapScores

PARTS = ("offset", "one_sided", "subspaces", "map", "two_sided", "other_latents", "bias", "error")
"""The parts, in their order."""

_TERMS = ("one_sided", "two_sided", "other_latents")
_SAMPLE_TOKENS = 2**17
_EXAMPLES = 8


class TermMeans(NamedTuple):
    """Means of the terms of latents in each class of tokens, raw units; 0 in classes without an offset."""

    one_sided: Float64[Tensor, "kind d_model"]
    two_sided: Float64[Tensor, "kind d_model"]
    other_latents: Float64[Tensor, "kind d_model"]


class ActiveToken(NamedTuple):
    """A token on which a subspace carries much of the change."""

    size: float
    """Length of the change within the subspace, raw units."""
    row: int
    """Row of the held-out tokens."""
    document: int
    position: int


class SubspaceActivity(NamedTuple):
    """Where a subspace is active in the held-out tokens, per block of documents."""

    tokens: Float64[Tensor, " block"]
    explained: Float64[Tensor, " block"]
    """Σ⟨projection, Δx⟩."""
    by_chance: Float64[Tensor, " block"]
    """What a random subspace of the same dimension would explain on the same tokens."""
    examples: tuple[ActiveToken, ...]
    """The tokens with the largest change within it, at most one for each document."""


class PartitionSums:
    """Accumulates the parts over batches, in the order of the reader."""

    def __init__(
        self, reader: TermReader, offset: ConstantOffset, means: TermMeans, fit: MapFit, middle: Tensor,
        n_blocks: int, n_tokens: int, seed: int,
    ) -> None:  # fmt: skip
        """`middle`: mean of the predictor of the map, which its moments were centered about."""
        self._reader, self._offset, self._means, self._fit, self._middle = reader, offset, means, fit, middle
        self._seed, self._kept = seed, _SAMPLE_TOKENS / max(1, n_tokens)
        width, rank = reader.directions.shape[1], fit.rank if fit.folds else 0
        subspaces = reader.groups.subspaces
        self.sums = {
            name: torch.zeros(n_blocks, dtype=torch.float64) for name in (*PARTS, "square", "tokens")
        }
        self._in_subspace = torch.zeros(len(subspaces), 3, n_blocks, dtype=torch.float64)
        self._examples: list[dict[int, ActiveToken]] = [{} for _ in subspaces]
        self._along_map = torch.zeros(n_blocks, rank, width, dtype=torch.float64)
        """Σ z Δxᵀ, with z the scores of the map."""
        self._scores = torch.zeros(FOLDS, rank, rank, dtype=torch.float64)
        self._crossed = {name: torch.zeros(FOLDS, rank, width, dtype=torch.float64) for name in _TERMS[1:]}
        self.latents = torch.zeros(reader.directions.shape[0], dtype=torch.float64)
        """Σ w_j⟨δ_j, what is left before the map⟩ of each latent."""
        self._sample: list[tuple[Tensor, Tensor, Tensor]] = []
        self._bias = reader.view.shift_bias().double().cpu()
        self._rows = 0

    def update(self, batch: ActivationBatch) -> None:
        """Add a batch."""
        terms = self._reader.terms(batch)
        subspaces = self._reader.groups.subspaces
        delta, kind = terms.difference, terms.kind
        offset = self._offset.fitted[terms.fold, kind]
        one_sided = terms.one_sided - self._means.one_sided[kind]
        rest = delta - offset - one_sided
        parts = {"offset": offset, "one_sided": one_sided, "subspaces": torch.zeros_like(delta)}
        for index, (subspace, active) in enumerate(zip(subspaces, terms.active, strict=True)):
            projected = in_subspace(rest, subspace, active)
            self._add_activity(index, subspace, active, rest, projected, terms, batch)
            parts["subspaces"] += projected
            rest = rest - projected
        before_map = self._reader.open_to_map(rest)
        self._add_latents(terms, before_map)
        claimed = torch.tensor(self._offset.claimed)[kind]
        parts["two_sided"] = terms.two_sided - self._means.two_sided[kind]
        parts["other_latents"] = terms.other - self._means.other_latents[kind]
        parts["bias"] = torch.where(claimed[:, None], 0.0, self._bias)
        for name in ("two_sided", "other_latents", "bias"):
            parts[name] = without_subspaces(parts[name], subspaces, terms.active)
        parts["error"] = rest - parts["two_sided"] - parts["other_latents"] - parts["bias"]
        if self._fit.folds:
            self._add_map(terms, before_map, parts, batch)
        for name, rows in parts.items():
            self.sums[name].index_add_(0, terms.block, (rows * delta).sum(dim=1))
        self.sums["square"].index_add_(0, terms.block, delta.square().sum(dim=1))
        self.sums["tokens"].index_add_(0, terms.block, torch.ones(len(delta), dtype=torch.float64))
        self._rows += len(delta)

    def map_share(self, confidence: float) -> Share:
        """Return the share that the fitted map explains, whether or not it is established."""
        return share_of(self.sums["map"], self.sums["square"], confidence)

    def scores(self) -> dict[int, MapScores]:
        """Return the sampled scores of the map in each fold that has any."""
        found: dict[int, MapScores] = {}
        for fold in range(FOLDS if self._sample else 0):
            read, rest = (
                torch.cat([part[place][part[0] == fold] for part in self._sample]) for place in (1, 2)
            )
            if len(read):
                found[fold] = MapScores(read, rest)
        return found

    def activity(self, index: int) -> SubspaceActivity:
        """Return where a subspace is active."""
        tokens, explained, by_chance = self._in_subspace[index]
        examples = sorted(self._examples[index].values(), key=lambda example: -example.size)
        return SubspaceActivity(tokens, explained, by_chance, tuple(examples[:_EXAMPLES]))

    def parts(self, low_rank_map: LowRankMap) -> dict[str, Float64[Tensor, " block"]]:
        """Return Σ⟨part, Δx⟩ of every part, per block; they add up to Σ‖Δx‖². The map counts only if it is established."""
        parts = {name: self.sums[name].clone() for name in PARTS}
        if not low_rank_map.established:
            parts["map"].zero_()
            return parts
        parts["error"] -= parts["map"]
        fold = torch.arange(len(parts["map"])) % FOLDS
        for name, crossed in self._crossed.items():
            # The part of the term that is linear in the scores of the map, by least squares in each fold.
            coefficients = torch.linalg.lstsq(self._scores, crossed, driver="gelsd").solution
            linear = (coefficients[fold] * self._along_map).sum(dim=(1, 2))
            parts[name] -= linear
            parts["error"] += linear
        return parts

    def _add_activity(
        self, index: int, subspace: LatentSubspace, active: Tensor, rest: Tensor, projected: Tensor,
        terms: BatchTerms, batch: ActivationBatch,
    ) -> None:  # fmt: skip
        share = len(subspace.basis) / rest.shape[1]
        quantities = (
            active.double(),
            (projected * terms.difference).sum(dim=1),
            share * rest.square().sum(dim=1) * active,
        )
        for place, value in enumerate(quantities):
            self._in_subspace[index, place].index_add_(0, terms.block, value)
        size = projected.norm(dim=1)
        kept = self._examples[index]
        for token in size.topk(min(4 * _EXAMPLES, len(size))).indices.tolist():
            document = int(batch.document[token])
            found = ActiveToken(float(size[token]), self._rows + token, document, int(batch.position[token]))
            if found.size > 0 and (document not in kept or found.size > kept[document].size):
                kept[document] = found
        best = sorted(kept.values(), key=lambda example: -example.size)[:_EXAMPLES]
        self._examples[index] = {example.document: example for example in best}

    def _add_latents(self, terms: BatchTerms, rest: Tensor) -> None:
        if not self._fit.folds:
            return
        weights, directions = terms.weights, self._reader.directions
        product = weights.products(directions, rest.to(directions)) * weights.value
        self.latents.index_add_(0, weights.latent.cpu(), product.double().cpu())

    def _add_map(
        self, terms: BatchTerms, rest: Tensor, parts: dict[str, Tensor], batch: ActivationBatch
    ) -> None:
        fold, kind = terms.fold, terms.kind
        read = torch.zeros(len(rest), self._fit.rank, dtype=torch.float64)
        found, parts["map"] = torch.zeros_like(read), torch.zeros_like(rest)
        for index in fold.unique().tolist():
            rows = fold == index
            fitted = self._fit.folds[index]
            read[rows] = (terms.middle[rows] - self._middle - fitted.mean_x[kind[rows]]) @ fitted.read
            found[rows] = rest[rows] @ fitted.write
            parts["map"][rows] = read[rows] @ fitted.write.T
            self._scores[index] += read[rows].T @ read[rows]
            for name in self._crossed:
                self._crossed[name][index] += read[rows].T @ parts[name][rows]
        for block in terms.block.unique().tolist():
            rows = terms.block == block
            self._along_map[block] += read[rows].T @ terms.difference[rows]
        sampled = sampled_documents(batch.document, self._kept, self._seed)
        self._sample.append((fold[sampled], read[sampled], found[sampled]))


def sampled_documents(document: Int[Tensor, " token"], share: float, seed: int) -> Bool[Tensor, " token"]:
    """Return the tokens of a random sample of documents; all tokens if `share` is at least 1."""
    return torch.from_numpy(uniform(hashed(document.cpu().numpy().astype(np.int64), seed)) < share)


def parts_record(
    parts: dict[str, Float64[Tensor, " block"]], square: Float64[Tensor, " block"], confidence: float
) -> dict[str, Any]:
    """Return the section `parts`."""
    return {name: share_of(part, square, confidence).record() for name, part in parts.items()}
