"""The rule of `labels`, for all latents of a dictionary at once, or for all of many resamples."""

from typing import Literal, NamedTuple

import numpy as np

from crosscoder.config import LabelRule

from .rule import (
    CLAIMED,
    LABELS,
    NEARLY_NOTHING,
    OWN_CONCEPT,
    RATIO_TOLERANCE,
    ROTATED_RATIO,
    differs_in_rate,
    lies_near,
)

_CLAIMED = [LABELS.index(label) for label in CLAIMED]


class BoundedArray(NamedTuple):
    """`Bounded`, for any number of latents at once."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def largest(self) -> np.ndarray:
        """Upper bound of its magnitude; NaN where a bound is missing."""
        # Their sum carries NaN on, which a maximum would not have to.
        return np.maximum(np.abs(self.low), np.abs(self.high)) + 0 * (self.low + self.high)


class TowardArray(NamedTuple):
    """`Toward`, for any number of latents at once."""

    nu_error: BoundedArray
    nu_reconstruction: BoundedArray
    own: np.ndarray


class EvidenceArray(NamedTuple):
    """`Evidence` of models that share a space or have a map between theirs, for any number of latents at once; all arrays broadcast together."""

    n_tokens: np.ndarray
    n_documents: np.ndarray
    norm_reference: np.ndarray
    norm_intervened: np.ndarray
    cosine: np.ndarray
    new: TowardArray
    lost: TowardArray
    q_value: np.ndarray
    mapped: np.ndarray
    twin_cosine: np.ndarray
    relative_rate: BoundedArray
    """Of those that have a twin."""

    @property
    def to_new(self) -> np.ndarray:
        """Whether a latent leans to the intervened model."""
        return self.norm_intervened >= self.norm_reference

    def leaning(self, name: Literal["nu_error", "nu_reconstruction"]) -> BoundedArray:
        """One part of latent scaling, toward the side that each latent leans to."""
        sides = zip(getattr(self.new, name), getattr(self.lost, name), strict=True)
        return BoundedArray(*(np.where(self.to_new, new, lost) for new, lost in sides))


def decide_labels(evidence: EvidenceArray, rule: LabelRule) -> np.ndarray:
    """The labels that `decide` gives, without reasons: indices into `LABELS`."""
    weaker = np.minimum(evidence.norm_reference, evidence.norm_intervened)
    stronger = np.maximum(evidence.norm_reference, evidence.norm_intervened)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = weaker / stronger
    to_new, error = evidence.to_new, evidence.leaning("nu_error")
    absent = {
        side: _absent_all(scaling, rule) for side, scaling in (("new", evidence.new), ("lost", evidence.lost))
    }
    of_side = np.where(to_new, absent["new"], absent["lost"])
    found_elsewhere = lies_near(evidence.twin_cosine, rule)
    twinned = evidence.twin_cosine >= rule.shared_cosine
    more_often = differs_in_rate(evidence.relative_rate.low, evidence.relative_rate.high, rule)
    turned = evidence.cosine < rule.rotated_cosine
    stays_turned = (evidence.new.nu_reconstruction.largest < rule.rotated_cosine) & (
        evidence.lost.nu_reconstruction.largest < rule.rotated_cosine
    )
    held = (evidence.new.own >= OWN_CONCEPT) & (evidence.lost.own >= OWN_CONCEPT)
    alike = evidence.cosine >= rule.shared_cosine
    near = (error.low - RATIO_TOLERANCE <= ratio) & (ratio <= error.high + RATIO_TOLERANCE)
    exclusive = (ratio <= rule.weak_norm) & of_side
    undetermined = LABELS.index("undetermined")
    steps = (
        (evidence.n_tokens == 0, LABELS.index("dead")),
        ((evidence.n_documents < rule.min_documents) | (stronger == 0), undetermined),
        (exclusive & twinned & more_often, LABELS.index("reweighted")),
        (exclusive & found_elsewhere, undetermined),
        (exclusive, np.where(to_new, LABELS.index("new"), LABELS.index("lost"))),
        (ratio <= min(NEARLY_NOTHING, rule.weak_norm), undetermined),
        (absent["new"] | absent["lost"], undetermined),
        (turned & (ratio >= ROTATED_RATIO) & held & stays_turned & ~evidence.mapped, LABELS.index("rotated")),
        (~alike, undetermined),
        (ratio >= rule.shared_ratio, LABELS.index("shared")),
        ((error.low > rule.nu_error) & near, LABELS.index("rescaled")),
    )
    shape = np.broadcast_shapes(*(np.shape(condition) for condition, _ in steps))
    labels = np.select(
        [np.broadcast_to(condition, shape) for condition, _ in steps],
        [np.broadcast_to(label, shape) for _, label in steps],
        undetermined,
    )
    return held_back(labels, evidence.q_value, rule)


def held_back(labels: np.ndarray, q_value: np.ndarray, rule: LabelRule) -> np.ndarray:
    """Labels by norms, directions and latent scaling, with claims of too large a q-value undetermined."""
    # A q-value that was not computed is NaN, and holds nothing back.
    likely_false = q_value > rule.false_discovery_rate
    return np.where(np.isin(labels, _CLAIMED) & likely_false, LABELS.index("undetermined"), labels)


def _absent_all(scaling: TowardArray, rule: LabelRule) -> np.ndarray:
    return (scaling.nu_error.largest <= rule.nu_error) & (
        scaling.nu_reconstruction.largest <= rule.nu_reconstruction
    )
