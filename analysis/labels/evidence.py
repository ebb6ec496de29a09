"""The evidence that decides a label: norms, directions, latent scaling and firing rates, of one latent or of many at once."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

Columns = Mapping[str, np.ndarray]

Number: TypeAlias = Any
"""A float for one latent, or an array over latents."""


class Estimate(NamedTuple):
    """A number and its confidence interval; NaN: not estimable."""

    value: Number
    low: Number
    high: Number

    @property
    def magnitude_bound(self) -> Any:
        """Upper bound of the magnitude; NaN if a bound is missing."""
        # The sum propagates NaN, which a maximum need not.
        return np.maximum(np.abs(self.low), np.abs(self.high)) + 0 * (self.low + self.high)


class LatentScaling(NamedTuple):
    """Latent scaling toward one model: how much of the latent's direction in this model the other model holds."""

    nu_error: Estimate
    nu_reconstruction: Estimate
    own_beta: Number
    """β of the error of this model along its own direction; near 1 if the model holds what its decoder row writes."""


_UNKNOWN: Estimate = Estimate(np.nan, np.nan, np.nan)


class Evidence(NamedTuple):
    """Evidence on one latent, or on many as arrays that broadcast together. Norms are in training space."""

    n_tokens: Number
    n_documents: Number
    norm_reference: Number
    norm_intervened: Number
    cosine: Number
    """Cosine between the two decoder rows; NaN if one is zero or the models share no space."""
    new: LatentScaling
    """Latent scaling toward the intervened model."""
    lost: LatentScaling
    """Latent scaling toward the reference."""
    comparable: Any = True
    """Whether the models share a space or a linear map connects them, so that directions and latent scaling are defined."""
    mapped: Any = False
    """Whether directions are compared through a linear map, whose error looks the same as a rotation."""
    q_value: Any = np.nan
    """q-value of the change that the label would claim; NaN if not computed."""
    twin_cosine: Any = np.nan
    """Cosine with the twin: the nearest direction that another latent writes into the model with the smaller norm; NaN if none does."""
    relative_rate: Estimate = _UNKNOWN
    """How often the direction occurs in the intervened model, as a share of its occurrences in both. Counts the latent and its twin; NaN if
    their directions are not the same."""
    nu_unselected: Estimate = _UNKNOWN
    """ν on the tokens that the stronger model alone chooses (`latents.unselected_scaling`); NaN if not measured."""
    partner_jaccard: Any = np.nan
    """Largest Jaccard index of firings with a latent that is in the other model only; NaN if not measured."""

    @property
    def intervened_stronger(self) -> Any:
        """Whether the decoder norm of the intervened model is at least that of the reference."""
        return self.norm_intervened >= self.norm_reference

    def toward_stronger(self, name: Literal["nu_error", "nu_reconstruction"]) -> Estimate:
        """Return one ν toward the model with the larger decoder norm."""
        sides = zip(getattr(self.new, name), getattr(self.lost, name), strict=True)
        return Estimate(*(np.where(self.intervened_stronger, new, lost) for new, lost in sides))

    def at(self, latent: int) -> "Evidence":
        """Return the evidence on one latent."""
        return _at(self, latent)


def _at(part: Any, latent: int) -> Any:
    if isinstance(part, tuple):
        return type(part)(*(_at(one, latent) for one in part))  # pyright: ignore[reportCallIssue]
    values = np.asarray(part)
    return values.item() if values.ndim == 0 else values[latent].item()


class RateEvidence(NamedTuple):
    """Firing rates of one latent, or of many, of a shared-dictionary SAE: one direction, and one code per model."""

    n_tokens: Number
    n_documents: Number
    rate_reference: Number
    """Share of the tokens on which the latent fires in the reference."""
    rate_intervened: Number
    relative_rate: Estimate
    """rate_intervened / (rate_reference + rate_intervened)."""

    def at(self, latent: int) -> "RateEvidence":
        """Return the evidence on one latent."""
        return _at(self, latent)


Estimates = Mapping[str, Estimate]
"""Values and intervals of all latents, by the name of the statistic."""


def estimates_of(values: Mapping[str, Any], intervals: Mapping[str, tuple[Any, Any]]) -> dict[str, Estimate]:
    """Return values and intervals of statistics as numpy arrays."""
    return {
        name: Estimate(np.asarray(value), *(np.asarray(bound) for bound in intervals[name]))
        for name, value in values.items()
    }


def evidence_of(
    columns: Columns, estimates: Estimates, agreement: float = 1.0, comparable: bool = True
) -> Evidence:
    """Return the evidence on all latents, without q-values; NaN where nothing was measured.

    Args:
        agreement: Cosine with which the linear map takes directions to the other model, `PairedView.agreement`.
        comparable: Whether directions of the two models can be compared.
    """
    unknown = np.full(len(columns["n_tokens"]), np.nan)

    def column(name: str) -> np.ndarray:
        return columns.get(name, unknown)

    def scaling(side: str) -> LatentScaling:
        error, reconstruction, own_beta = (
            estimates.get(f"{name}_{side}", Estimate(unknown, unknown, unknown))
            for name in ("nu_error", "nu_reconstruction", "own_beta")
        )
        return LatentScaling(error, reconstruction, own_beta.value)

    return Evidence(
        columns["n_tokens"],
        columns["n_documents"],
        column("norm_reference"),
        column("norm_intervened"),
        column("decoder_cosine"),
        scaling("new"),
        scaling("lost"),
        comparable,
        np.asarray(is_mapped(columns)),
        unknown,
        column("twin_cosine") / agreement,
        Estimate(*(column(f"relative_rate{bound}") for bound in ("", "_low", "_high"))),
        Estimate(*(column(f"nu_unselected{bound}") for bound in ("", "_low", "_high"))),
        column("partner_jaccard"),
    )


def is_mapped(columns: Columns) -> bool:
    """Whether the latents are of two models that a linear map connects."""
    return "unmapped_share" in columns and not np.isnan(columns["unmapped_share"]).all()
