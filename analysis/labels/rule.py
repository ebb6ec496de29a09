"""The label rule: decides the labels of all latents at once, for the data or for many bootstrap resamples.

Thresholds are the settings of `config.LabelRule`, named below in backquotes. `decide` checks the conditions in this order, and the first
that holds decides (`Outcome`); `reasons` puts every outcome into words. Exchanging the models exchanges new and lost and changes no other
label. The *stronger* model has the larger decoder norm, the *weaker* the smaller. The *twin* is the nearest direction that another latent
writes into the weaker model.

dead           The latent fired on no held-out token.
undetermined   It fired in fewer than `min_documents` held-out documents, the models cannot be compared, or both norms are 0.

new, lost      The weaker norm is at most `weak_norm` of the stronger, AND latent scaling finds the latent absent from the weaker model:
               toward the stronger model, the upper bounds of |nu_error| and |nu_reconstruction| are within their limits. AND the weaker
               model lacks it on the tokens that the stronger model alone chooses: the upper bound of |nu_unselected| is within its limit
               (`latents.unselected_scaling`; the latent's own firings are chosen by both models, so it can fire just where they differ).
               New if the intervened model is the stronger, lost if the reference is.
replaced       As lost, and a latent that is as new fires on the same tokens (Jaccard index at least `replaced_jaccard`), or the reverse:
               one direction gave way to another. Or one latent does both: its decoder cosine is below `rotated_cosine`, the weaker norm is
               at least half of the stronger, and latent scaling finds each direction absent from the other model, also on the tokens that
               one model alone chooses.
reweighted     As new or lost, but the twin has the same direction (cosine at least `shared_cosine`): the concept is in both models, and
               one has it at least `rate_ratio` times as often, interval included.
undetermined   As new or lost, but the twin has the same direction at a similar rate, or its cosine is between `rotated_cosine` and
               `shared_cosine`; or norm and latent scaling disagree.

rotated        The decoder cosine is below `rotated_cosine`, the weaker norm is at least half of the stronger, and each model holds what
               its own row writes. The other latents do not compensate for the rotation: toward both models, the upper bound of
               |nu_reconstruction| is below `rotated_cosine`. (Two latents that split one feature rotate in opposite ways, but their
               sum does not rotate.)
undetermined   The decoder cosine is below `rotated_cosine` but another of these conditions fails, or directions are compared through a
               linear map, whose error looks the same; or the cosine is between `rotated_cosine` and `shared_cosine`.

shared         The cosine is at least `shared_cosine`, and the weaker norm is at least `shared_ratio` of the stronger.
rescaled       The cosine is at least `shared_cosine`, the weaker norm is below that, and nu_error is above its limit for new and lost and
               agrees with the ratio of the norms.
undetermined   nu_error does not agree with that ratio.

The limit `weak_norm` is wide because norm can leak into the model without the concept: a latent that fires along with another one writes a
part of it. Norms alone never decide: a weaker norm near 0 that latent scaling does not confirm is undetermined, and the reason names the
artifact (Minder et al. 2025, section 3).

A label that claims a change also needs a q-value of at most `false_discovery_rate` (`false_discovery`); its direction must not lie in the
span of the other latents that claim the same (`spans`); and every other training, at least `replications` of them, must find the latent again
with the same label (`replication`). Otherwise it is held back (`held_back`).

A shared-dictionary SAE has one direction for both models and one code per model. `decide_by_rate` compares how often each model fires:

reweighted     One model fires at least `rate_ratio` times as often as the other, interval included.
shared         One model fires less than `rate_ratio` times as often as the other, interval included.
undetermined   The interval includes `rate_ratio`; or nearly all firings are in one model. Such a latent may be new or lost, which cannot be
               decided without norms and latent scaling.
"""

from enum import IntEnum, auto
from typing import Any, Literal, NamedTuple

import numpy as np

from crosscoder.config import LabelRule

from .evidence import Estimate, Evidence, LatentScaling, RateEvidence

Label = Literal[
    "new", "lost", "replaced", "shared", "rotated", "rescaled", "reweighted", "dead", "undetermined"
]
CLAIMED: tuple[Label, ...] = ("new", "lost", "replaced", "rotated", "rescaled", "reweighted")
"""Labels that claim a change."""

