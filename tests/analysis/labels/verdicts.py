"""The label and the reason of one latent alone; the analysis decides the labels of all latents at once."""

from typing import NamedTuple

import numpy as np

from analysis.labels.evidence import Evidence, RateEvidence
from analysis.labels.reasons import FoundAgain, reason_of, reason_of_rate
from analysis.labels.rule import (
    LABELS,
    ClaimSupport,
    Label,
    Outcome,
    decide,
    decide_by_rate,
    held_back,
    labels_of,
)
from crosscoder.config import LabelRule


class Verdict(NamedTuple):
    """A label and its reason."""

    label: Label
    reason: str


BY_ALL = FoundAgain(1.0, 2)
"""Both other trainings find the latent again."""


def verdict_of(evidence: Evidence, rule: LabelRule, again: FoundAgain = BY_ALL) -> Verdict:
    """Return the label of one latent and its reason."""
    outcome = Outcome(int(decide(evidence, rule)))
    label = held_back(labels_of(np.asarray(outcome)), ClaimSupport(evidence.q_value, again.share), rule)
    return Verdict(LABELS[int(label)], reason_of(outcome, evidence, rule, again))


def verdict_of_rates(evidence: RateEvidence, rule: LabelRule, again: FoundAgain = BY_ALL) -> Verdict:
    """Return the label of one latent of a shared-dictionary SAE and its reason."""
    outcome = Outcome(int(decide_by_rate(evidence, rule)))
    label = held_back(labels_of(np.asarray(outcome)), ClaimSupport(found_again=again.share), rule)
    return Verdict(LABELS[int(label)], reason_of_rate(outcome, evidence, rule, again))
