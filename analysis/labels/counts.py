"""Numbers of latents with each label: their intervals, and how they depend on each limit of the rule.

The interval resamples documents (`bootstrap`). In every resample the ν's are recomputed, their bounds are shifted by the same amount, and
the rule is applied; q-values, twins and the other trainings stay fixed. The interval therefore covers other text of the same kind, but not
another training run, which replication covers.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from crosscoder.config import LabelRule

from ..latents.bootstrap import BlockMoments, Statistic
from .evidence import Estimate, Evidence, LatentScaling
from .replication import Replication
from .rule import LABELS, ClaimSupport, Label, decide, held_back, labels_of

LIMITS = ("weak_norm", "nu_error", "nu_reconstruction", "false_discovery_rate")
"""Limits that decide whether a latent is new or lost."""

_STEPS = 25


class CountInterval(NamedTuple):
    """Interval of a count."""

    low: float
    high: float


class Curve(NamedTuple):
    """Counts of new and lost latents as one limit of the rule varies and the others stay fixed."""

    limit: str
    configured: float
    values: list[float]
    new: list[int]
    lost: list[int]


def count_intervals(
    evidence: Evidence,
    moments: BlockMoments,
    statistics: Mapping[str, Statistic],
    weights: Float64[Tensor, "sample block"],
    rule: LabelRule,
    replication: Replication,
    span_residual: Float[np.ndarray, " latent"],
    chunk: int = 256,
) -> dict[Label, CountInterval]:
    """Return the percentile interval of the number of latents with each label."""
    counts = np.zeros((len(weights), len(LABELS)), dtype=np.int64)
    for start in range(0, len(evidence.n_tokens), chunk):
        latents = slice(start, start + chunk)
        resampled = _resampled(evidence, moments, statistics, weights, latents)
        labels = labels_of(decide(resampled, rule))
        again = replication.share(labels, rule, latents)
        labels = held_back(labels, ClaimSupport(resampled.q_value, again, span_residual[latents]), rule)
        for index in range(len(LABELS)):
            counts[:, index] += (labels == index).sum(axis=1)
    tail = (1 - rule.confidence) / 2
    # Each bound is the count of some resample: no interpolation, rounded outward.
    low = np.quantile(counts, tail, axis=0, method="lower")
    high = np.quantile(counts, 1 - tail, axis=0, method="higher")
    return {label: CountInterval(float(low[index]), float(high[index])) for index, label in enumerate(LABELS)}


def _resampled(
    evidence: Evidence,
    moments: BlockMoments,
    statistics: Mapping[str, Statistic],
    weights: Float64[Tensor, "sample block"],
    latents: slice,
) -> Evidence:
    """Return the evidence on some latents in every resample, `[sample, latent]`; quantities without resamples stay fixed."""
    sampled = moments.resampled(weights, latents)

    def resampled_estimate(name: str, estimate: Estimate) -> Estimate:
        values = statistics[name](sampled).numpy()
        offset = values - estimate.value[latents]
        return Estimate(values, estimate.low[latents] + offset, estimate.high[latents] + offset)

    def resampled_scaling(side: str, scaling: LatentScaling) -> LatentScaling:
        return LatentScaling(
            resampled_estimate(f"nu_error_{side}", scaling.nu_error),
            resampled_estimate(f"nu_reconstruction_{side}", scaling.nu_reconstruction),
            statistics[f"own_beta_{side}"](sampled).numpy(),
        )

    return evidence._replace(
        n_tokens=sampled["fired"].numpy(),
        n_documents=evidence.n_documents[latents],
        norm_reference=evidence.norm_reference[latents],
        norm_intervened=evidence.norm_intervened[latents],
        cosine=evidence.cosine[latents],
        new=resampled_scaling("new", evidence.new),
        lost=resampled_scaling("lost", evidence.lost),
        q_value=evidence.q_value[latents],
        twin_cosine=evidence.twin_cosine[latents],
        relative_rate=Estimate(*(bound[latents] for bound in evidence.relative_rate)),
        nu_unselected=Estimate(*(bound[latents] for bound in evidence.nu_unselected)),
        partner_jaccard=evidence.partner_jaccard[latents],
    )


def limit_curves(
    rule: LabelRule, labels_by: Callable[[LabelRule], Int64[np.ndarray, " latent"]]
) -> list[Curve]:
    """Return the counts of new and lost latents as each limit alone varies from near 0 to twice its setting, at most 1.

    Args:
        labels_by: Returns the labels under a rule, as indices into `LABELS`.
    """
    curves = []
    for limit in LIMITS:
        configured = getattr(rule, limit)
        # An even number of steps, so that the configured limit is one of the values.
        values = [
            value for value in np.linspace(0, 2 * configured, 2 * _STEPS + 1)[1:].tolist() if value <= 1
        ]
        labels = [labels_by(rule.model_copy(update={limit: value})) for value in values]
        new, lost = (
            [int((found == LABELS.index(side)).sum()) for found in labels] for side in ("new", "lost")
        )
        curves.append(Curve(limit, configured, values, new, lost))
    return curves
