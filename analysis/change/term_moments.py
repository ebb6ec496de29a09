"""The pass over the terms of the difference that the low-rank map is fitted on, and that gives the means of the terms."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch

from ..latents.hashing import hashed, uniform
from ..latents.held_out_sums import HeldOut, HeldOutSums, Inputs
from ..latents.ordered_sums import OrderedSums, under, with_prefixes
from .batch_terms import LatentGroups, TermReader, without_subspaces
from .constant_offset import FOLDS, ConstantOffset, OffsetSums
from .linear_moments import LinearMoments, LinearMomentSums

# Tokens that the map is fitted on, of whole documents: enough for its d_model parameters per output, and the products cost the most.
_MAP_TOKENS = 2**15
_MAP_TOKENS_PER_DIMENSION = 32

_TERMS = ("one_sided", "two_sided", "other")


class TermMeans(NamedTuple):
    """Means of the terms of latents in each class of tokens, raw units; 0 in classes without an offset."""

    one_sided: Float64[Tensor, "kind d_model"]
    two_sided: Float64[Tensor, "kind d_model"]
    other_latents: Float64[Tensor, "kind d_model"]


class TermMoments(HeldOutSums):
    """Accumulates the moments and means. Several processes take one fold of documents each, because moments are kept for each fold, and those
    of each group would take 96 bytes times d_model²."""

    N_CLASSES: ClassVar[int | None] = FOLDS

    def __init__(
        self, terms: TermReader, middle: Float64[Tensor, " d_model"], n_kinds: int, n_tokens: int, seed: int
    ) -> None:
        """`middle`: mean of the predictor of the map. `n_tokens`: of all held-out documents."""
        self._terms, self._middle, self._seed = terms, middle, seed
        width = terms.directions.shape[1]
        self._moments = LinearMomentSums(n_kinds, width)
        self._kept = max(_MAP_TOKENS, _MAP_TOKENS_PER_DIMENSION * width) / n_tokens
        self._shape = (len(_TERMS), n_kinds, width)
        self._totals = torch.zeros(self._shape, dtype=torch.float64)
        """Of the current group."""
        self._ordered = OrderedSums()

    @classmethod
    def begin(cls, held_out: HeldOut, inputs: Inputs) -> Self:
        """See `HeldOutSums.begin`. The inputs are those of `moment_inputs`."""
        terms = TermReader.of(held_out, LatentGroups.of_tensors(under(inputs, "groups")))
        n_kinds, seed = len(terms.classes.names), held_out.config.seed
        return cls(terms, inputs["middle"], n_kinds, held_out.reader.n_tokens, seed)

    def update(self, batch: ActivationBatch, rows: Int64[np.ndarray, " token"] | None = None) -> None:
        """See `HeldOutSums.update`."""
        found, subspaces = self._terms.terms(batch), self._terms.groups.subspaces
        rest = without_subspaces(found.difference - found.one_sided, subspaces, found.active)
        rest = self._terms.open_to_map(rest)
        kept = sampled_documents(batch.document, self._kept, self._seed)
        columns = (found.middle - self._middle, found.difference, rest, found.fold, found.kind)
        self._moments.update(*(column[kept] for column in columns))
        for place, term in enumerate((found.one_sided, found.two_sided, found.other)):
            self._totals[place].index_add_(0, found.kind, term)

    def end_group(self, number: int) -> None:
        """See `HeldOutSums.end_group`."""
        self._ordered.add(number, {"totals": self._totals})
        self._totals = torch.zeros(self._shape, dtype=torch.float64)

    def tensors(self) -> dict[str, Tensor]:
        """See `HeldOutSums.tensors`."""
        return with_prefixes({"moments": self._moments.result()._asdict(), "totals": self._ordered.tensors()})

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """See `HeldOutSums.join`."""
        found = under(tensors, "moments")
        for name, value in self._moments.result()._asdict().items():
            value += found[name]
        self._ordered.join(under(tensors, "totals"))

    def moments(self) -> LinearMoments:
        """Return the moments of what the map is fitted on."""
        return self._moments.result()

    def means(self, sums: OffsetSums, offset: ConstantOffset) -> TermMeans:
        """Return the means of the terms of latents in classes with an offset."""
        means = self._ordered.total()["totals"] / sums.count.sum(dim=0).clamp_min(1)[:, None]
        means *= torch.tensor(offset.claimed, dtype=torch.float64)[:, None]
        return TermMeans(*means)


def moment_inputs(groups: LatentGroups, sums: OffsetSums) -> Inputs:
    """Return what `TermMoments` begins from."""
    return {**with_prefixes({"groups": groups.tensors()}), "middle": sums.middle}


def sampled_documents(document: Int[Tensor, " token"], share: float, seed: int) -> Bool[Tensor, " token"]:
    """Return the tokens of a random sample of documents; all tokens if `share` is at least 1."""
    return torch.from_numpy(uniform(hashed(document.cpu().numpy().astype(np.int64), seed)) < share)
