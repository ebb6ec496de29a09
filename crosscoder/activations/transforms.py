"""Other pairs made from the tokens of a pair, for dictionaries whose answer is known (`controls`): what stands here is a function
of a batch, so that they need no activations of their own.

    Coarser    the reference, and the same in coarser numbers: nothing changed but the last digits
    Shuffled   the intervened model's activations of other tokens: nothing is shared
    Mixed      a difference of the same covariance without sparse structure: nothing for a diff-SAE to find
    Ends       reference and intervened model alone, without the snapshots between them: what the others start from

`drift.NullPair` is one more. But for Coarser and Ends they exchange tokens within a batch, so they want batches of unrelated tokens: shuffled
ones, or of several documents.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .batch import ActivationBatch, ActivationReader, join_models, split_models

_MANTISSA = 5
"""Bits of the coarser numbers; bfloat16 has 7."""

_MIXED = 64
"""Tokens that a mixed token is a sum of: enough that the sums are nearly normal."""


@runtime_checkable
class Transform(Protocol):
    """Makes a batch of another pair from a batch of a pair, both models side by side."""

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token changed"]:
        """The batch of the other pair, in the precision of `values`."""
        ...

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """Of the models of the other pair."""
        ...


class Ends:
    """The two ends of a pair with snapshots."""

    def __init__(self, d_models: Sequence[int]) -> None:
        self._width = sum(d_models[:2])

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token changed"]:
        """See `Transform.apply`."""
        return values[:, : self._width]

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return tuple(d_models[:2])


class Coarser:
    """The identity pair: the reference on both sides, on one in numbers of five bits. Exactly equal sides would stay so in
    training whatever the pipeline does with them, and would show nothing."""

    def __init__(self, d_models: Sequence[int]) -> None:
        self._d_models = tuple(d_models)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token changed"]:
        """See `Transform.apply`."""
        reference = split_models(values, self._d_models)[0]
        mantissa, exponent = torch.frexp(reference.float())
        coarse = torch.ldexp((mantissa * 2**_MANTISSA).round(), exponent - _MANTISSA)
        return join_models([reference, coarse.to(reference.dtype)])

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return (d_models[0], d_models[0])


class Shuffled:
    """The positive control: every token of the reference beside another one of the intervened model, half a batch away."""

    def __init__(self, d_models: Sequence[int]) -> None:
        self._d_models = tuple(d_models)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token changed"]:
        """See `Transform.apply`."""
        reference, *others = split_models(values, self._d_models)
        return join_models([reference, *(other.roll(len(values) // 2, dims=0) for other in others)])

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return tuple(d_models)


class Mixed:
    """The null of a diff-SAE: intervened - reference replaced by sums over tokens with random weights.

    The difference keeps its mean and its covariance; but a sum of many sparse activations is not sparse.
    """

    def __init__(self, d_models: Sequence[int]) -> None:
        self._d_models = tuple(d_models)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token changed"]:
        """See `Transform.apply`."""
        reference, intervened = (part.float() for part in split_models(values, self._d_models))
        mixed = mixed_over_tokens(intervened - reference)
        return join_models([reference, reference + mixed]).to(values.dtype)

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return tuple(d_models)


def mixed_over_tokens(values: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    """Every token replaced by a sum over some of them with random weights, which keeps mean and covariance.

    The weights are an orthogonal matrix that leaves the mean of a block of tokens as it is. Sums over many tokens are nearly
    normal, whatever the tokens are.
    """
    mixed = torch.empty_like(values)
    # Tokens that follow each other are of one document and much alike, so the sums are of tokens far apart.
    n_blocks = -(-len(values) // _MIXED)
    for first in range(n_blocks):
        block = torch.arange(first, len(values), n_blocks)
        mixed[block] = mean_keeping_rotation(len(block)).to(values) @ values[block]
    return mixed


@lru_cache(maxsize=8)
def mean_keeping_rotation(size: int) -> Float[Tensor, "size size"]:
    """A random orthogonal matrix that maps the vector of ones to itself; always the same one."""
    generator = torch.Generator().manual_seed(size)
    basis = torch.randn(size, size, generator=generator, dtype=torch.float64)
    basis[:, 0] = 1
    basis = torch.linalg.qr(basis).Q
    turned = torch.eye(size, dtype=torch.float64)
    if size > 1:
        random = torch.randn(size - 1, size - 1, generator=generator, dtype=torch.float64)
        turned[1:, 1:] = torch.linalg.qr(random).Q
    return (basis @ turned @ basis.T).float()


class TransformedReader:
    """Stored activations, seen as those of another pair."""

    def __init__(self, reader: ActivationReader, change: Transform) -> None:
        self.d_models, self.n_tokens = change.widths(reader.d_models), reader.n_tokens
        self._reader, self._change = reader, change

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """See `ActivationReader.gather`."""
        batch = self._reader.gather(rows)
        return batch._replace(values=self._change.apply(batch.values))

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """See `ActivationReader.batches`."""
        for batch in self._reader.batches(size):
            yield batch._replace(values=self._change.apply(batch.values))
