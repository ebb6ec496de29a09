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

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch

from ..latents.held_out_sums import HeldOut, HeldOutSums, Inputs
from ..latents.ordered_sums import OrderedSums, Sums, under, with_prefixes
from .batch_terms import BatchTerms, LatentGroups, LatentSubspace, TermReader, in_subspace, without_subspaces
from .block_shares import Share, share_of
from .constant_offset import FOLDS, ConstantOffset
from .low_rank_map import FittedMap, LowRankMap, MapFit, MapScores
from .term_moments import TermMeans, sampled_documents

PARTS = ("offset", "one_sided", "subspaces", "map", "two_sided", "other_latents", "bias", "error")
"""The parts, in their order."""

_TERMS = ("one_sided", "two_sided", "other_latents")
_SAMPLE_TOKENS = 2**17
_EXAMPLES = 8


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


class FittedElements(NamedTuple):
    """What was fitted before the parts are summed."""

    offset: Float64[Tensor, "fold kind d_model"]
    """`ConstantOffset.fitted`."""
    claimed: Bool[Tensor, " kind"]
    """`ConstantOffset.claimed`."""
    middle: Float64[Tensor, " d_model"]
    """Mean of the predictor of the map, which its moments were centered about."""
    means: TermMeans
    folds: tuple[FittedMap, ...]
    """`MapFit.folds`."""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `of_tensors` in another process."""
        found = {"offset": self.offset, "claimed": self.claimed, "middle": self.middle}
        maps = {f"fold {number}": fold._asdict() for number, fold in enumerate(self.folds)}
        return found | with_prefixes({"means": self.means._asdict(), **maps})

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the elements behind `tensors`."""
        maps = [under(tensors, f"fold {number}") for number in range(FOLDS)]
        return cls(
            tensors["offset"],
            tensors["claimed"],
            tensors["middle"],
            TermMeans(**under(tensors, "means")),
            tuple(FittedMap(**found) for found in maps if found),
        )


def fitted_elements(
    offset: ConstantOffset, middle: Float64[Tensor, " d_model"], means: TermMeans, fit: MapFit
) -> FittedElements:
    """Return what the parts are made of; `middle` is that of `OffsetSums`."""
    return FittedElements(offset.fitted, torch.tensor(offset.claimed), middle, means, fit.folds)


