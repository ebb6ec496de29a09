"""Further passes over the held-out tokens, each of which sums something: the same sums by one process and by several.

A pass is a class of sums (`HeldOutSums`). It begins from the held-out tokens and from tensors that earlier stages computed, so any process can
begin it. The tokens are read in groups of blocks of documents (`block_groups`), one process alone included, and sums that no block keeps apart
are added in the order of groups (`ordered_sums`). What is kept for each block can be added in any order: all other processes add 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, ActivationReader
from crosscoder.config import RunConfig, store_settings

from .block_groups import BlockGroup, batches_of, block_groups
from .dictionary_view import DictionaryView
from .held_out_pass import batch_tokens_for
from .token_context import TokenContext

Inputs = Mapping[str, Tensor]
"""What a pass begins from, by name, in main memory."""


class HeldOut(NamedTuple):
    """The held-out tokens of a run, as its dictionary sees them."""

    view: DictionaryView
    reader: ActivationReader
    context: TokenContext
    config: RunConfig


class HeldOutSums(ABC):
    """What a pass sums."""

    N_CLASSES: ClassVar[int | None]
    """Of how many classes no group has tokens of two; block b belongs to class b modulo this number. None: groups are as for the main pass."""

    @classmethod
    @abstractmethod
    def begin(cls, held_out: HeldOut, inputs: Inputs) -> Self:
        """Return the sums before the first token."""

    @abstractmethod
    def update(self, batch: ActivationBatch, rows: Int64[np.ndarray, " token"]) -> None:
        """Add a batch of the current group. `rows`: its rows in the reader."""

    @abstractmethod
    def end_group(self, number: int) -> None:
        """End the current group."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything that was read as named tensors, for `join` in another process."""

    @abstractmethod
    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the groups that another process read, none of which this one did."""


Sums = TypeVar("Sums", bound=HeldOutSums)


@runtime_checkable
class ReadSums(Protocol):
    """Makes a pass over the held-out tokens: `read_sums`, or several processes together (`analysis.rank_work`)."""

    def __call__(self, kind: type[Sums], held_out: HeldOut, inputs: Inputs) -> Sums:
        """Return the sums over all tokens."""
        ...


def read_sums(kind: type[Sums], held_out: HeldOut, inputs: Inputs) -> Sums:
    """Make a pass over the held-out tokens in one process."""
    groups = groups_of(kind, held_out)
    return read_groups(kind, held_out, inputs, groups, range(len(groups)))


def groups_of(kind: type[HeldOutSums], held_out: HeldOut) -> list[BlockGroup]:
    """Return the groups in which a pass reads the tokens."""
    settings = held_out.config.analysis
    # At a URL, the documents of any block are in all shards.
    in_order = store_settings(held_out.config.activations) is not None
    return block_groups(
        held_out.reader,
        settings.bootstrap_blocks,
        held_out.config.seed,
        batch_tokens_for(held_out.view),
        in_order=in_order,
        n_classes=kind.N_CLASSES,
    )


def read_groups(
    kind: type[Sums], held_out: HeldOut, inputs: Inputs, groups: list[BlockGroup], numbers: Iterable[int]
) -> Sums:
    """Return the sums over some of the groups."""
    sums = kind.begin(held_out, inputs)
    for number in numbers:
        start = 0
        for batch in batches_of(held_out.reader, groups[number], batch_tokens_for(held_out.view)):
            end = start + len(batch.values)
            sums.update(batch, groups[number].rows[start:end])
            start = end
        sums.end_group(groups[number].number)
    return sums
