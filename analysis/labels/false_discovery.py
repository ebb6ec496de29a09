"""q-values: the share of false positives to expect among claims of change that are at least as strong.

Two sources of false positives are estimated separately, and the larger rate counts.

chance      Sampling noise of latent scaling: how likely a latent whose true ν lies at a limit of the rule would look like this one. A
            normal approximation of the bootstrap gives a p-value, because percentiles of a thousand resamples end at 0.001, too coarse
            for thousands of latents. Benjamini and Hochberg 1995 gives q-values over all latents that fire. Applies to new, lost and
            rotated, whose limits bound a ν from above.
artifact    Dictionaries trained the same way on a null pair, which differs as much but in no feature, also have latents that meet the
            rule: they fit noise that only one model has. Their effect is smaller: the shift that a latent explains where it fires,
            relative to the length of the token. The rate is the number of null latents that meet the rule with at least this effect
            (mean over nulls), divided by the number of this dictionary's. Counted within each of `FAMILIES`.

A null is one random draw, and so is its largest effect: the effects of null latents are multiplied by `SAFETY`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr, ndtri
from scipy.stats import false_discovery_control

from crosscoder.config import LabelRule

from .evidence import Columns, Estimate, Evidence
from .rule import LABELS, Label, decide, labels_of

FAMILIES: tuple[tuple[Label, ...], ...] = (("new", "lost"), ("rotated",), ("rescaled",), ("reweighted",))
"""Labels counted together: a null latent counts against claims of its own family."""

SAFETY = 1.2
"""Factor on the effect of null latents."""


class Candidates(NamedTuple):
    """The label of each latent before q-values, and the evidence for it."""

    label: Int[np.ndarray, " latent"]
    """Label before q-values, as an index into `LABELS`."""

    effect: Float[np.ndarray, " latent"]
    """The column `effect`: the shift that the latent explains where it fires; 0 if not estimable."""

    p_value: Float[np.ndarray, " latent"]
    """p-value of new and lost: probability of ν this far below its limit if the true ν were at the limit; 1 if not estimable."""

    p_rotated: Float[np.ndarray, " latent"]
    """p-value of rotated."""

    alive: Bool[np.ndarray, " latent"]
    """Whether the latent fires in enough documents to be judged."""

    weight: Float[np.ndarray, " latent"]
    """How many latents a null latent counts for (`weights_of_null`)."""

    def in_family(self, family: Sequence[Label]) -> Bool[np.ndarray, " latent"]:
        """Return which latents have one of these labels."""
        return np.isin(self.label, [LABELS.index(label) for label in family])


def candidates_of(
    columns: Columns,
    evidence: Evidence,
    rule: LabelRule,
    weight: Float[np.ndarray, " latent"] | None = None,
) -> Candidates:
    """Return the candidates of a feature table; `weight` defaults to 1."""
    alive = evidence.n_documents >= rule.min_documents
    exclusive = [
        _distance_to_limit(evidence.toward_stronger("nu_error"), rule.nu_error, rule),
        _distance_to_limit(evidence.toward_stronger("nu_reconstruction"), rule.nu_reconstruction, rule),
    ]
    rotated = [
        _distance_to_limit(side.nu_reconstruction, rule.rotated_cosine, rule)
        for side in (evidence.new, evidence.lost)
    ]
    return Candidates(
        labels_of(decide(evidence, rule)),
        np.nan_to_num(columns["effect"], nan=0.0),
        _p_value(exclusive, alive),
        _p_value(rotated, alive),
        alive,
        np.ones(len(alive)) if weight is None else weight,
    )


def _distance_to_limit(estimate: Estimate, limit: float, rule: LabelRule) -> Float[np.ndarray, " latent"]:
    """Return how many standard errors |ν| lies below its limit; NaN if not estimable."""
    width = 2 * ndtri((1 + rule.confidence) / 2)
    distance = limit - np.abs(estimate.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            estimate.high > estimate.low,
            distance / ((estimate.high - estimate.low) / width),
            np.sign(distance) * np.inf,
        ) + 0 * (estimate.high + estimate.low)


def _p_value(
    distances: Sequence[Float[np.ndarray, " latent"]], alive: Bool[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """Return the p-value of the ν that is nearest to its limit."""
    p_value = ndtr(-np.min(distances, axis=0))
    return np.where(np.isnan(p_value) | ~alive, 1.0, p_value)


def weights_of_null(columns: Columns, replaced: int | None) -> Float[np.ndarray, " latent"]:
    """Return how many latents each null latent counts for.

    If `replaced` is None, every latent counts once. Otherwise the models share no space, and the null keeps one model and replaces the other
    (0: the reference). Features that only the kept model has are still in the null and are no artifacts, so latents whose norm is larger
    there count 0. Latents whose norm is larger in the replaced model are all artifacts and count 2, once for each direction.
    """
    if replaced is None:
        return np.ones(len(columns["density"]))
    intervened_stronger = columns["norm_intervened"] >= columns["norm_reference"]
    return np.where(intervened_stronger == bool(replaced), 2.0, 0.0)


def q_values(observed: Candidates, nulls: Sequence[Candidates]) -> Float[np.ndarray, " latent"]:
    """Return the false-discovery rate among claims of the same family that are at least as strong; 1 for latents that claim no change.

    Without nulls, only chance counts.
    """
    q = np.ones(len(observed.label))
    chance = {("new", "lost"): observed.p_value, ("rotated",): observed.p_rotated}
    for family in FAMILIES:
        rate = artifact_rate(observed, nulls, family)
        if family in chance:
            rate = np.maximum(rate, benjamini_hochberg(chance[family], observed.alive))
        claimed = observed.in_family(family)
        q[claimed] = rate[claimed]
    return q


def benjamini_hochberg(
    p_values: Float[np.ndarray, " latent"], tested: Bool[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """Return q-values of the tested latents, 1 for the others (Benjamini and Hochberg 1995)."""
    q = np.ones(len(p_values))
    if tested.any():
        q[tested] = false_discovery_control(p_values[tested])
    return q


def artifact_rate(
    observed: Candidates, nulls: Sequence[Candidates], family: Sequence[Label]
) -> Float[np.ndarray, " latent"]:
    """Return the artifact rate of each latent in the family; 1 for the others.

    The minimum, over effects up to the latent's own, of (mean number of null latents with at least that effect) / (number of observed latents
    with at least that effect).
    """
    claimed = observed.in_family(family)
    rate = np.where(claimed, 0.0, 1.0)
    members = np.flatnonzero(claimed)
    if not nulls:
        return rate
    order = members[np.argsort(observed.effect[members], kind="stable")]
    effects = observed.effect[order]
    observed_counts = len(order) - np.searchsorted(effects, effects, side="left")
    false = np.mean([_null_counts(null, family, effects) for null in nulls], axis=0)
    # A latent is also discovered at every cutoff below its own effect.
    rate[order] = np.minimum(np.minimum.accumulate(false / np.maximum(observed_counts, 1)), 1)
    return rate


def _null_counts(
    null: Candidates, family: Sequence[Label], limits: Float[np.ndarray, " limit"]
) -> Float[np.ndarray, " limit"]:
    """Return how many latents of a null, by weight, reach each effect once multiplied by `SAFETY`."""
    counted = null.in_family(family)
    order = np.argsort(null.effect[counted])
    effects, weights = SAFETY * null.effect[counted][order], null.weight[counted][order]
    counts_from = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
    return counts_from[np.searchsorted(effects, limits, side="left")]
