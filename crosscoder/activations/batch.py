"""Activations of all models on the same tokens, and the small interface through which they are read.

The models lie side by side in one tensor `[token, width]`, reference first, so that one product encodes both and
models of different width need no special case.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError


class ActivationBatch(NamedTuple):
    """Some tokens, with where each came from."""

    values: Float[Tensor, "token width"]
    """Activations of all models side by side."""

    document: Int[Tensor, " token"]
    """Index of the document each token belongs to."""

    position: Int[Tensor, " token"]
    """Position of each token in its document."""


@runtime_checkable
class ActivationReader(Protocol):
    """Activations that can be read in any order, or through in the order they are stored."""

    d_models: tuple[int, ...]
    """Width of each model."""

    n_tokens: int
    """Number of tokens."""

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """The given rows, in the given order."""
        ...

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """All rows in stored order, `size` at a time; the tokens of a document are contiguous."""
        ...


def have_difference(d_models: Sequence[int]) -> bool:
    """Whether the first two models, reference and intervened, are of equal width, so that intervened - reference exists."""
    return len(d_models) >= 2 and d_models[0] == d_models[1]


def share_space(d_models: Sequence[int]) -> bool:
    """Whether there are several models, all of equal width, so that any two have a difference."""
    return len(d_models) >= 2 and len(set(d_models)) == 1


def join_models(activations: Tensor | Sequence[Tensor]) -> Float[Tensor, "token width"]:
    """Lay the models side by side: from `[token, model, d_model]`, or from one `[token, d_model]` for each model.

    A tensor `[token, width]` passes unchanged. Raises `DataError` where the axis of tokens is missing.
    """
    if isinstance(activations, Tensor):
        if activations.ndim < 2:
            raise DataError(
                f"activations: shape {tuple(activations.shape)} has no axis of tokens; give [token, model, d_model], "
                "or [token, width] with all models side by side"
            )
        return activations if activations.ndim == 2 else activations.flatten(start_dim=1)
    return torch.cat(list(activations), dim=1)


def split_models(
    values: Float[Tensor, "row width"], d_models: Sequence[int]
) -> tuple[Float[Tensor, "row _"], ...]:
    """Views `[row, d_model]`, one for each model."""
    return values.split(list(d_models), dim=1)
