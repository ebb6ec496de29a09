"""Streamed blocks that all ranks compute together, while each trains a dictionary of its own on them.

A block is a list of batches of documents. Each rank runs the models on every n-th batch of it, and all receive all rows, in the order that
one process computes them in; so the tokens of a training do not depend on the number of ranks, and each block is computed once.

The ranks go from block to block together. Before each, they say whether they still need one: one whose dictionary is trained, or that has
none, goes on computing its share for the others (`finish`).
"""

from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.runtime.process_group import ProcessGroup

from .extraction import Batch

Block = tuple[int, int, Float[Tensor, "token width"]]
"""The number of the pass, that of the block in it, and the rows of the block."""

Plan = Callable[[int, int], Iterator[tuple[int, int, list[Batch]]]]
"""Gives the blocks as batches, without end, from a block of a pass on."""


class SharedBlocks:
    """The blocks of one stream, in their order. Every rank makes the same calls: `follow` at most once, then `finish`, and again."""

    def __init__(
        self,
        group: ProcessGroup,
        plan: Plan,
        extract: Callable[[Batch], Float[Tensor, "token width"]],
        width: int,
        dtype: torch.dtype,
    ) -> None:
        """`extract` computes the rows of a batch, which have this width and this precision."""
        self._group, self._plan, self._extract = group, plan, extract
        self._width, self._dtype = width, dtype
        self._upcoming: Iterator[tuple[int, int, list[Batch]]] | None = None

    def follow(self, pass_index: int, block: int) -> Generator[Block, None, None]:
        """Yield the blocks from this one on. They begin with the first that any rank needs; a rank that needs later ones helps with those
        before."""
        self._begin((pass_index, block))
        while (found := self._next(needed=True)) is not None:
            if found[:2] >= (pass_index, block):
                yield found

    def finish(self) -> None:
        """Compute the share of this rank until no rank needs a block any more."""
        if self._upcoming is None:
            self._begin(None)
        while self._next(needed=False) is not None:
            pass
        self._upcoming = None

    def _begin(self, first: tuple[int, int] | None) -> None:
        """Agree on the first block. `first`: that of this rank, if it needs any."""
        needed = [tuple(one) for one in self._group.gather(first) if one is not None]
        self._upcoming = self._plan(*min(needed)) if needed else iter(())

    def _next(self, needed: bool) -> Block | None:
        """Compute the next block with all ranks; None if no rank needs one."""
        assert self._upcoming is not None
        if not any(self._group.gather(needed)):
            return None
        pass_index, block, batches = next(self._upcoming)
        return pass_index, block, self._rows(batches)

    def _rows(self, batches: Sequence[Batch]) -> Float[Tensor, "token width"]:
        """Return the rows of all batches, of which this rank computes its share."""
        rank, size = self._group.rank, self._group.size
        computed = [self._extract(batch).cpu() for batch in batches[rank::size]]
        lengths = self._group.gather([len(rows) for rows in computed])
        in_order = [lengths[number % size][number // size] for number in range(len(batches))]
        buffer = torch.empty(sum(in_order), self._width, dtype=self._dtype)
        places = buffer.split(in_order)
        for source in range(size):
            rows = torch.empty(sum(lengths[source]), self._width, dtype=self._dtype)
            if source == rank and computed:
                torch.cat(computed, out=rows)
            self._group.broadcast_tensor(rows, source)
            for place, found in zip(places[source::size], rows.split(lengths[source]), strict=True):
                place.copy_(found)
        return buffer