class PartitionSums(HeldOutSums):
    """Accumulates the parts over batches. Sums that no block keeps are of the current group until it ends."""

    N_CLASSES: ClassVar[int | None] = None

    def __init__(
        self, reader: TermReader, elements: FittedElements, n_blocks: int, n_tokens: int, seed: int
    ) -> None:
        """`n_tokens`: of all held-out documents."""
        self._reader, self._elements = reader, elements
        self._seed, self._kept = seed, _SAMPLE_TOKENS / max(1, n_tokens)
        width = reader.directions.shape[1]
        rank = elements.folds[0].read.shape[1] if elements.folds else 0
        subspaces = reader.groups.subspaces
        self.sums = {
            name: torch.zeros(n_blocks, dtype=torch.float64) for name in (*PARTS, "square", "tokens")
        }
        self._in_subspace = torch.zeros(len(subspaces), 3, n_blocks, dtype=torch.float64)
        self._examples: list[dict[int, ActiveToken]] = [{} for _ in subspaces]
        self._along_map = torch.zeros(n_blocks, rank, width, dtype=torch.float64)
        """Σ z Δxᵀ, with z the scores of the map."""
        self._shapes = {
            "scores": (FOLDS, rank, rank),
            **dict.fromkeys(_TERMS[1:], (FOLDS, rank, width)),
            "latents": (reader.directions.shape[0],),
        }
        self._group, self._ordered = self._empty_group(), OrderedSums()
        """Σ z zᵀ and Σ z (term)ᵀ in each fold, and `latents`."""
        self._sample: list[tuple[Tensor, Tensor, Tensor]] = []
        """Of the current group: fold, and `MapScores`."""
        self._samples: dict[int, Sums] = {}
        self._bias = reader.view.shift_bias().double().cpu()

    @classmethod
    def begin(cls, held_out: HeldOut, inputs: Inputs) -> Self:
        """See `HeldOutSums.begin`. The inputs are those of `partition_inputs`."""
        config, n_tokens = held_out.config, held_out.reader.n_tokens
        terms = TermReader.of(held_out, LatentGroups.of_tensors(under(inputs, "groups")))
        elements = FittedElements.of_tensors(under(inputs, "elements"))
        return cls(terms, elements, config.analysis.bootstrap_blocks, n_tokens, config.seed)

    def update(self, batch: ActivationBatch, rows: Int64[np.ndarray, " token"]) -> None:
        """See `HeldOutSums.update`."""
        terms = self._reader.terms(batch)
        subspaces = self._reader.groups.subspaces
        delta, kind = terms.difference, terms.kind
        elements = self._elements
        offset = elements.offset[terms.fold, kind]
        one_sided = terms.one_sided - elements.means.one_sided[kind]
        rest = delta - offset - one_sided
        parts = {"offset": offset, "one_sided": one_sided, "subspaces": torch.zeros_like(delta)}
        for index, (subspace, active) in enumerate(zip(subspaces, terms.active, strict=True)):
            projected = in_subspace(rest, subspace, active)
            self._add_activity(index, subspace, active, rest, projected, terms, batch, rows)
            parts["subspaces"] += projected
            rest = rest - projected
        before_map = self._reader.open_to_map(rest)
        self._add_latents(terms, before_map)
        claimed = elements.claimed[kind]
        parts["two_sided"] = terms.two_sided - elements.means.two_sided[kind]
        parts["other_latents"] = terms.other - elements.means.other_latents[kind]
        parts["bias"] = torch.where(claimed[:, None], 0.0, self._bias)
        for name in ("two_sided", "other_latents", "bias"):
            parts[name] = without_subspaces(parts[name], subspaces, terms.active)
        parts["error"] = rest - parts["two_sided"] - parts["other_latents"] - parts["bias"]
        if elements.folds:
            self._add_map(terms, before_map, parts, batch)
        for name, part in parts.items():
            self.sums[name].index_add_(0, terms.block, (part * delta).sum(dim=1))
        self.sums["square"].index_add_(0, terms.block, delta.square().sum(dim=1))
        self.sums["tokens"].index_add_(0, terms.block, torch.ones(len(delta), dtype=torch.float64))

    def end_group(self, number: int) -> None:
        """See `HeldOutSums.end_group`."""
        self._ordered.add(number, self._group)
        self._group = self._empty_group()
        if self._sample:
            columns = [torch.cat(column) for column in zip(*self._sample, strict=True)]
            self._samples[number] = dict(zip(("fold", "read", "found"), columns, strict=True))
        self._sample = []

    def tensors(self) -> dict[str, Tensor]:
        """See `HeldOutSums.tensors`."""
        return with_prefixes(
            {
                "blocks": self._by_block(),
                "groups": self._ordered.tensors(),
                **{f"sample {number}": columns for number, columns in self._samples.items()},
                **{f"examples {index}": _columns_of(found) for index, found in enumerate(self._examples)},
            }
        )

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """See `HeldOutSums.join`."""
        found = under(tensors, "blocks")
        for name, value in self._by_block().items():
            value += found[name]
        self._ordered.join(under(tensors, "groups"))
        samples = {name.split("/")[0] for name in tensors if name.startswith("sample ")}
        self._samples |= {int(name.removeprefix("sample ")): under(tensors, name) for name in samples}
        for index, kept in enumerate(self._examples):
            both = [*kept.values(), *_examples_of(under(tensors, f"examples {index}"))]
            self._examples[index] = _best(both)

    @property
    def latents(self) -> Float64[Tensor, " latent"]:
        """Σ w_j⟨δ_j, what is left before the map⟩ of each latent."""
        return self._ordered.total()["latents"]

    def map_share(self, confidence: float) -> Share:
        """Return the share that the fitted map explains, whether or not it is established."""
        return share_of(self.sums["map"], self.sums["square"], confidence)

    def scores(self) -> dict[int, MapScores]:
        """Return the sampled scores of the map in each fold that has any."""
        found: dict[int, MapScores] = {}
        samples = [self._samples[number] for number in sorted(self._samples)]
        for fold in range(FOLDS if samples else 0):
            read, rest = (
                torch.cat([part[name][part["fold"] == fold] for part in samples])
                for name in ("read", "found")
            )
            if len(read):
                found[fold] = MapScores(read, rest)
        return found

    def activity(self, index: int) -> SubspaceActivity:
        """Return where a subspace is active."""
        tokens, explained, by_chance = self._in_subspace[index]
        return SubspaceActivity(tokens, explained, by_chance, tuple(self._examples[index].values()))

    def parts(self, low_rank_map: LowRankMap) -> dict[str, Float64[Tensor, " block"]]:
        """Return Σ⟨part, Δx⟩ of every part, per block; they add up to Σ‖Δx‖². The map counts only if it is established."""
        parts = {name: self.sums[name].clone() for name in PARTS}
        if not low_rank_map.established:
            parts["map"].zero_()
            return parts
        parts["error"] -= parts["map"]
        fold = torch.arange(len(parts["map"])) % FOLDS
        found = self._ordered.total()
        for name in _TERMS[1:]:
            # The part of the term that is linear in the scores of the map, by least squares in each fold.
            coefficients = torch.linalg.lstsq(found["scores"], found[name], driver="gelsd").solution
            linear = (coefficients[fold] * self._along_map).sum(dim=(1, 2))
            parts[name] -= linear
            parts["error"] += linear
        return parts

    def _add_activity(
        self, index: int, subspace: LatentSubspace, active: Tensor, rest: Tensor, projected: Tensor,
        terms: BatchTerms, batch: ActivationBatch, rows: Int64[np.ndarray, " token"],
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
        found = [
            ActiveToken(
                float(size[token]), int(rows[token]), int(batch.document[token]), int(batch.position[token])
            )
            for token in size.topk(min(4 * _EXAMPLES, len(size))).indices.tolist()
            if size[token] > 0
        ]
        self._examples[index] = _best([*self._examples[index].values(), *found])

    def _add_latents(self, terms: BatchTerms, rest: Tensor) -> None:
        if not self._elements.folds:
            return
        weights, directions = terms.weights, self._reader.directions
        product = weights.products(directions, rest.to(directions)) * weights.value
        self._group["latents"].index_add_(0, weights.latent.cpu(), product.double().cpu())

    def _add_map(
        self, terms: BatchTerms, rest: Tensor, parts: dict[str, Tensor], batch: ActivationBatch
    ) -> None:
        fold, kind = terms.fold, terms.kind
        read = rest.new_zeros(len(rest), self._shapes["scores"][1])
        found, parts["map"] = torch.zeros_like(read), torch.zeros_like(rest)
        for index in fold.unique().tolist():
            rows = fold == index
            fitted = self._elements.folds[index]
            read[rows] = (
                terms.middle[rows] - self._elements.middle - fitted.mean_x[kind[rows]]
            ) @ fitted.read
            found[rows] = rest[rows] @ fitted.write
            parts["map"][rows] = read[rows] @ fitted.write.T
            self._group["scores"][index] += read[rows].T @ read[rows]
            for name in _TERMS[1:]:
                self._group[name][index] += read[rows].T @ parts[name][rows]
        for block in terms.block.unique().tolist():
            rows = terms.block == block
            self._along_map[block] += read[rows].T @ terms.difference[rows]
        sampled = sampled_documents(batch.document, self._kept, self._seed)
        self._sample.append((fold[sampled], read[sampled], found[sampled]))

    def _empty_group(self) -> Sums:
        return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self._shapes.items()}

    def _by_block(self) -> dict[str, Tensor]:
        """Return the sums of each block, which other processes only add 0 to."""
        return {**self.sums, "in_subspace": self._in_subspace, "along_map": self._along_map}


