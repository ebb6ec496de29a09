"""How many of the latents called new or lost to expect from nothing, and from it a q-value for every latent.

Two doubts are told apart, and the larger counts.

chance      The intervals of latent scaling: how likely a latent whose ν lies at the limit would look as this one does. A normal
            approximation of the bootstrap gives a p-value (percentiles of a thousand resamples end at 0.001, far above what
            thousands of latents ask for), and Benjamini and Hochberg 1995 a q-value over all latents that fire.
artifact    Null pairs, that is, dictionaries trained by the same recipe on a pair that differs as much and in no feature: at every strength
            of evidence, latents of a null that reach it (mean over nulls) as a share of the latents here that reach it.

The strength of evidence is the latent's margin: how far within the rule of `labels` its weakest part lies.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr, ndtri
from scipy.stats import false_discovery_control

from crosscoder.config import LabelRule

Columns = dict[str, np.ndarray]


class Candidacy(NamedTuple):
    """What speaks for calling each latent new or lost, whichever it leans to."""

    margin: Float[np.ndarray, " latent"]
    """The largest of weaker norm, |ν of the error| and |ν of the reconstruction|, bounds included, as a share of its limit. At
    most 1: the rule is met. Infinite where a part cannot be estimated."""

    p_value: Float[np.ndarray, " latent"]
    """Probability of such values of ν if one of them were at its limit; 1 where it cannot be estimated."""

    alive: Bool[np.ndarray, " latent"]
    """Whether the latent fires in enough documents to be judged."""


def candidacy(columns: Columns, rule: LabelRule) -> Candidacy:
    """Margins and p-values from the columns of a feature table."""
    alive = columns["n_documents"] >= rule.min_documents
    n_latents = len(alive)
    if "nu_error" not in columns or "norm_reference" not in columns:
        return Candidacy(np.full(n_latents, np.inf), np.ones(n_latents), alive)
    norms = np.stack([columns["norm_reference"], columns["norm_intervened"]])
    strongest = norms.max(axis=0)
    ratio = np.divide(norms.min(axis=0), strongest, out=np.full(n_latents, np.nan), where=strongest > 0)
    parts = [ratio / rule.weak_norm]
    z_scores = []
    width = 2 * ndtri((1 + rule.confidence) / 2)
    for name, limit in (("nu_error", rule.nu_error), ("nu_reconstruction", rule.nu_reconstruction)):
        low, high = columns[f"{name}_low"], columns[f"{name}_high"]
        parts.append(np.maximum(np.abs(low), np.abs(high)) / limit)
        room = limit - np.abs(columns[name])
        with np.errstate(divide="ignore", invalid="ignore"):
            z_scores.append(np.where(high > low, room / ((high - low) / width), np.sign(room) * np.inf))
    margin = np.where(alive, np.max(parts, axis=0), np.nan)
    p_value = ndtr(-np.min(z_scores, axis=0))
    return Candidacy(
        np.where(np.isnan(margin), np.inf, margin), np.where(np.isnan(p_value) | ~alive, 1.0, p_value), alive
    )


def q_values(observed: Candidacy, nulls: Sequence[Candidacy]) -> Float[np.ndarray, " latent"]:
    """The false-discovery rate among latents with at least this much evidence; 1 for latents without any.

    Without nulls only chance is counted.
    """
    chance = benjamini_hochberg(observed.p_value, observed.alive)
    return np.maximum(chance, artifact_rate(observed.margin, [null.margin for null in nulls]))


def benjamini_hochberg(
    p_values: Float[np.ndarray, " latent"], tested: Bool[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """q-values of those that are tested, 1 for the others (Benjamini and Hochberg 1995)."""
    q = np.ones(len(p_values))
    if tested.any():
        q[tested] = false_discovery_control(p_values[tested])
    return q


def artifact_rate(
    margin: Float[np.ndarray, " latent"], nulls: Sequence[np.ndarray]
) -> Float[np.ndarray, " latent"]:
    """min over limits at or above a latent's margin of (mean number of null latents within) / (number here within)."""
    rate = np.ones(len(margin))
    finite = np.flatnonzero(np.isfinite(margin))
    if not nulls:
        rate[finite] = 0
        return rate
    order = finite[np.argsort(margin[finite], kind="stable")]
    limits = margin[order]
    within = np.searchsorted(limits, limits, side="right")
    false = np.mean([np.searchsorted(np.sort(null), limits, side="right") for null in nulls], axis=0)
    ratio = false / np.maximum(within, 1)
    rate[order] = np.minimum(np.minimum.accumulate(ratio[::-1])[::-1], 1)
    return rate
