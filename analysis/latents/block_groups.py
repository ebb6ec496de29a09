"""The held-out tokens in groups of bootstrap blocks: what one process reads at a time, alone or as one of several.

The groups follow from the tokens and the size of batches alone, never from the number of processes, and no batch has tokens of two groups. So
whatever a process computes of a group is the same bits everywhere. A group holds several batches, so that few of them are not full, and a small
run is one group, which is read in stored order.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from crosscoder.activations.batch import ActivationBatch, ActivationReader

from .hashing import block_of

_BATCHES = 4
"""Full batches in a group, at least on average: one more that is not full then costs little."""

_GROUPS = 32
"""Groups at most: `OrderedSums` of one of several processes hold 8 d_model² bytes for each (`mean_difference`)."""


class BlockGroup(NamedTuple):
    """The tokens of some blocks of documents."""

    number: int
    rows: Int64[np.ndarray, " token"]
    """Their rows in the reader, in stored order."""


def block_groups(
    reader: ActivationReader,
    n_blocks: int,
    seed: int,
    batch_tokens: int,
    *,
    in_order: bool = False,
    n_classes: int | None = None,
) -> list[BlockGroup]:
    """Return the groups of all tokens, none of them empty. The blocks are those of `block_of`.

    Args:
        in_order: Make one group, because tokens out of stored order would take long to read.
        n_classes: Make one group of each class of blocks, b modulo this number, for sums that are kept for each class and are large. None: the
            blocks of a group have consecutive numbers.
    """
    n_groups = min(n_blocks, _GROUPS, reader.n_tokens // (_BATCHES * batch_tokens))
    if in_order or n_groups <= 1:
        return [BlockGroup(0, np.arange(reader.n_tokens))]
    block = block_of(reader.documents, n_blocks, seed)
    if n_classes is None:
        group = block * n_groups // n_blocks
    else:
        group, n_groups = block % n_classes, n_classes
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(group, minlength=n_groups))[:-1])
    return [BlockGroup(number, rows) for number, rows in enumerate(part for part in parts if len(part))]


def batches_of(reader: ActivationReader, group: BlockGroup, size: int) -> Iterator[ActivationBatch]:
    """Yield the tokens of a group, `size` at a time."""
    if len(group.rows) == reader.n_tokens:
        yield from reader.batches(size)
        return
    for rows in torch.from_numpy(group.rows).split(size):
        yield reader.gather(rows)