def partition_inputs(groups: LatentGroups, elements: FittedElements) -> Inputs:
    """Return what `PartitionSums` begins from."""
    return with_prefixes({"groups": groups.tensors(), "elements": elements.tensors()})


def _best(examples: Iterable[ActiveToken]) -> dict[int, ActiveToken]:
    """Return the largest examples by document, one of each document; of equal ones the first of the reader."""
    found: dict[int, ActiveToken] = {}
    for example in sorted(examples, key=lambda example: (-example.size, example.row)):
        found.setdefault(example.document, example)
    return dict(list(found.items())[:_EXAMPLES])


def _columns_of(examples: Mapping[int, ActiveToken]) -> dict[str, Tensor]:
    """Return examples as named tensors."""
    return {
        "size": torch.tensor([example.size for example in examples.values()], dtype=torch.float64),
        "place": torch.tensor([example[1:] for example in examples.values()], dtype=torch.long).view(-1, 3),
    }


def _examples_of(columns: Mapping[str, Tensor]) -> list[ActiveToken]:
    """Return the examples behind `_columns_of`."""
    return [
        ActiveToken(size, *place)
        for size, place in zip(columns["size"].tolist(), columns["place"].tolist(), strict=True)
    ]


def parts_record(
    parts: dict[str, Float64[Tensor, " block"]], square: Float64[Tensor, " block"], confidence: float
) -> dict[str, Any]:
    """Return the section `parts`."""
    return {name: share_of(part, square, confidence).record() for name, part in parts.items()}