LABELS: tuple[Label, ...] = (
    "new",
    "lost",
    "replaced",
    "shared",
    "rotated",
    "rescaled",
    "reweighted",
    "dead",
    "undetermined",
)

# Norm ratio (weaker to stronger) at or below which norms alone would suggest new or lost.
NEGLIGIBLE_RATIO = 0.2
ROTATED_RATIO = 0.5
"""Smallest norm ratio of a rotated latent. Published methods require a relative norm between 1/3 and 2/3, or between 1/4 and 3/4."""
# Smallest β of a model along its own direction. Below it, more than half of what the decoder row writes is leaked norm.
OWN_CONCEPT_BETA = 0.5
# Relative rate above which (or below one minus which) a latent fires in one model only; the field's bins for relative norms.
ONE_MODEL_RATE = 0.9
# How far the norm ratio may lie outside the interval of nu_error and still agree with it.
RATIO_TOLERANCE = 0.1


class Outcome(IntEnum):
    """The condition of the rule that decided."""

    DEAD = 0
    TOO_FEW_DOCUMENTS = auto()
    NOT_COMPARABLE = auto()
    """The models share no space, and no linear map connects them."""
    WRITES_NOTHING = auto()
    """Both decoder norms are 0."""
    OCCURS_MORE_OFTEN = auto()
    """As new or lost, but the twin has the same direction, and one model has it more often."""
    OCCURS_AS_OFTEN = auto()
    """As new or lost, but the twin has the same direction, and neither model is shown to have it more often."""
    NEAR_OTHER_DIRECTION = auto()
    """As new or lost, but the twin has a similar direction."""
    PRESENT_ELSEWHERE = auto()
    """As new or lost, but the weaker model holds the direction on tokens that the stronger model alone chooses."""
    REPLACED_PAIR = auto()
    """As new or lost, and a latent of the other label fires on the same tokens."""
    NEW = auto()
    LOST = auto()
    NORM_ALONE = auto()
    """The norm says that the latent is in one model only; latent scaling does not."""
    ABSENT_FROM_WEAKER = auto()
    """Latent scaling says that the latent is absent from the weaker model; the norm does not."""
    REPLACED = auto()
    """Directions differ, and latent scaling finds each absent from the other model."""
    ABSENT_FROM_STRONGER = auto()
    NO_COSINE = auto()
    ROTATED_OR_MAP_ERROR = auto()
    """Directions differ, but the linear map that compares them is inexact."""
    ROTATED_UNEQUAL_NORMS = auto()
    ROTATED_LEAKED_NORM = auto()
    """Directions differ, but one model holds little of what its decoder row writes."""
    ROTATED_COMPENSATED = auto()
    """Directions differ, but other latents may compensate."""
    ROTATED = auto()
    BETWEEN_ROTATED_AND_SHARED = auto()
    SHARED = auto()
    RESCALED = auto()
    RATIO_UNCONFIRMED = auto()
    """Same direction, different norms, and latent scaling does not confirm the ratio."""
    RATE_UNBOUNDED = auto()
    """The relative rate has no interval: too few blocks of documents."""
    RATE_IN_ONE_MODEL = auto()
    RATE_DIFFERS = auto()
    RATE_ALIKE = auto()
    RATE_INCONCLUSIVE = auto()
    ONLY_DIFFERENCE = auto()
    """A diff-SAE has no norms to confirm a label with."""


LABEL_OF: dict[Outcome, Label] = {
    Outcome.DEAD: "dead",
    Outcome.OCCURS_MORE_OFTEN: "reweighted",
    Outcome.NEW: "new",
    Outcome.LOST: "lost",
    Outcome.REPLACED_PAIR: "replaced",
    Outcome.REPLACED: "replaced",
    Outcome.ROTATED: "rotated",
    Outcome.SHARED: "shared",
    Outcome.RESCALED: "rescaled",
    Outcome.RATE_DIFFERS: "reweighted",
    Outcome.RATE_ALIKE: "shared",
}
"""Labels of outcomes; every other outcome is undetermined."""

