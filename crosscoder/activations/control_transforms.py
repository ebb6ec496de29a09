"""Transforms of a batch that make the tokens of a control, so that controls need no harvest of their own.

    ReducedPrecision  the reference, and the reference rounded to fewer bits: nothing changed but the last digits
    ShuffledTokens    the intervened model's activations of different tokens: nothing is shared
    MixedDifference   a difference with the same covariance but no sparse structure: a diff-SAE has nothing to find
    WithoutSnapshots  reference and intervened model only: the input of the other transforms

`null_pair.NullPair` is another transform. All but ReducedPrecision and WithoutSnapshots exchange tokens within a batch, so they need
batches of unrelated tokens: shuffled, or from several documents.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from .batch import ActivationBatch, ActivationReader, join_models, split_models

_MANTISSA_BITS = 5
"""Mantissa bits of `ReducedPrecision`; bfloat16 has 7."""

_TOKENS_PER_SUM = 64
"""Tokens in each sum of `mixed_over_tokens`: enough that the sums are nearly normal."""


@runtime_checkable
class Transform(Protocol):
    """Makes a batch of a control from a batch of the real pair."""

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token transformed"]:
        """Return the batch of the control, in the precision of `values`."""
        ...

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """Return the d_model of each model of the control."""
        ...


class WithoutSnapshots:
    """Reference and intervened model of a pair with snapshots."""

    def __init__(self, d_models: Sequence[int]) -> None:
        self._width = sum(d_models[:2])

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token transformed"]:
        """See `Transform.apply`."""
        return values[:, : self._width]

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return tuple(d_models[:2])


class ReducedPrecision:
    """The identity pair: the reference, and the reference rounded to a mantissa of five bits. Exactly equal models would stay equal
    in training whatever the pipeline does, and would test nothing."""

    def __init__(self, d_models: Sequence[int]) -> None:
        self._d_models = tuple(d_models)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token transformed"]:
        """See `Transform.apply`."""
        reference = split_models(values, self._d_models)[0]
        mantissa, exponent = torch.frexp(reference.float())
        coarse = torch.ldexp((mantissa * 2**_MANTISSA_BITS).round(), exponent - _MANTISSA_BITS)
        return join_models([reference, coarse.to(reference.dtype)])

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return (d_models[0], d_models[0])


class ShuffledTokens:
    """The positive control: each token of the reference paired with the intervened model's token half a batch away."""

    def __init__(self, d_models: Sequence[int]) -> None:
        self._d_models = tuple(d_models)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token transformed"]:
        """See `Transform.apply`."""
        reference, *others = split_models(values, self._d_models)
        return join_models([reference, *(other.roll(len(values) // 2, dims=0) for other in others)])

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return tuple(d_models)


class MixedDifference:
    """The null of a diff-SAE: intervened - reference is replaced by randomly weighted sums over tokens.

    The difference keeps its mean and covariance, but a sum of many sparse activations is not sparse.
    """

    def __init__(self, d_models: Sequence[int]) -> None:
        self._d_models = tuple(d_models)

    def apply(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token transformed"]:
        """See `Transform.apply`."""
        reference, intervened = (part.float() for part in split_models(values, self._d_models))
        mixed = mixed_over_tokens(intervened - reference)
        return join_models([reference, reference + mixed]).to(values.dtype)

    def widths(self, d_models: Sequence[int]) -> tuple[int, ...]:
        """See `Transform.widths`."""
        return tuple(d_models)


def mixed_over_tokens(values: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    """Replace every token by a randomly weighted sum over tokens, which keeps mean and covariance.

    The weights form an orthogonal matrix that preserves the mean of a block of tokens. Sums over many tokens are nearly
    normal for any distribution of tokens.
    """
    mixed = torch.empty_like(values)
    # Consecutive tokens are from one document and similar, so each sum takes tokens that are far apart.
    n_blocks = -(-len(values) // _TOKENS_PER_SUM)
    for first in range(n_blocks):
        block = torch.arange(first, len(values), n_blocks)
        mixed[block] = mean_keeping_rotation(len(block)).to(values) @ values[block]
    return mixed


@lru_cache(maxsize=8)
def mean_keeping_rotation(size: int) -> Float[Tensor, "size size"]:
    """Return a random orthogonal matrix that maps the vector of ones to itself; the same for every call."""
    generator = torch.Generator().manual_seed(size)
    basis = torch.randn(size, size, generator=generator, dtype=torch.float64)
    basis[:, 0] = 1
    basis = torch.linalg.qr(basis).Q
    rotation = torch.eye(size, dtype=torch.float64)
    if size > 1:
        random = torch.randn(size - 1, size - 1, generator=generator, dtype=torch.float64)
        rotation[1:, 1:] = torch.linalg.qr(random).Q
    return (basis @ rotation @ basis.T).float()


class TransformedReader:
    """`ActivationReader` that applies a transform to another reader."""

    def __init__(self, reader: ActivationReader, transform: Transform) -> None:
        self.d_models, self.n_tokens = transform.widths(reader.d_models), reader.n_tokens
        self._reader, self._transform = reader, transform

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        """See `ActivationReader.documents`."""
        return self._reader.documents

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """See `ActivationReader.gather`."""
        batch = self._reader.gather(rows)
        return batch._replace(values=self._transform.apply(batch.values))

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """See `ActivationReader.batches`."""
        for batch in self._reader.batches(size):
            yield batch._replace(values=self._transform.apply(batch.values))
