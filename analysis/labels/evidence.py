"""What is known of a latent when its label is decided: norms, directions, latent scaling, rates; of one latent, or of many at once."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

Columns = Mapping[str, np.ndarray]

Number: TypeAlias = Any
"""A float of one latent, or an array over any number of them."""


class Bounded(NamedTuple):
    """A number and its interval; NaN = not estimable."""

    value: Number
    low: Number
    high: Number

    @property
    def largest(self) -> Any:
        """Upper bound of its magnitude; NaN where a bound is missing."""
        # Their sum carries NaN on, which a maximum would not have to.
        return np.maximum(np.abs(self.low), np.abs(self.high)) + 0 * (self.low + self.high)


class Toward(NamedTuple):
    """Latent scaling toward one side: how much of this side's direction the other model holds."""

    nu_error: Bounded
    nu_reconstruction: Bounded
    own: Number
    """β of the error in this side's own model along its own direction: near 1 where the model holds what the row writes."""


_UNKNOWN: Bounded = Bounded(np.nan, np.nan, np.nan)


class Evidence(NamedTuple):
    """What is known of one latent, or of any number of them: then all arrays broadcast together. Norms in training space."""

    n_tokens: Number
    n_documents: Number
    norm_reference: Number
    norm_intervened: Number
    cosine: Number
    """Between the two decoder directions; NaN where one is zero or the models share no space."""
    new: Toward
    """Toward the intervened model."""
    lost: Toward
    """Toward the reference."""
    comparable: Any = True
    """Whether the models share one space, or a map leads across, so that directions and latent scaling are defined."""
    mapped: Any = False
    """Whether a fitted map leads from one model's space to the other's: that it is inexact cannot be told from a turn."""
    q_value: Any = np.nan
    """Of the change that the latent would be claimed to be; NaN where it was not computed."""
    twin_cosine: Any = np.nan
    """With the nearest direction that any latent writes into the model that it does not lean to, there; NaN where none does."""
    relative_rate: Bounded = _UNKNOWN
    """How often the intervened model holds the direction, as a share of how often either does; both latents counted. NaN where the two
    directions are not the same."""

    @property
    def to_new(self) -> Any:
        """Whether a latent leans to the intervened model."""
        return self.norm_intervened >= self.norm_reference

    def leaning(self, name: Literal["nu_error", "nu_reconstruction"]) -> Bounded:
        """One part of latent scaling, toward the side that each latent leans to."""
        sides = zip(getattr(self.new, name), getattr(self.lost, name), strict=True)
        return Bounded(*(np.where(self.to_new, new, lost) for new, lost in sides))

    def at(self, latent: int) -> "Evidence":
        """Of one latent among many."""
        return _picked(self, latent)


def _picked(part: Any, latent: int) -> Any:
    if isinstance(part, tuple):
        return type(part)(*(_picked(one, latent) for one in part))  # pyright: ignore[reportCallIssue]
    values = np.asarray(part)
    return values.item() if values.ndim == 0 else values[latent].item()


class RateEvidence(NamedTuple):
    """What is known of a latent, or of many, with one direction for both models and a code of each."""

    n_tokens: Number
    n_documents: Number
    rate_reference: Number
    """Share of the tokens on which it fires in the reference."""
    rate_intervened: Number
    relative_rate: Bounded
    """rate_intervened / (rate_reference + rate_intervened)."""

    def at(self, latent: int) -> "RateEvidence":
        """Of one latent among many."""
        return _picked(self, latent)


Bounds = Mapping[str, Bounded]
"""By the name of a statistic: for every latent its value and interval."""


def bounds_of(
    values: Mapping[str, Tensor], intervals: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Bounded]:
    """Values and intervals of statistics, as numpy holds them."""
    return {
        name: Bounded(value.numpy(), *(torch.as_tensor(bound).numpy() for bound in intervals[name]))
        for name, value in values.items()
    }


def evidence_of(
    columns: Columns, bounds: Bounds, agreement: float = 1.0, comparable: bool = True
) -> Evidence:
    """What is known of all latents, as one; q-values are not known yet. What was not measured is NaN.

    Args:
        agreement: The cosine with which directions are carried from one model to the other: see `PairedView.agreement`.
        comparable: Whether a direction of one model can be compared with one of the other.
    """
    unknown = np.full(len(columns["n_tokens"]), np.nan)

    def column(name: str) -> np.ndarray:
        return columns.get(name, unknown)

    def toward(side: str) -> Toward:
        error, reconstruction, own = (
            bounds.get(f"{name}_{side}", Bounded(unknown, unknown, unknown))
            for name in ("nu_error", "nu_reconstruction", "own")
        )
        return Toward(error, reconstruction, own.value)

    return Evidence(
        columns["n_tokens"],
        columns["n_documents"],
        column("norm_reference"),
        column("norm_intervened"),
        column("decoder_cosine"),
        toward("new"),
        toward("lost"),
        comparable,
        np.asarray(is_mapped(columns)),
        unknown,
        column("twin_cosine") / agreement,
        Bounded(*(column(f"relative_rate{bound}") for bound in ("", "_low", "_high"))),
    )


def is_mapped(columns: Columns) -> bool:
    """Whether the latents are of models between which a map leads."""
    return "unmapped_share" in columns and not np.isnan(columns["unmapped_share"]).all()
