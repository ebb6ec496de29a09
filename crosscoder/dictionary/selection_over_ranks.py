"""Selection of the largest scores where each rank holds the scores of its own latents.

The k-th largest of all is found by radix select: positive floats order like their bit patterns, so from the highest byte down, ranks
add up how many scores have each value of the byte, and go on with those that share the byte of the k-th. That takes one all-reduce of
256 counts for each byte, whatever the number of scores. Ties at the k-th go to the lower latent, hence to the lower rank: one more exchange
of how many each rank has. The result is that of one process, bit for bit.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from .latent_ranks import LatentRanks

_DIGITS = 256
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Kth(NamedTuple):
    """The k-th largest score of each group."""

    bits: Int64[Tensor, " group"]
    """Its bit pattern; that of the smallest score where there are fewer than k."""

    ties: Int64[Tensor, " group"]
    """How many of the scores that equal it are among the k largest."""


class Largest(NamedTuple):
    """The largest scores of each group, of those on this rank."""

    mask: Bool[Tensor, " entry"]
    smallest: Float[Tensor, " group"]
    """The smallest that is kept on any rank."""


def largest_over_ranks(
    scores: Float[Tensor, " entry"],
    group: Int64[Tensor, " entry"] | None,
    n_groups: int,
    keep: int,
    ranks: LatentRanks,
) -> Largest:
    """Find the `keep` largest scores of each group over all ranks (all if there are fewer).

    Args:
        scores: Positive, sorted by group; ties go to the earlier entry, on the lower rank.
        group: Group of each entry, e.g. its token; None: there is one group.
    """
    if keep == 0:
        return Largest(torch.zeros_like(scores, dtype=torch.bool), scores.new_zeros(n_groups))
    bits, group = _bits(scores), _or_one_group(group, scores)
    kth = _kth_largest(scores, group, n_groups, keep, ranks)
    limit = kth.bits[group]
    above, equal = bits > limit, bits == limit
    ties = torch.bincount(group[equal], minlength=n_groups)
    earlier = ranks.gathered(ties[None].int())[: ranks.rank].sum(dim=0)
    # Number of the entry among the ties of its group and rank, from 1.
    place = torch.cat([equal.new_zeros(1, dtype=torch.int64), equal.cumsum(0)])
    first = torch.searchsorted(group, torch.arange(n_groups, device=group.device))
    number = place[1:] - place[first][group]
    mask = above | (equal & (number <= (kth.ties - earlier)[group]))
    return Largest(mask, _floats(kth.bits, scores.dtype))


def kth_largest_over_ranks(scores: Float[Tensor, " entry"], k: int, ranks: LatentRanks) -> float:
    """Return the k-th largest positive score of all ranks; 0 if there are fewer."""
    positive = scores[scores > 0]
    if ranks.count(len(positive)) < k:
        return 0.0
    group = _or_one_group(None, positive)
    return float(_floats(_kth_largest(positive, group, 1, k, ranks).bits, scores.dtype))


def kth_largest_of_rows_over_ranks(
    scores: Float[Tensor, "row latent"], k: int, ranks: LatentRanks
) -> Float[Tensor, " row"]:
    """Return the k-th largest positive score of each row over all ranks; 0 where there are fewer."""
    row, column = (scores > 0).nonzero(as_tuple=True)
    n_positive = ranks.sum(torch.bincount(row, minlength=len(scores)))
    kth = _kth_largest(scores[row, column], row, len(scores), k, ranks)
    return torch.where(n_positive >= k, _floats(kth.bits, scores.dtype), 0)


def _kth_largest(
    scores: Float[Tensor, " entry"],
    group: Int64[Tensor, " entry"],
    n_groups: int,
    k: int,
    ranks: LatentRanks,
) -> _Kth:
    """Find the k-th largest score of each group, one byte after another."""
    bits = _bits(scores)
    prefix = torch.zeros(n_groups, dtype=torch.int64, device=scores.device)
    missing = torch.full_like(prefix, k)
    for shift in range(8 * (scores.dtype.itemsize - 1), -1, -8):
        places = (group * _DIGITS + (bits >> shift) % _DIGITS)[bits >> shift + 8 == prefix[group]]
        counts = torch.bincount(places, minlength=n_groups * _DIGITS).view(n_groups, _DIGITS)
        # How many scores have this digit or a higher one, from the highest down. Those of a token fit into 32 bits.
        down = ranks.sum(counts if n_groups == 1 else counts.int()).flip(1).cumsum(1)
        missing = torch.minimum(missing, down[:, -1])
        rank = (down < missing[:, None]).sum(dim=1)
        before = torch.cat([down.new_zeros(n_groups, 1), down], dim=1).gather(1, rank[:, None])
        missing -= before.squeeze(1)
        prefix = prefix * _DIGITS + (_DIGITS - 1 - rank)
    return _Kth(prefix, missing)


def _or_one_group(group: Int64[Tensor, " entry"] | None, scores: Float[Tensor, " entry"]) -> Tensor:
    return torch.zeros_like(scores, dtype=torch.int64) if group is None else group


def _bits(scores: Float[Tensor, " entry"]) -> Int64[Tensor, " entry"]:
    """Bit patterns, which order like the scores, since these are positive."""
    return scores.detach().contiguous().view(_INTEGERS[scores.dtype.itemsize]).long()


def _floats(bits: Int64[Tensor, " group"], dtype: torch.dtype) -> Float[Tensor, " group"]:
    return bits.to(_INTEGERS[dtype.itemsize]).view(dtype)
