"""q-values: the fraction of false claims to expect among claims of change that are at least as strong.

Two sources of false positives are estimated separately, and the larger rate counts.

chance      Sampling noise of the measure behind the label: how likely a latent whose true value lies at a limit of the rule would look like
            this one. A normal approximation of the bootstrap gives a p-value, because percentiles of a thousand resamples end at 0.001, too
            coarse for thousands of latents. Benjamini and Hochberg 1995 gives q-values over all latents that fire, a false-discovery rate.
artifact    Dictionaries trained the same way on a null pair, which differs as much but in no feature, also have latents that meet the
            rule: they fit noise that only one model has. Their effect is smaller: the shift that a latent explains where it fires,
            relative to the length of the token. The rate is the number of null latents that meet the rule with at least this effect,
            divided by the number of this dictionary's, for the null where it is largest. Counted within each of `FAMILIES`. It is the
            fraction expected under the nulls tried, not a false-discovery rate: a change of a kind that no null has can beat it. Such
            artifacts differ from training to training, which `replication` shows.

A null is one random draw. `count_bound` therefore gives the largest number of artifacts that a null's count leaves plausible; it is never 0.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr, ndtri
from scipy.stats import chi2, false_discovery_control

from crosscoder.config import LabelRule

from .evidence import Columns, Estimate, Evidence
from .rule import LABELS, Label, Outcome, decide, labels_of

FAMILIES: tuple[tuple[Label, ...], ...] = (
    ("new", "lost", "replaced"),
    ("rotated",),
    ("rescaled",),
    ("reweighted",),
)
"""Labels counted together: a null latent counts against claims of its own family."""


class Candidates(NamedTuple):
    """The label of each latent before q-values, and the evidence for it."""

    label: Int[np.ndarray, " latent"]
    """Label before q-values, as an index into `LABELS`."""

    effect: Float[np.ndarray, " latent"]
    """The column `effect`: the shift that the latent explains where it fires; 0 if not estimable."""

    p_value: Float[np.ndarray, " latent"]
    """p-value of the claim that the label makes: the probability of a measure this far from its limit if the true value were at the limit; 1
    if not estimable, or if the label claims no change."""

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
    outcomes = decide(evidence, rule)
    distance = np.full(len(alive), -np.inf)
    for claims, distances in _distances(evidence, rule):
        claimed = np.isin(outcomes, claims)
        distance[claimed] = np.min([one[claimed] for one in distances], axis=0)
    p_value = ndtr(-distance)
    return Candidates(
        labels_of(outcomes),
        np.nan_to_num(columns["effect"], nan=0.0),
        np.where(np.isnan(p_value) | ~alive, 1.0, p_value),
        alive,
        np.ones(len(alive)) if weight is None else weight,
    )


def _distances(
    evidence: Evidence, rule: LabelRule
) -> Iterator[tuple[tuple[Outcome, ...], list[Float[np.ndarray, " latent"]]]]:
    """Yield, for outcomes that claim a change, how many standard errors each measure behind the claim lies from its limit."""

    def below(estimate: Estimate, limit: float) -> Float[np.ndarray, " latent"]:
        return _distance_to_limit(estimate, limit, rule)

    def absent(error: Estimate, reconstruction: Estimate) -> list[Float[np.ndarray, " latent"]]:
        return [below(error, rule.nu_error), below(reconstruction, rule.nu_reconstruction)]

    error, reconstruction = (
        evidence.toward_stronger("nu_error"),
        evidence.toward_stronger("nu_reconstruction"),
    )
    yield (Outcome.NEW, Outcome.LOST, Outcome.REPLACED_PAIR), absent(error, reconstruction)
    both = (evidence.new, evidence.lost)
    yield (
        (Outcome.REPLACED,),
        [one for side in both for one in absent(side.nu_error, side.nu_reconstruction)],
    )
    yield (Outcome.ROTATED,), [below(side.nu_reconstruction, rule.rotated_cosine) for side in both]
    yield (Outcome.RESCALED,), [below(error, rule.shared_ratio)]
    rarer = _rarer(evidence.relative_rate)
    yield (Outcome.OCCURS_MORE_OFTEN,), [below(rarer, 1 / (1 + rule.rate_ratio))]


def _rarer(rate: Estimate) -> Estimate:
    """Return the share of the occurrences that are in the model with fewer of them."""
    flipped = Estimate(1 - rate.value, 1 - rate.high, 1 - rate.low)
    return Estimate(
        *(np.where(rate.value > 0.5, one, other) for one, other in zip(flipped, rate, strict=True))
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
    """Return the fraction of false claims to expect among claims of the same family that are at least as strong; 1 for latents that claim no
    change.

    Without nulls, only chance counts.
    """
    q = np.ones(len(observed.label))
    for family in FAMILIES:
        claimed = observed.in_family(family)
        chance = benjamini_hochberg(np.where(claimed, observed.p_value, 1.0), observed.alive)
        rate = np.maximum(artifact_rate(observed, nulls, family), chance)
        q[claimed] = rate[claimed]
    return q


def count_bound(count: float, confidence: float) -> float:
    """Return the upper confidence bound of a Poisson mean from one count (Garwood 1936); above 0 even for a count of 0."""
    return float(chi2.ppf(confidence, 2 * (count + 1)) / 2)


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

    The minimum, over effects up to the latent's own, of (number of null latents with at least that effect) / (number of observed latents with
    at least that effect), with the number of the null that has most.
    """
    claimed = observed.in_family(family)
    rate = np.where(claimed, 0.0, 1.0)
    members = np.flatnonzero(claimed)
    if not nulls:
        return rate
    order = members[np.argsort(observed.effect[members], kind="stable")]
    effects = observed.effect[order]
    observed_counts = len(order) - np.searchsorted(effects, effects, side="left")
    false = np.max([_null_counts(null, family, effects) for null in nulls], axis=0)
    # A latent is also discovered at every cutoff below its own effect.
    rate[order] = np.minimum(np.minimum.accumulate(false / np.maximum(observed_counts, 1)), 1)
    return rate


def _null_counts(
    null: Candidates, family: Sequence[Label], limits: Float[np.ndarray, " limit"]
) -> Float[np.ndarray, " limit"]:
    """Return how many latents of a null, by weight, reach each effect."""
    counted = null.in_family(family)
    order = np.argsort(null.effect[counted])
    effects, weights = null.effect[counted][order], null.weight[counted][order]
    counts_from = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
    return counts_from[np.searchsorted(effects, limits, side="left")]
