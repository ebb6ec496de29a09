"""Latents of one dictionary divided over processes: rank r holds a contiguous range, and sums over latents are completed by an all-reduce.

What a step needs of the other ranks is here: `total` completes a sum that gradients pass through, such as the reconstruction;
`sum`, `count` and `gathered` complete counts and measurements. One process alone, `ALONE`, holds all latents: nothing is sent and every
method returns what it is given, so that a step is written once.

Every process has to call the same methods in the same order.
"""

from typing import cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from ..runtime.parts import Part


class LatentRanks:
    """The only process of its dictionary."""

    rank = 0
    size = 1

    @property
    def alone(self) -> bool:
        """Whether this process holds all latents."""
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def range_of(self, n_latents: int) -> range:
        """Return the latents that this process holds, of all `n_latents`."""
        return Part(self.rank + 1, self.size).range_of(n_latents)

    def total(self, partial: Float[Tensor, "*entry"]) -> Float[Tensor, "*entry"]:
        """Return the sum over ranks, at least in float32. The gradient of `partial` is that of the sum, which every rank computes."""
        return partial

    def sum(self, values: Shaped[Tensor, "*entry"]) -> Shaped[Tensor, "*entry"]:
        """Return the sum over ranks, without a gradient."""
        return values

    def gathered(self, rows: Shaped[Tensor, "row *entry"]) -> Shaped[Tensor, "all *entry"]:
        """Return the rows of all ranks, in the order of the ranks. Their number may differ."""
        return rows

    def count(self, count: int) -> int:
        """Return the sum of a number over ranks."""
        return count

    def any(self, found: bool) -> bool:
        """Whether it is so on any rank."""
        return self.count(int(found)) > 0

    def of_leader(self, number: int) -> int:
        """Return the number of rank 0."""
        return self.count(number if self.leads else 0)


ALONE = LatentRanks()
"""One process without others."""


class GroupRanks(LatentRanks):
    """A process among others of a torch process group."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """Without `group`, all processes of the launcher."""
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.sent = 0
        """Bytes that this process has sent: of an all-reduce as of a ring, 2 (size - 1) / size of its bytes."""

    def total(self, partial: Float[Tensor, "*entry"]) -> Float[Tensor, "*entry"]:
        return cast(Tensor, _Total.apply(partial, self))

    @torch.no_grad()
    def sum(self, values: Shaped[Tensor, "*entry"]) -> Shaped[Tensor, "*entry"]:
        summed = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=self.group)
        self.sent += 2 * (self.size - 1) * summed.nbytes // self.size
        return summed

    @torch.no_grad()
    def gathered(self, rows: Shaped[Tensor, "row *entry"]) -> Shaped[Tensor, "all *entry"]:
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(rows)
        lengths = self.sum(lengths).tolist()
        # Of equal length, as the backends ask.
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(found, padded, group=self.group)
        self.sent += (self.size - 1) * padded.nbytes
        return torch.cat([part[:length] for part, length in zip(found, lengths, strict=True)])

    def count(self, count: int) -> int:
        # In main memory, so that no device is waited for.
        return int(self.sum(torch.tensor(count)))


class _Total(torch.autograd.Function):
    """Sum over ranks. Every rank computes the same loss from it, so the gradient of the sum is that of every part."""

    @staticmethod
    def forward(ctx, partial: Tensor, ranks: GroupRanks) -> Tensor:
        ctx.dtype = partial.dtype
        wide = torch.promote_types(partial.dtype, torch.float32)
        return ranks.sum(partial.to(wide))

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient.to(ctx.dtype), None
