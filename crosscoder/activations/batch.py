"""Batches of activations of all models on the same tokens, and the interface to read them.

The models are concatenated in one tensor `[token, width]`, reference first, so that one product encodes all of them and
models of different width need no special case.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ..errors import DataError


class ActivationBatch(NamedTuple):
    """Activations of a batch of tokens, with the document and position of each token."""

    values: Float[Tensor, "token width"]
    """Activations of all models, concatenated."""

    document: Int[Tensor, " token"]
    """Document index of each token."""

    position: Int[Tensor, " token"]
    """Position of each token in its document."""


@runtime_checkable
class ActivationReader(Protocol):
    """Stored activations with random access, and with sequential access in stored order."""

    d_models: tuple[int, ...]
    """d_model of each model."""

    n_tokens: int
    """Number of tokens."""

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        """Document of each token, in stored order."""
        ...

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """Read the given rows, in the given order."""
        ...

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """Yield all rows in stored order, `size` at a time; the tokens of a document are contiguous."""
        ...


def have_difference(d_models: Sequence[int]) -> bool:
    """Whether reference and intervened model have equal width, so that intervened - reference is defined."""
    return len(d_models) >= 2 and d_models[0] == d_models[1]


def have_equal_width(d_models: Sequence[int]) -> bool:
    """Whether there are two or more models, all of equal width, so that the difference of any two is defined."""
    return len(d_models) >= 2 and len(set(d_models)) == 1


def join_models(activations: Tensor | Sequence[Tensor]) -> Float[Tensor, "token width"]:
    """Concatenate the models: from `[token, model, d_model]`, or from one `[token, d_model]` per model.

    A tensor `[token, width]` is returned unchanged.

    Raises:
        DataError: There is no token axis.
    """
    if isinstance(activations, Tensor):
        if activations.ndim < 2:
            raise DataError(
                f"activations: shape {tuple(activations.shape)} has no token axis; give [token, model, d_model], "
                "or [token, width] with all models concatenated"
            )
        return activations if activations.ndim == 2 else activations.flatten(start_dim=1)
    return torch.cat(list(activations), dim=1)


def split_models(
    values: Float[Tensor, "row width"], d_models: Sequence[int]
) -> tuple[Float[Tensor, "row _"], ...]:
    """Return one view `[row, d_model]` per model."""
    return values.split(list(d_models), dim=1)