_CLAIMED = [LABELS.index(label) for label in CLAIMED]
_LABEL_INDEX = np.array([LABELS.index(LABEL_OF.get(outcome, "undetermined")) for outcome in Outcome])


def decide(evidence: Evidence, rule: LabelRule) -> np.ndarray:
    """Return the outcome of each latent, before q-values."""
    weaker = np.minimum(evidence.norm_reference, evidence.norm_intervened)
    stronger = np.maximum(evidence.norm_reference, evidence.norm_intervened)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.divide(weaker, stronger)
    intervened_stronger, error = evidence.intervened_stronger, evidence.toward_stronger("nu_error")
    absent_new, absent_lost = (_absent(scaling, rule) for scaling in (evidence.new, evidence.lost))
    absent = np.where(intervened_stronger, absent_new, absent_lost)
    exclusive = (ratio <= rule.weak_norm) & absent
    twin_same = evidence.twin_cosine >= rule.shared_cosine
    differs = evidence.cosine < rule.rotated_cosine
    replaced = differs & absent_new & absent_lost & ~np.asarray(evidence.mapped) & (ratio >= ROTATED_RATIO)
    # Not estimable counts as too little: comparisons with NaN are false.
    holds_own = np.logical_and(
        evidence.new.own_beta >= OWN_CONCEPT_BETA, evidence.lost.own_beta >= OWN_CONCEPT_BETA
    )
    uncompensated = (evidence.new.nu_reconstruction.magnitude_bound < rule.rotated_cosine) & (
        evidence.lost.nu_reconstruction.magnitude_bound < rule.rotated_cosine
    )
    ratio_confirmed = (error.low - RATIO_TOLERANCE <= ratio) & (ratio <= error.high + RATIO_TOLERANCE)
    return _first_outcome(
        (evidence.n_tokens == 0, Outcome.DEAD),
        (evidence.n_documents < rule.min_documents, Outcome.TOO_FEW_DOCUMENTS),
        (np.logical_not(evidence.comparable), Outcome.NOT_COMPARABLE),
        (stronger == 0, Outcome.WRITES_NOTHING),
        (exclusive & twin_same & _differs_in_rate(evidence.relative_rate, rule), Outcome.OCCURS_MORE_OFTEN),
        (exclusive & twin_same, Outcome.OCCURS_AS_OFTEN),
        (exclusive & _is_near(evidence.twin_cosine, rule), Outcome.NEAR_OTHER_DIRECTION),
        ((exclusive | replaced) & _held_elsewhere(evidence.nu_unselected, rule), Outcome.PRESENT_ELSEWHERE),
        (exclusive & (evidence.partner_jaccard >= rule.replaced_jaccard), Outcome.REPLACED_PAIR),
        (exclusive & intervened_stronger, Outcome.NEW),
        (exclusive, Outcome.LOST),
        (ratio <= min(NEGLIGIBLE_RATIO, rule.weak_norm), Outcome.NORM_ALONE),
        (replaced, Outcome.REPLACED),
        (absent, Outcome.ABSENT_FROM_WEAKER),
        (absent_new | absent_lost, Outcome.ABSENT_FROM_STRONGER),
        (np.isnan(evidence.cosine), Outcome.NO_COSINE),
        (differs & evidence.mapped, Outcome.ROTATED_OR_MAP_ERROR),
        (differs & (ratio < ROTATED_RATIO), Outcome.ROTATED_UNEQUAL_NORMS),
        (differs & ~holds_own, Outcome.ROTATED_LEAKED_NORM),
        (differs & ~uncompensated, Outcome.ROTATED_COMPENSATED),
        (differs, Outcome.ROTATED),
        (evidence.cosine < rule.shared_cosine, Outcome.BETWEEN_ROTATED_AND_SHARED),
        (ratio >= rule.shared_ratio, Outcome.SHARED),
        ((error.low > rule.nu_error) & ratio_confirmed, Outcome.RESCALED),
        otherwise=Outcome.RATIO_UNCONFIRMED,
    )


