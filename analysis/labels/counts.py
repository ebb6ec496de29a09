"""How many latents of each label: with which interval, and how much the count depends on each limit of the rule.

The interval resamples documents, as those of the numbers that labels stand on do (`intervals`). In every resample the ν's are
computed anew, their bounds move with them, and the rule is applied; q-values and twins stay. So it tells how the count would vary
with other text of the same kind, not with another training run: for that there are other seeds.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from crosscoder.config import LabelRule

from ..latents.bootstrap import BlockMoments, Statistic
from .evidence import Bounded, Evidence, Toward
from .rule import LABELS, Label, decide, labels_of

LIMITS = ("weak_norm", "nu_error", "nu_reconstruction", "false_discovery_rate")
"""What decides between new or lost and not."""

_STEPS = 25


class CountInterval(NamedTuple):
    """Bounds of a count."""

    low: float
    high: float


class Curve(NamedTuple):
    """Counts while one limit of the rule moves and the others stay."""

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
    chunk: int = 256,
) -> dict[Label, CountInterval]:
    """Percentile intervals of the number of latents of each label."""
    counts = np.zeros((len(weights), len(LABELS)), dtype=np.int64)
    for start in range(0, len(evidence.n_tokens), chunk):
        latents = slice(start, start + chunk)
        resampled = _resampled(evidence, moments, statistics, weights, latents)
        labels = labels_of(decide(resampled, rule), resampled.q_value, rule)
        for index in range(len(LABELS)):
            counts[:, index] += (labels == index).sum(axis=1)
    tail = (1 - rule.confidence) / 2
    # Bounds are numbers of latents that some resample had, the outer ones of two that the tail lies between.
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
    """The evidence of some latents in every resample, `[sample, latent]`: what does not vary is left as it is."""
    sampled = moments.resampled(weights, latents)

    def moved(name: str, bound: Bounded) -> Bounded:
        values = statistics[name](sampled).numpy()
        shift = values - bound.value[latents]
        return Bounded(values, bound.low[latents] + shift, bound.high[latents] + shift)

    def toward(side: str, scaling: Toward) -> Toward:
        return Toward(
            moved(f"nu_error_{side}", scaling.nu_error),
            moved(f"nu_reconstruction_{side}", scaling.nu_reconstruction),
            statistics[f"own_{side}"](sampled).numpy(),
        )

    return evidence._replace(
        n_tokens=sampled["fired"].numpy(),
        n_documents=evidence.n_documents[latents],
        norm_reference=evidence.norm_reference[latents],
        norm_intervened=evidence.norm_intervened[latents],
        cosine=evidence.cosine[latents],
        new=toward("new", evidence.new),
        lost=toward("lost", evidence.lost),
        q_value=evidence.q_value[latents],
        twin_cosine=evidence.twin_cosine[latents],
        relative_rate=Bounded(*(bound[latents] for bound in evidence.relative_rate)),
    )


def limit_curves(rule: LabelRule, count: Callable[[LabelRule], Int64[np.ndarray, " latent"]]) -> list[Curve]:
    """New and lost latents as each limit alone goes from nearly 0 to twice what is configured, and at most to 1.

    Args:
        count: The labels under a rule, as indices into `LABELS`.
    """
    curves = []
    for limit in LIMITS:
        configured = getattr(rule, limit)
        # Twice the steps of one half: the configured limit is always among them.
        values = [
            value for value in np.linspace(0, 2 * configured, 2 * _STEPS + 1)[1:].tolist() if value <= 1
        ]
        labels = [count(rule.model_copy(update={limit: value})) for value in values]
        new, lost = ([int((of == LABELS.index(side)).sum()) for of in labels] for side in ("new", "lost"))
        curves.append(Curve(limit, configured, values, new, lost))
    return curves
