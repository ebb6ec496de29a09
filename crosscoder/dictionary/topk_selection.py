"""Top-k selection without materializing the code: the encoder runs over blocks of latents, and only entries above a bound
are kept from each block.

The bound limits the search, not the result: `BatchSelection` and `TokenSelection` keep exactly the largest scores, and if
the bound left too few entries, they search again below it. A resumed training therefore selects the same entries, although
it starts from another bound.

Where several ranks each hold a range of the latents, every rank searches its own, and all compete (`selection_over_ranks`).
"""

import math
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from .latent_ranks import ALONE, LatentRanks
from .selection_over_ranks import (
    kth_largest_of_rows_over_ranks,
    kth_largest_over_ranks,
    largest_over_ranks,
)
from .sparse_latents import SparseLatents, gpu_kernels

# Bytes of one block of pre-latents. On a CPU a block should fit in cache; on other devices fewer, larger blocks use the
# device better.
_BLOCK_BYTES = {"cpu": 4 << 20}
_BLOCK_BYTES_ELSEWHERE = 1 << 30

# Tokens used to estimate the first bound, and the factor by which it should leave more entries than are kept.
SAMPLED_TOKENS = 64
SURPLUS = 1.3

# The next bound is the extrapolated threshold times a margin. A bound that is too high costs a second encoder product, and one
# that is a little low costs only a few more entries, so the margin falls fast and rises slowly.
_MARGINS = (0.7, 0.95)
_MARGIN_FALLS, _MARGIN_RISES = 0.1, 0.005

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def block_bytes(device: torch.device, total: int) -> int:
    """Return the bytes of pre-latents held at once, given the `total` bytes of all of them."""
    return min(total, _BLOCK_BYTES.get(device.type, _BLOCK_BYTES_ELSEWHERE))