def decide_by_rate(evidence: RateEvidence, rule: LabelRule) -> np.ndarray:
    """Return the outcome of each latent of a shared-dictionary SAE. Exchanging the models changes no label."""
    relative, limit = evidence.relative_rate, _rate_limit(rule)
    return _first_outcome(
        (evidence.n_tokens == 0, Outcome.DEAD),
        (evidence.n_documents < rule.min_documents, Outcome.TOO_FEW_DOCUMENTS),
        (np.isnan(relative.low + relative.high), Outcome.RATE_UNBOUNDED),
        (np.maximum(relative.value, 1 - relative.value) > ONE_MODEL_RATE, Outcome.RATE_IN_ONE_MODEL),
        (_differs_in_rate(relative, rule), Outcome.RATE_DIFFERS),
        (np.logical_and(1 - limit < relative.low, relative.high < limit), Outcome.RATE_ALIKE),
        otherwise=Outcome.RATE_INCONCLUSIVE,
    )


def labels_of(outcomes: np.ndarray) -> np.ndarray:
    """Return labels as indices into `LABELS`, before q-values and replication."""
    return np.asarray(_LABEL_INDEX[outcomes])


def is_claim(labels: np.ndarray) -> np.ndarray:
    """Return which labels, as indices into `LABELS`, claim a change."""
    return np.isin(labels, _CLAIMED)


class ClaimSupport(NamedTuple):
    """What a label that claims a change needs beside the rule."""

    q_value: Any = np.nan
    """NaN if not computed, which holds back no claim."""
    found_again: Any = np.nan
    """Share of the other trainings that find the latent again with this label; NaN if there are too few."""
    span_residual: Any = np.nan
    """`spans.span_residuals`; NaN if not computed, which holds back no claim."""


def held_back(labels: np.ndarray, support: ClaimSupport, rule: LabelRule) -> np.ndarray:
    """Return the labels, with claims that are likely false, tile a subspace, or are not found again made undetermined."""
    likely_false = support.q_value > rule.false_discovery_rate
    tiles = support.span_residual < rule.span_residual
    unsupported = likely_false | tiles | not_found_again(support.found_again, rule)
    return np.where(is_claim(labels) & unsupported, LABELS.index("undetermined"), labels)


def not_found_again(found_again: Any, rule: LabelRule) -> Any:
    """Whether some other training lacks the latent, or there are too few other trainings."""
    # Too few trainings count as not found: comparisons with NaN are false.
    return np.logical_and(rule.replications > 0, np.logical_not(np.asarray(found_again) >= 1))


def _first_outcome(*clauses: tuple[Any, Outcome], otherwise: Outcome) -> np.ndarray:
    """Return, for each element, the outcome of the first clause whose condition holds."""
    shape = np.broadcast_shapes(*(np.shape(condition) for condition, _ in clauses))
    outcomes = np.full(shape, otherwise, np.int8)
    for condition, outcome in reversed(clauses):
        np.copyto(outcomes, np.int8(outcome), where=np.broadcast_to(condition, shape))
    return outcomes


def _absent(scaling: LatentScaling, rule: LabelRule) -> Any:
    """Whether latent scaling finds the concept absent from the other model, by its upper bounds."""
    return np.logical_and(
        scaling.nu_error.magnitude_bound <= rule.nu_error,
        scaling.nu_reconstruction.magnitude_bound <= rule.nu_reconstruction,
    )


def _held_elsewhere(nu: Estimate, rule: LabelRule) -> Any:
    """Whether the weaker model may hold the direction on tokens that the stronger model chooses; false if that was not measured."""
    return np.logical_and(np.isfinite(nu.value), np.logical_not(nu.magnitude_bound <= rule.nu_unselected))


def _is_near(cosine: Any, rule: LabelRule) -> Any:
    """Whether the twin is too similar for the latent's direction to be absent from the weaker model."""
    return cosine >= min(rule.rotated_cosine, rule.shared_cosine)


def _rate_limit(rule: LabelRule) -> float:
    return rule.rate_ratio / (1 + rule.rate_ratio)


def _differs_in_rate(relative: Estimate, rule: LabelRule) -> Any:
    """Whether the direction occurs at least `rate_ratio` times as often in one model, by the bounds of its relative rate."""
    limit = _rate_limit(rule)
    return np.logical_or(relative.low >= limit, relative.high <= 1 - limit)
