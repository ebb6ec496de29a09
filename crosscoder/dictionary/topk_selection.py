"""Which entries of a code fire, found without holding the code: the encoder runs block by block of latents, and of each
block only the entries above a bound are kept.

The bound decides what is looked at, never what is chosen: `BatchSelection` and `TokenSelection` keep exactly the largest
scores, and where the bound left too few entries they look again below it. So an interrupted training, which goes on with
another bound, chooses the same.
"""

import math
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from .sparse_latents import SparseLatents, gpu_kernels

# Bytes of one block of pre-latents. On a CPU it should stay in the cache until its entries are found; elsewhere fewer,
# larger blocks keep the device busy.
_BLOCK_BYTES = {"cpu": 4 << 20}
_BLOCK_BYTES_ELSEWHERE = 1 << 30

# Tokens that a first bound is estimated from, and how many more entries than wanted it should leave.
SAMPLED_TOKENS = 64
SURPLUS = 1.3

# The next bound, as a share of what the last thresholds lead one to expect. Looking again below a bound costs a whole encoder
# product, a bound that is a little low costs a few more entries: so the share falls fast and rises slowly.
_MARGINS = (0.7, 0.95)
_MARGIN_FALLS, _MARGIN_RISES = 0.1, 0.005

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def block_bytes(device: torch.device, whole: int) -> int:
    """How much of the pre-latents, of which there are `whole` bytes, is there at once."""
    return min(whole, _BLOCK_BYTES.get(device.type, _BLOCK_BYTES_ELSEWHERE))