class Entries(NamedTuple):
    """Entries of a code, sorted by latent, then by token."""

    latent: Int64[Tensor, " entry"]
    token: Int64[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    """Pre-latents, in the precision of the dictionary."""

    def where(self, mask: Bool[Tensor, " entry"]) -> Self:
        """Return the entries selected by `mask`."""
        return type(self)(self.latent[mask], self.token[mask], self.value[mask])

    def sparse_latents(self, pre_latents: "PreLatents") -> SparseLatents:
        """Return the same entries, sorted by token."""
        shape = pre_latents.n_tokens, pre_latents.n_latents
        return SparseLatents.ordered(self.token, self.latent, self.value, shape)


class PreLatents:
    """x' W_enc + b_enc of a batch of tokens, computed block by block and never materialized."""

    def __init__(
        self,
        W_enc: Float[Tensor, "width latent"],
        b_enc: Float[Tensor, " latent"],
        normalized: Float[Tensor, "token width"],
    ) -> None:
        """Products are computed in the precision of `normalized`; entries are returned in the precision of the weights."""
        self.rows, self.bias, self.normalized = W_enc.detach().T, b_enc.detach(), normalized
        self.n_tokens, self.n_latents = len(normalized), len(b_enc)

    @torch.no_grad()
    def above(self, bounds: Float[Tensor, " latent"]) -> Entries:
        """Return all entries above the bound of their latent; bounds must not be negative."""
        if not self.n_latents:  # A rank may hold none of those asked for.
            nothing = torch.zeros(0, dtype=torch.int64, device=self.bias.device)
            return Entries(nothing, nothing, self.bias)
        dtype = self.normalized.dtype
        limits = round_down(bounds, dtype)
        latent_bytes = max(1, self.n_tokens * dtype.itemsize)
        total = self.n_latents * latent_bytes
        block_latents = max(16, block_bytes(self.normalized.device, total) // latent_bytes)
        places, values = [], []
        for start in range(0, self.n_latents, block_latents):
            stop = min(start + block_latents, self.n_latents)
            block = torch.addmm(
                self.bias[start:stop, None].to(dtype), self.rows[start:stop].to(dtype), self.normalized.T
            )
            found, value = _above(block, limits[start:stop])
            values.append(value.to(self.bias.dtype))
            places.append(found.add_(start * self.n_tokens))
        place = torch.cat(places)
        latent = place // max(1, self.n_tokens)
        return Entries(latent, place - latent * self.n_tokens, torch.cat(values))

    @torch.no_grad()
    def for_tokens(self, tokens: Int64[Tensor, " row"]) -> Float[Tensor, "row latent"]:
        """Return all pre-latents of a few tokens, in the precision of the weights; casting all weights would cost more."""
        return torch.addmm(self.bias, self.normalized[tokens].to(self.bias.dtype), self.rows.T)


def _above(
    block: Float[Tensor, "row column"], limits: Float[Tensor, " row"]
) -> tuple[Int64[Tensor, " entry"], Float[Tensor, " entry"]]:
    """Return flat indices in the block (ascending) and values of all entries above the limit of their row (at least zero)."""
    kernels = gpu_kernels(block)
    if kernels is not None:
        return kernels.above(block, limits)
    # Nonnegative floats order like their bit patterns, and integer comparison is faster.
    integers = _INTEGERS[block.dtype.itemsize]
    passing = block.view(integers) > limits.view(integers)[:, None]
    places = passing.view(-1).nonzero().squeeze(1)
    return places, block.view(-1)[places]


class BatchSelection:
    """Keeps the largest scores of a batch (training rule of BatchTopK)."""

    def __init__(self, ranks: LatentRanks = ALONE) -> None:
        """`ranks`: those that the latents are divided over."""
        self._ranks = ranks
        self._bound = math.nan
        self._threshold = math.nan
        self._margin = 0.85

    def __call__(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"], keep: int) -> SparseLatents:
        """Return the `keep` largest positive scores (all if there are fewer); ties go to the lower latent."""
        per_token = keep / max(1, pre_latents.n_tokens)
        bound = (
            self._bound
            if self._bound >= 0
            else estimate_score_bound(pre_latents, norms, per_token * SURPLUS, self._ranks)
        )
        surplus = SURPLUS
        while True:
            entries = pre_latents.above(pre_latent_bounds(bound, norms))
            scores = entries.value * norms[entries.latent]
            n_found = self._ranks.count(len(scores))
            if n_found >= keep or bound == 0:
                break
            surplus *= 1.5
            self._margin = max(_MARGINS[0], self._margin - _MARGIN_FALLS)
            estimate = estimate_score_bound(pre_latents, norms, per_token * surplus, self._ranks)
            bound = min(bound * self._margin, estimate)
        if keep == 0:
            return entries.where(torch.zeros_like(scores, dtype=torch.bool)).sparse_latents(pre_latents)
        if n_found > keep:
            mask, threshold = self._largest(scores, keep)
            entries = entries.where(mask)
            self._predict_bound(threshold)
        return entries.sparse_latents(pre_latents)

    def _largest(self, scores: Float[Tensor, " entry"], keep: int) -> tuple[Bool[Tensor, " entry"], float]:
        """Return a mask of the `keep` largest of more scores, and the smallest of them."""
        if not self._ranks.alone:
            mask, smallest = largest_over_ranks(scores, None, 1, keep, self._ranks)
            return mask, float(smallest)
        threshold = kth_largest(scores, keep)
        above, equal = scores > threshold, scores == threshold
        return above | (equal & (equal.cumsum(0) <= keep - above.sum())), threshold

    def _predict_bound(self, threshold: float) -> None:
        """Set the next bound: the threshold extrapolated from the last two, times the margin."""
        trend = threshold / self._threshold if self._threshold > 0 else 1.0
        self._threshold = threshold
        self._bound = threshold * min(trend, 1.0) * self._margin
        self._margin = min(_MARGINS[1], self._margin + _MARGIN_RISES)


class TokenSelection:
    """Keeps the largest scores of every token (rule of TopK)."""

    def __init__(self, ranks: LatentRanks = ALONE) -> None:
        """`ranks`: those that the latents are divided over."""
        self._ranks = ranks

    def __call__(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"], keep: int) -> SparseLatents:
        """Return the `keep` largest positive scores of every token; ties go to the lower latent."""
        keep = min(keep, self._ranks.count(pre_latents.n_latents))
        # Estimated from these tokens, not from the previous batch: recomputed tokens go through another product, so the
        # bound can affect rounding, and the result must depend on the batch alone.
        bound = _score_bound_of_every_token(pre_latents, norms, keep, self._ranks)
        found = pre_latents.above(pre_latent_bounds(bound, norms)).sparse_latents(pre_latents)
        counts = self._ranks.sum(found.first_of_token.diff())
        short = (counts < keep).nonzero().squeeze(1)
        if bound > 0 and len(short):
            found = self._recompute_tokens(found, short, pre_latents, norms, keep)
        scores = found.value * norms[found.latent]
        chosen = (
            mask_largest_per_token(found, scores, keep)
            if self._ranks.alone
            else largest_over_ranks(scores, found.token, found.shape[0], keep, self._ranks).mask
        )
        return SparseLatents(found.token[chosen], found.latent[chosen], found.value[chosen], found.shape)

    def _recompute_tokens(
        self,
        found: SparseLatents,
        short: Int64[Tensor, " row"],
        pre_latents: PreLatents,
        norms: Float[Tensor, " latent"],
        keep: int,
    ) -> SparseLatents:
        """Replace the entries of the `short` tokens by their `keep` largest positive scores; ties go to the lower latent."""
        recomputed = pre_latents.for_tokens(short)
        # All their positive pre-latents, half of the dictionary, would make the rest pad every token of the batch to that width.
        scores = recomputed * norms
        keep = min(keep, pre_latents.n_latents)
        smallest = scores.topk(keep, dim=1).values[:, -1:] if keep else scores
        above, equal = scores > smallest, scores == smallest
        room = keep - above.sum(dim=1, keepdim=True)
        largest = above | (equal & (equal.cumsum(dim=1) <= room))
        row, latent = ((recomputed > 0) & largest).nonzero(as_tuple=True)
        others = ~torch.isin(found.token, short)
        token = torch.cat([found.token[others], short[row]])
        order = token.argsort(stable=True)
        return SparseLatents(
            token[order],
            torch.cat([found.latent[others], latent])[order],
            torch.cat([found.value[others], recomputed[row, latent]])[order],
            found.shape,
        )


def pre_latent_bounds(score: float | Tensor, norms: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """Return, per latent, the pre-latent at which its score reaches `score`; infinite for a latent of zero norm."""
    # Slightly lower, so that rounding of the quotient drops no entry.
    return torch.where(norms > 0, score / norms * (1 - 1e-5), torch.inf)


def round_down(values: Float[Tensor, " value"], dtype: torch.dtype) -> Float[Tensor, " value"]:
    """Round nonnegative `values` down to `dtype`."""
    rounded = values.to(dtype)
    too_high = rounded.to(values.dtype) > values
    return (rounded.view(_INTEGERS[dtype.itemsize]) - too_high.to(_INTEGERS[dtype.itemsize])).view(dtype)


def kth_largest(scores: Float[Tensor, " entry"], k: int, ranks: LatentRanks = ALONE) -> float:
    """Return the k-th largest of at least k scores; over several ranks, 0 if it is not positive."""
    if not ranks.alone:
        return kth_largest_over_ranks(scores, k, ranks)
    if scores.device.type == "cpu":
        # A partition is enough, and ten times as fast as torch's kthvalue.
        index = len(scores) - k
        return float(np.partition(scores.numpy(), index)[index])
    # On a GPU, torch's kthvalue uses a single thread block.
    return float(scores.topk(k, sorted=False).values.min())


def mask_largest_per_token(
    sparse_latents: SparseLatents, scores: Float[Tensor, " firing"], keep: int
) -> Bool[Tensor, " firing"]:
    """Return a mask of exactly the `keep` largest firings of each token (all if it has fewer); ties go to the lower latent."""
    first, token = sparse_latents.first_of_token[:-1], sparse_latents.token
    counts = sparse_latents.first_of_token.diff()
    widest = int(counts.max()) if len(counts) else 0
    if widest <= keep or keep == 0:
        return torch.full_like(token, keep > 0, dtype=torch.bool)
    padded = scores.new_full((len(counts), widest), -torch.inf)
    padded[token, torch.arange(len(token), device=token.device) - first[token]] = scores
    thresholds = padded.topk(keep, dim=1, sorted=False).values.amin(dim=1)[token]
    above, equal = scores > thresholds, scores == thresholds
    room = keep - torch.bincount(token[above], minlength=len(counts))
    rank = torch.cat([room.new_zeros(1), equal.cumsum(0)])
    return above | (equal & (rank[1:] - rank[first[token]] <= room[token]))


def estimate_score_bound(
    pre_latents: PreLatents,
    norms: Float[Tensor, " latent"],
    entries_per_token: float,
    ranks: LatentRanks = ALONE,
) -> float:
    """Estimate, from a sample of tokens, the score that `entries_per_token` entries of a token exceed on average."""
    scores = _sampled_scores(pre_latents, norms).flatten()
    n_entries = ranks.count(len(scores))
    rank = min(math.ceil(entries_per_token * min(SAMPLED_TOKENS, pre_latents.n_tokens)), n_entries)
    return max(0.0, kth_largest(scores, rank, ranks)) if rank else 0.0


def _score_bound_of_every_token(
    pre_latents: PreLatents, norms: Float[Tensor, " latent"], keep: int, ranks: LatentRanks
) -> float:
    """Estimate, from a sample of tokens, the score that `keep` entries exceed on nearly every token."""
    scores = _sampled_scores(pre_latents, norms)
    if not keep or not len(scores):
        return 0.0
    smallest = (
        scores.topk(keep, dim=1).values[:, -1]
        if ranks.alone
        else kth_largest_of_rows_over_ranks(scores, keep, ranks)
    )
    # A token with fewer positive scores is searched on its own. One such token in the sample must not open the search for all others.
    positive = smallest[smallest > 0]
    return float(positive.min()) if len(positive) else 0.0


def _sampled_scores(pre_latents: PreLatents, norms: Float[Tensor, " latent"]) -> Float[Tensor, "row latent"]:
    sampled = min(SAMPLED_TOKENS, pre_latents.n_tokens)
    tokens = torch.arange(sampled, device=norms.device) * pre_latents.n_tokens // max(1, sampled)
    return pre_latents.for_tokens(tokens) * norms
