"""The rule that decides every label, for all latents of a dictionary at once, or for all of many resamples.

The rule is `config.LabelRule`, the same for both directions. It asks in this order, and the first clause that holds decides
(`Outcome`); `reasons` words each outcome:

dead           fired on no held-out token
undetermined   too few documents; or the models share no space, so that nothing can be compared
new, lost      the weaker decoder norm is at most `weak_norm` of the stronger AND latent scaling agrees: the upper bounds of
               |nu_error| and |nu_reconstruction| toward the stronger side are within their limits. The norm may leak to the
               side that lacks the concept (a latent that fires with another one writes a part of it), so its limit is wide; a norm of
               nearly nothing without latent scaling is undetermined, and the reason names the artifact (Minder et al. 2025,
               section 3).
reweighted     as new or lost, but another latent writes the same direction into the other model on other tokens: the concept is in both,
               and one model holds it at least `rate_ratio` times as often, interval included. Undetermined where the other direction
               is not the same, but near it: its cosine lies between `rotated_cosine` and `shared_cosine`
rotated        both models write strongly, in different directions; and what the other latents write makes up for it in neither: the upper
               bounds of |nu_reconstruction| are below `rotated_cosine` toward both sides. Two latents that split one feature
               turn against each other, but their sum does not turn
shared         same direction, like strength
rescaled       same direction, unlike strength, and latent scaling finds that ratio too
undetermined   anything between

Whatever claims a change needs a q-value, which counts chance and what null pairs show, of at most `false_discovery_rate`.

A shared-dictionary SAE has one direction for both models and a code of each, so `decide_by_rate` knows how often each fires:

reweighted     one model fires at least `rate_ratio` times as often as the other, interval included
shared         it fires less than `rate_ratio` times as often, interval included
undetermined   anything between; or one model alone fires, more or less: then the feature might be new or lost, which without
               norms and latent scaling cannot be told
"""

from enum import IntEnum, auto
from typing import Any, Literal

import numpy as np

from crosscoder.config import LabelRule

from .evidence import Bounded, Evidence, RateEvidence, Toward

Label = Literal["new", "lost", "shared", "rotated", "rescaled", "reweighted", "dead", "undetermined"]
CLAIMED: tuple[Label, ...] = ("new", "lost", "rotated", "rescaled", "reweighted")
"""Labels that claim a change."""

LABELS: tuple[Label, ...] = (
    "new",
    "lost",
    "shared",
    "rotated",
    "rescaled",
    "reweighted",
    "dead",
    "undetermined",
)

# At or below this share of the stronger norm the weaker one is all but nothing: norms alone would say new or lost.
NEARLY_NOTHING = 0.2
ROTATED_RATIO = 0.5
"""Rotated asks both models to write at least this share of the other's norm; methods of the field put it at a relative norm between a
third and two thirds or a quarter and three quarters."""
# Below this β a model's own concept explains less than half of what its decoder row writes: the row is leaked norm.
OWN_CONCEPT = 0.5
# Beyond this relative rate (or below one minus it) one model fires alone, more or less: where the bins of the field lie.
ALONE = 0.9
# How far the interval of nu_error may miss the norm ratio and still count as agreeing with it.
RATIO_TOLERANCE = 0.1