class Entries(NamedTuple):
    """Entries of a code in the order of their latents, and of their tokens within a latent."""

    latent: Int64[Tensor, " entry"]
    token: Int64[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    """Pre-latents, in the precision of the dictionary."""

    def where(self, chosen: Bool[Tensor, " entry"]) -> Self:
        """Those that are chosen."""
        return type(self)(self.latent[chosen], self.token[chosen], self.value[chosen])

    def sparse_latents(self, pre_latents: "PreLatents") -> SparseLatents:
        """The same in the order of their tokens."""
        shape = pre_latents.n_tokens, pre_latents.n_latents
        return SparseLatents.ordered(self.token, self.latent, self.value, shape)


class PreLatents:
    """x' W_enc + b_enc of some tokens, computed block by block and never held at once."""

    def __init__(
        self,
        W_enc: Float[Tensor, "width latent"],
        b_enc: Float[Tensor, " latent"],
        normalized: Float[Tensor, "token width"],
    ) -> None:
        """The products run in the precision of `normalized`; entries come in that of the weights."""
        self.rows, self.bias, self.normalized = W_enc.detach().T, b_enc.detach(), normalized
        self.n_tokens, self.n_latents = len(normalized), len(b_enc)

    @torch.no_grad()
    def above(self, bounds: Float[Tensor, " latent"]) -> Entries:
        """All entries above the bound of their latent; bounds are zero or positive."""
        dtype = self.normalized.dtype
        limits = round_down(bounds, dtype)
        latent_bytes = max(1, self.n_tokens * dtype.itemsize)
        whole = self.n_latents * latent_bytes
        block_latents = max(16, block_bytes(self.normalized.device, whole) // latent_bytes)
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
    def of_tokens(self, tokens: Int64[Tensor, " row"]) -> Float[Tensor, "row latent"]:
        """All pre-latents of a few tokens, in the precision of the weights: for a few, a cast of all weights costs more."""
        return torch.addmm(self.bias, self.normalized[tokens].to(self.bias.dtype), self.rows.T)


def _above(
    block: Float[Tensor, "row column"], limits: Float[Tensor, " row"]
) -> tuple[Int64[Tensor, " entry"], Float[Tensor, " entry"]]:
    """Places in the block, row after row, and values of all entries above the limit of their row, which is at least zero."""
    kernels = gpu_kernels(block)
    if kernels is not None:
        return kernels.above(block, limits)
    # Floats of at least zero are ordered as their bits are, and integers compare faster.
    integers = _INTEGERS[block.dtype.itemsize]
    passing = block.view(integers) > limits.view(integers)[:, None]
    places = passing.view(-1).nonzero().squeeze(1)
    return places, block.view(-1)[places]


class BatchSelection:
    """Keeps the largest scores of a batch: the training rule of BatchTopK."""

    def __init__(self) -> None:
        self._bound = math.nan
        self._threshold = math.nan
        self._margin = 0.85

    def __call__(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"], keep: int) -> SparseLatents:
        """The `keep` largest positive scores (all of them, where there are fewer); of equal ones, those of the first latents."""
        keep = min(keep, pre_latents.n_tokens * pre_latents.n_latents)
        share = keep / max(1, pre_latents.n_tokens)
        bound = self._bound if self._bound >= 0 else exceeded_on_average(pre_latents, norms, share * SURPLUS)
        surplus = SURPLUS
        while True:
            entries = pre_latents.above(bounds_of(bound, norms))
            scores = entries.value * norms[entries.latent]
            if len(scores) >= keep or bound == 0:
                break
            surplus *= 1.5
            self._margin = max(_MARGINS[0], self._margin - _MARGIN_FALLS)
            bound = min(bound * self._margin, exceeded_on_average(pre_latents, norms, share * surplus))
        if keep == 0:
            return entries.where(torch.zeros_like(scores, dtype=torch.bool)).sparse_latents(pre_latents)
        if len(scores) > keep:
            threshold = kth_largest(scores, keep)
            above, equal = scores > threshold, scores == threshold
            entries = entries.where(above | (equal & (equal.cumsum(0) <= keep - above.sum())))
            self._follow(threshold)
        return entries.sparse_latents(pre_latents)

    def _follow(self, threshold: float) -> None:
        """Expect the next threshold where the last two point, or a little lower."""
        trend = threshold / self._threshold if self._threshold > 0 else 1.0
        self._threshold = threshold
        self._bound = threshold * min(trend, 1.0) * self._margin
        self._margin = min(_MARGINS[1], self._margin + _MARGIN_RISES)


class TokenSelection:
    """Keeps the largest scores of every token: the rule of TopK."""

    def __call__(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"], keep: int) -> SparseLatents:
        """The `keep` largest positive scores of every token; of equal ones, those of the first latents."""
        keep = min(keep, pre_latents.n_latents)
        # From the tokens themselves, not from the batch before: tokens that are looked at again go through another
        # product, so here the bound can tip a rounding.
        bound = _exceeded_on_each(pre_latents, norms, keep)
        found = pre_latents.above(bounds_of(bound, norms)).sparse_latents(pre_latents)
        counts = found.first_of_token.diff()
        short = (counts < keep).nonzero().squeeze(1)
        if bound > 0 and len(short):
            found = self._look_again(found, short, pre_latents)
        chosen = largest_of_tokens(found, found.value * norms[found.latent], keep)
        return SparseLatents(found.token[chosen], found.latent[chosen], found.value[chosen], found.shape)

    def _look_again(
        self, found: SparseLatents, short: Int64[Tensor, " row"], pre_latents: PreLatents
    ) -> SparseLatents:
        """Replace the entries of some tokens by all their positive ones."""
        again = pre_latents.of_tokens(short)
        row, latent = (again > 0).nonzero(as_tuple=True)
        others = ~torch.isin(found.token, short)
        token = torch.cat([found.token[others], short[row]])
        order = token.argsort(stable=True)
        return SparseLatents(
            token[order],
            torch.cat([found.latent[others], latent])[order],
            torch.cat([found.value[others], again[row, latent]])[order],
            found.shape,
        )


def bounds_of(score: float | Tensor, norms: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """Pre-latents below which no score passes `score`; a latent that writes nothing passes never."""
    # A little lower, so that rounding of the quotient loses none.
    return torch.where(norms > 0, score / norms * (1 - 1e-5), torch.inf)


def round_down(values: Float[Tensor, " value"], dtype: torch.dtype) -> Float[Tensor, " value"]:
    """The largest numbers of `dtype` that are not above `values`, which are zero or positive."""
    rounded = values.to(dtype)
    too_high = rounded.to(values.dtype) > values
    return (rounded.view(_INTEGERS[dtype.itemsize]) - too_high.to(_INTEGERS[dtype.itemsize])).view(dtype)


def kth_largest(scores: Float[Tensor, " entry"], k: int) -> float:
    """The k-th largest of at least k scores."""
    if scores.device.type == "cpu":
        # Ten times as fast as torch's kthvalue, and a partition is all that is asked for.
        place = len(scores) - k
        return float(np.partition(scores.numpy(), place)[place])
    # torch's kthvalue runs on a single block of a GPU.
    return float(scores.topk(k, sorted=False).values.min())


def largest_of_tokens(
    sparse_latents: SparseLatents, scores: Float[Tensor, " firing"], keep: int
) -> Bool[Tensor, " firing"]:
    """Mark exactly the `keep` largest firings of each token (all, where it has fewer); of equal ones, those of the first latents."""
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


def exceeded_on_average(pre_latents: PreLatents, norms: Float[Tensor, " latent"], share: float) -> float:
    """The score that `share` entries of a token exceed on average, estimated from a few tokens."""
    scores = _sampled_scores(pre_latents, norms).flatten()
    rank = min(math.ceil(share * min(SAMPLED_TOKENS, pre_latents.n_tokens)), len(scores))
    return max(0.0, kth_largest(scores, rank)) if rank else 0.0


def _exceeded_on_each(pre_latents: PreLatents, norms: Float[Tensor, " latent"], keep: int) -> float:
    """The score that `keep` entries exceed on nearly every token, estimated from a few tokens."""
    scores = _sampled_scores(pre_latents, norms)
    if not keep or not len(scores):
        return 0.0
    return max(0.0, float(scores.topk(keep, dim=1).values[:, -1].min()))


def _sampled_scores(pre_latents: PreLatents, norms: Float[Tensor, " latent"]) -> Float[Tensor, "row latent"]:
    sampled = min(SAMPLED_TOKENS, pre_latents.n_tokens)
    tokens = torch.arange(sampled, device=norms.device) * pre_latents.n_tokens // max(1, sampled)
    return pre_latents.of_tokens(tokens) * norms
