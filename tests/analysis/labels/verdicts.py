"""The label and the reason of one latent alone; the analysis decides the labels of all latents at once."""

from typing import NamedTuple

import numpy as np

from analysis.labels.evidence import Evidence, RateEvidence
from analysis.labels.reasons import reason_of, reason_of_rate
from analysis.labels.rule import LABEL_OF, LABELS, Label, Outcome, decide, decide_by_rate, labels_of
from crosscoder.config import LabelRule


class Verdict(NamedTuple):
    """A label and its reason."""

    label: Label
    reason: str


def verdict_of(evidence: Evidence, rule: LabelRule) -> Verdict:
    """Return the label of one latent and its reason."""
    outcome = Outcome(int(decide(evidence, rule)))
    label = LABELS[int(labels_of(np.asarray(outcome), evidence.q_value, rule))]
    return Verdict(label, reason_of(outcome, evidence, rule))


def verdict_of_rates(evidence: RateEvidence, rule: LabelRule) -> Verdict:
    """Return the label of one latent of a shared-dictionary SAE and its reason."""
    outcome = Outcome(int(decide_by_rate(evidence, rule)))
    return Verdict(LABEL_OF.get(outcome, "undetermined"), reason_of_rate(outcome, evidence, rule))