class Outcome(IntEnum):
    """The clause of the rule that decided."""

    DEAD = 0
    TOO_FEW_DOCUMENTS = auto()
    NOT_COMPARABLE = auto()
    """The models share no space, and no map leads across."""
    WRITES_NOTHING = auto()
    """Both decoder norms are 0."""
    FIRES_MORE_OFTEN = auto()
    """In one model alone where it fires; another latent writes the same direction into the other model on other tokens, less often."""
    FIRES_AS_OFTEN = auto()
    """The same, but it is not established that one model holds the direction more often."""
    NEAR_ANOTHER = auto()
    """In one model alone where it fires; another latent writes a direction near it into the other model."""
    NEW = auto()
    LOST = auto()
    NORM_ALONE = auto()
    """The norm says that it is in one model only, latent scaling does not."""
    ABSENT_FROM_WEAKER = auto()
    """Latent scaling says that the model with the weaker decoder row lacks it, the norm does not."""
    ABSENT_FROM_STRONGER = auto()
    NO_COSINE = auto()
    TURNED_OR_MAPPED = auto()
    """Directions differ, but a fitted map leads from one space to the other, and it is inexact."""
    TURNED_UNEQUAL = auto()
    TURNED_LEAKED = auto()
    """Directions differ, but one model holds little of what its row writes."""
    TURNED_BACK = auto()
    """Directions differ, but other latents may make up for it."""
    ROTATED = auto()
    BETWEEN_COSINES = auto()
    SHARED = auto()
    RESCALED = auto()
    RATIO_UNCONFIRMED = auto()
    """Same direction, unlike norms, and latent scaling does not find that ratio."""
    RATE_UNBOUNDED = auto()
    """Pooled codes: too few blocks of documents to bound how much more often one model fires."""
    RATE_ALONE = auto()
    RATE_DIFFERS = auto()
    RATE_ALIKE = auto()
    RATE_OPEN = auto()
    ONLY_DIFFERENCE = auto()
    """A dictionary of the difference has no norms to confirm a label with."""


LABEL_OF: dict[Outcome, Label] = {
    Outcome.DEAD: "dead",
    Outcome.FIRES_MORE_OFTEN: "reweighted",
    Outcome.NEW: "new",
    Outcome.LOST: "lost",
    Outcome.ROTATED: "rotated",
    Outcome.SHARED: "shared",
    Outcome.RESCALED: "rescaled",
    Outcome.RATE_DIFFERS: "reweighted",
    Outcome.RATE_ALIKE: "shared",
}
"""Every other outcome leaves a latent undetermined."""

_CLAIMED = [LABELS.index(label) for label in CLAIMED]
_LABEL_INDEX = np.array([LABELS.index(LABEL_OF.get(outcome, "undetermined")) for outcome in Outcome])


def decide(evidence: Evidence, rule: LabelRule) -> np.ndarray:
    """The outcome of each latent, before q-values. Exchanging the models exchanges new and lost and changes no other label."""
    weaker = np.minimum(evidence.norm_reference, evidence.norm_intervened)
    stronger = np.maximum(evidence.norm_reference, evidence.norm_intervened)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.divide(weaker, stronger)
    to_new, error = evidence.to_new, evidence.leaning("nu_error")
    absent_new, absent_lost = (_absent(scaling, rule) for scaling in (evidence.new, evidence.lost))
    absent = np.where(to_new, absent_new, absent_lost)
    exclusive = (ratio <= rule.weak_norm) & absent
    same_twin = evidence.twin_cosine >= rule.shared_cosine
    turned = evidence.cosine < rule.rotated_cosine
    # Not estimable counts as too little: NaN compares as false.
    held = np.logical_and(evidence.new.own >= OWN_CONCEPT, evidence.lost.own >= OWN_CONCEPT)
    stays_turned = (evidence.new.nu_reconstruction.largest < rule.rotated_cosine) & (
        evidence.lost.nu_reconstruction.largest < rule.rotated_cosine
    )
    confirmed = (error.low - RATIO_TOLERANCE <= ratio) & (ratio <= error.high + RATIO_TOLERANCE)
    return _first(
        (evidence.n_tokens == 0, Outcome.DEAD),
        (evidence.n_documents < rule.min_documents, Outcome.TOO_FEW_DOCUMENTS),
        (np.logical_not(evidence.comparable), Outcome.NOT_COMPARABLE),
        (stronger == 0, Outcome.WRITES_NOTHING),
        (exclusive & same_twin & _differs_in_rate(evidence.relative_rate, rule), Outcome.FIRES_MORE_OFTEN),
        (exclusive & same_twin, Outcome.FIRES_AS_OFTEN),
        (exclusive & _lies_near(evidence.twin_cosine, rule), Outcome.NEAR_ANOTHER),
        (exclusive & to_new, Outcome.NEW),
        (exclusive, Outcome.LOST),
        (ratio <= min(NEARLY_NOTHING, rule.weak_norm), Outcome.NORM_ALONE),
        (absent, Outcome.ABSENT_FROM_WEAKER),
        (absent_new | absent_lost, Outcome.ABSENT_FROM_STRONGER),
        (np.isnan(evidence.cosine), Outcome.NO_COSINE),
        (turned & evidence.mapped, Outcome.TURNED_OR_MAPPED),
        (turned & (ratio < ROTATED_RATIO), Outcome.TURNED_UNEQUAL),
        (turned & ~held, Outcome.TURNED_LEAKED),
        (turned & ~stays_turned, Outcome.TURNED_BACK),
        (turned, Outcome.ROTATED),
        (evidence.cosine < rule.shared_cosine, Outcome.BETWEEN_COSINES),
        (ratio >= rule.shared_ratio, Outcome.SHARED),
        ((error.low > rule.nu_error) & confirmed, Outcome.RESCALED),
        otherwise=Outcome.RATIO_UNCONFIRMED,
    )


