"""How many of the latents called new or lost to expect from nothing, and from it a q-value for every latent.

Two doubts are told apart, and the larger counts.

chance      The intervals of latent scaling: how likely a latent whose ν lies at the limit would look as this one does. A normal
            approximation of the bootstrap gives a p-value (percentiles of a thousand resamples end at 0.001, far above what
            thousands of latents ask for), and Benjamini and Hochberg 1995 a q-value over all latents that fire.
artifact    Null pairs, that is, dictionaries trained by the same recipe on a pair that differs as much and in no feature, have latents
            that meet the rule, too: noise that is in one model alone is fitted by latents of that model. What tells them from
            features is their effect, the share of the shift that a latent explains where it fires. Of the latents here that meet
            the rule and have at least some effect, those of a null that do (mean over nulls) are a share.

A null is one draw, and so is the largest effect in it: its latents count as if they had `SAFETY` times theirs.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr, ndtri
from scipy.stats import false_discovery_control

from crosscoder.config import LabelRule

Columns = dict[str, np.ndarray]

SAFETY = 1.2
"""How much more effect than its own a null latent speaks against."""


class Candidacy(NamedTuple):
    """What speaks for calling each latent new or lost, whichever it leans to."""

    margin: Float[np.ndarray, " latent"]
    """The largest of weaker norm, |ν of the error| and |ν of the reconstruction|, bounds included, as a share of its limit. At
    most 1: the rule is met. Infinite where a part cannot be estimated."""

    effect: Float[np.ndarray, " latent"]
    """Share of the shift that the latent explains on the tokens where it fires, in units of the mean squared shift of a token; 0
    where it cannot be estimated. Where the models share no space: of what the map between them leaves of the model it leans to."""

    p_value: Float[np.ndarray, " latent"]
    """Probability of such values of ν if one of them were at its limit; 1 where it cannot be estimated."""

    alive: Bool[np.ndarray, " latent"]
    """Whether the latent fires in enough documents to be judged."""


def candidacy(columns: Columns, rule: LabelRule) -> Candidacy:
    """Margins and p-values from the columns of a feature table."""
    alive = columns["n_documents"] >= rule.min_documents
    n_latents = len(alive)
    if "nu_error" not in columns or "norm_reference" not in columns:
        return Candidacy(np.full(n_latents, np.inf), np.zeros(n_latents), np.ones(n_latents), alive)
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
        np.where(np.isnan(margin), np.inf, margin),
        effect_of(columns),
        np.where(np.isnan(p_value) | ~alive, 1.0, p_value),
        alive,
    )


def effect_of(columns: Columns) -> Float[np.ndarray, " latent"]:
    """`Candidacy.effect` from the columns of a feature table."""
    density = columns["density"]
    # Where the models share no space, their difference is no shift: what counts is what no map carries over.
    name = "unmapped_share" if is_mapped(columns) else "shift_share"
    share = columns.get(name, np.zeros(len(density)))
    effect = np.divide(share, density, out=np.zeros(len(density)), where=density > 0)
    return np.nan_to_num(effect, nan=0.0)


def is_mapped(columns: Mapping[str, np.ndarray]) -> bool:
    """Whether the latents are of models between which a map leads."""
    return "unmapped_share" in columns and not np.isnan(columns["unmapped_share"]).all()


def q_values(observed: Candidacy, nulls: Sequence[Candidacy]) -> Float[np.ndarray, " latent"]:
    """The false-discovery rate among latents with at least this much evidence; 1 for latents that do not meet the rule.

    Without nulls only chance is counted.
    """
    chance = benjamini_hochberg(observed.p_value, observed.alive)
    return np.maximum(chance, artifact_rate(observed, nulls))


def benjamini_hochberg(
    p_values: Float[np.ndarray, " latent"], tested: Bool[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """q-values of those that are tested, 1 for the others (Benjamini and Hochberg 1995)."""
    q = np.ones(len(p_values))
    if tested.any():
        q[tested] = false_discovery_control(p_values[tested])
    return q


def artifact_rate(observed: Candidacy, nulls: Sequence[Candidacy]) -> Float[np.ndarray, " latent"]:
    """min over effects up to a latent's own of (mean number of null latents that have it) / (number here that have it).

    Of latents that meet the rule; 1 for the others.
    """
    rate = np.ones(len(observed.margin))
    meeting = np.flatnonzero(observed.margin <= 1)
    if not nulls:
        rate[meeting] = 0
        return rate
    order = meeting[np.argsort(observed.effect[meeting], kind="stable")]
    effects = observed.effect[order]
    here = len(order) - np.searchsorted(effects, effects, side="left")
    false = np.mean([_reaching(SAFETY * null.effect[null.margin <= 1], effects) for null in nulls], axis=0)
    # An effect that is less than a latent's own is one at which it would be found, too.
    rate[order] = np.minimum(np.minimum.accumulate(false / np.maximum(here, 1)), 1)
    return rate


def _reaching(
    effects: Float[np.ndarray, " null"], limits: Float[np.ndarray, " limit"]
) -> Float[np.ndarray, " limit"]:
    """How many of the effects reach each limit."""
    ordered = np.sort(effects)
    return (len(ordered) - np.searchsorted(ordered, limits, side="left")).astype(np.float64)
