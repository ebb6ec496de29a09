"""Latents of one dictionary divided over processes: rank r holds a contiguous range, and sums over latents are completed by an all-reduce.

What a step needs of the other ranks is here: `total` completes a sum that gradients pass through, such as the reconstruction;
`sum`, `count` and `gathered` complete counts and measurements. One process alone, `ALONE`, holds all latents: nothing is sent and every
method returns what it is given, so that a step is written once.

Every process has to call the same methods in the same order. In a training all do so of themselves. Before and after it, rank 0 alone knows
what comes, and lets the others `join` it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed

from ..runtime.parts import Part
from ..runtime.process_group import ProcessGroup


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

    def range_of(self, n_latents: int, rank: int | None = None) -> range:
        """Return the latents, of all `n_latents`, that a rank holds; without `rank`, this one."""
        return Part(1 + (self.rank if rank is None else rank), self.size).range_of(n_latents)

    def total(self, partial: Float[Tensor, "*entry"]) -> Float[Tensor, "*entry"]:
        """Return the sum over ranks, at least in float32. The gradient of `partial` is that of the sum, which every rank computes."""
        return partial

    def sum(self, values: Shaped[Tensor, "*entry"]) -> Shaped[Tensor, "*entry"]:
        """Return the sum over ranks, without a gradient."""
        return values

    def gathered(self, rows: Shaped[Tensor, "row ..."]) -> Shaped[Tensor, "all_rows ..."]:
        """Return the rows of all ranks, in the order of the ranks. Their number may differ."""
        return rows

    def from_rank(self, source: int, values: Shaped[Tensor, "*entry"]) -> Shaped[Tensor, "*entry"]:
        """Return the values of one rank. Those of the others give shape, precision and device."""
        return values

    def count(self, count: int) -> int:
        """Return the sum of a number over ranks."""
        return count

    def any(self, found: bool) -> bool:
        """Whether it is so on any rank."""
        return self.count(int(found)) > 0

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.count(0)

    def join(self, name: str, **told: Any) -> None:
        """On rank 0, outside of `together`: let the others do the same work, which this names, with what JSON can hold."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """A piece of work in which all ranks know of themselves what comes next."""
        yield


ALONE = LatentRanks()
"""One process without others."""


class GroupRanks(LatentRanks):
    """A process among the others of its group."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group, self._together = group, False
        self.rank, self.size = group.rank, group.size
        self.sent = 0
        """Bytes that this process has sent: an all-reduce counted as that of a ring, 2 (size - 1) / size of its bytes."""
        self.calls = 0
        """Exchanges so far."""

    def total(self, partial: Float[Tensor, "*entry"]) -> Float[Tensor, "*entry"]:
        return cast(Tensor, _Total.apply(partial, self))

    def sum(self, values: Shaped[Tensor, "*entry"]) -> Shaped[Tensor, "*entry"]:
        summed = values.detach().clone(memory_format=torch.contiguous_format)
        with self._others():
            distributed.all_reduce(summed)
        self.sent += 2 * (self.size - 1) * summed.nbytes // self.size
        return summed

    def gathered(self, rows: Shaped[Tensor, "row ..."]) -> Shaped[Tensor, "all_rows ..."]:
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(rows)
        lengths = self.sum(lengths).tolist()
        # Of equal length, as the backends ask.
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in lengths]
        with self._others():
            distributed.all_gather(found, padded)
        self.sent += (self.size - 1) * padded.nbytes
        return torch.cat([part[:length] for part, length in zip(found, lengths, strict=True)])

    def from_rank(self, source: int, values: Shaped[Tensor, "*entry"]) -> Shaped[Tensor, "*entry"]:
        own = self.rank == source
        found = (
            values.detach().contiguous()
            if own
            else torch.empty_like(values, memory_format=torch.contiguous_format)
        )
        with self._others():
            # As bytes, since gloo does not know every precision.
            distributed.broadcast(found.view(-1).view(torch.uint8), source)
        self.sent += found.nbytes if own else 0
        return found

    def count(self, count: int) -> int:
        # In main memory, so that no device is waited for.
        return int(self.sum(torch.tensor(count)))

    def join(self, name: str, **told: Any) -> None:
        if self.leads and not self._together:
            self._group.broadcast({"name": name, **told})

    @contextmanager
    def together(self) -> Iterator[None]:
        before, self._together = self._together, True
        try:
            yield
        finally:
            self._together = before

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Count an exchange, and say in one line that the others are gone, where they are."""
        self.calls += 1
        with self._group.complaint():
            yield


class _Total(torch.autograd.Function):
    """Sum over ranks. Every rank computes the same loss from it, so the gradient of the sum is that of every part."""

    @staticmethod
    def forward(ctx, partial: Tensor, ranks: GroupRanks) -> Tensor:
        ctx.dtype = partial.dtype
        return ranks.sum(partial.to(torch.promote_types(partial.dtype, torch.float32)))

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient.to(ctx.dtype), None