def decide_by_rate(evidence: RateEvidence, rule: LabelRule) -> np.ndarray:
    """The outcome of each latent of a shared-dictionary SAE. Exchanging the models changes no label."""
    relative, limit = evidence.relative_rate, _rate_limit(rule)
    return _first(
        (evidence.n_tokens == 0, Outcome.DEAD),
        (evidence.n_documents < rule.min_documents, Outcome.TOO_FEW_DOCUMENTS),
        (np.isnan(relative.low + relative.high), Outcome.RATE_UNBOUNDED),
        (np.maximum(relative.value, 1 - relative.value) > ALONE, Outcome.RATE_ALONE),
        (_differs_in_rate(relative, rule), Outcome.RATE_DIFFERS),
        (np.logical_and(1 - limit < relative.low, relative.high < limit), Outcome.RATE_ALIKE),
        otherwise=Outcome.RATE_OPEN,
    )


def labels_of(outcomes: np.ndarray, q_value: Any = np.nan, rule: LabelRule | None = None) -> np.ndarray:
    """Labels as indices into `LABELS`; with a rule, claims of too large a q-value are held back."""
    labels = np.asarray(_LABEL_INDEX[outcomes])
    return labels if rule is None else held_back(labels, q_value, rule)


def held_back(labels: np.ndarray, q_value: Any, rule: LabelRule) -> np.ndarray:
    """Labels by norms, directions and latent scaling, with claims of too large a q-value undetermined."""
    # A q-value that was not computed is NaN, and holds nothing back.
    likely_false = q_value > rule.false_discovery_rate
    return np.where(np.isin(labels, _CLAIMED) & likely_false, LABELS.index("undetermined"), labels)


def _first(*clauses: tuple[Any, Outcome], otherwise: Outcome) -> np.ndarray:
    """The outcome of the first clause that holds, element by element."""
    shape = np.broadcast_shapes(*(np.shape(condition) for condition, _ in clauses))
    outcomes = np.full(shape, otherwise, np.int8)
    for condition, outcome in reversed(clauses):
        np.copyto(outcomes, np.int8(outcome), where=np.broadcast_to(condition, shape))
    return outcomes


def _absent(scaling: Toward, rule: LabelRule) -> Any:
    """Whether latent scaling says, bounds included, that the other model lacks the concept."""
    return np.logical_and(
        scaling.nu_error.largest <= rule.nu_error, scaling.nu_reconstruction.largest <= rule.nu_reconstruction
    )


def _lies_near(cosine: Any, rule: LabelRule) -> Any:
    """Whether the nearest direction in the other model is too near for a latent's to be absent there."""
    return cosine >= min(rule.rotated_cosine, rule.shared_cosine)


def _rate_limit(rule: LabelRule) -> float:
    return rule.rate_ratio / (1 + rule.rate_ratio)


def _differs_in_rate(relative: Bounded, rule: LabelRule) -> Any:
    """Whether one model holds a direction at least `rate_ratio` times as often, by the bounds of its relative rate."""
    limit = _rate_limit(rule)
    return np.logical_or(relative.low >= limit, relative.high <= 1 - limit)
