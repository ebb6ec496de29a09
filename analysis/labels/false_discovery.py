"""How many of the latents that are claimed to have changed to expect from nothing, and from it a q-value for every latent.

Two doubts are told apart, and the larger counts.

chance      The intervals of latent scaling: how likely a latent whose ν lies at a limit of the rule would look as this one does. A
            normal approximation of the bootstrap gives a p-value (percentiles of a thousand resamples end at 0.001, far above what
            thousands of latents ask for), and Benjamini and Hochberg 1995 a q-value over all latents that fire. Of new, lost and
            rotated, whose limits bound a ν from above.
artifact    Null pairs, that is, dictionaries trained by the same recipe on a pair that differs as much and in no feature, have latents
            that meet the rule, too: noise that is in one model alone is fitted by latents of that model. What tells them from
            features is their effect, the shift that a latent explains where it fires, relative to the length of the token. Of the
            latents here that meet the rule and have at least some effect, those of a null that do (mean over nulls) are a share.
            Counted within each of `FAMILIES`.

A null is one draw, and so is the largest effect in it: its latents count as if they had `SAFETY` times theirs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr, ndtri
from scipy.stats import false_discovery_control

from crosscoder.config import LabelRule

from .evidence import Bounded, Columns, Evidence
from .rule import LABELS, Label, decide, labels_of

FAMILIES: tuple[tuple[Label, ...], ...] = (("new", "lost"), ("rotated",), ("rescaled",), ("reweighted",))
"""Claims that are counted together: a latent of a null speaks against those of its own kind."""

SAFETY = 1.2
"""How much more effect than its own a null latent speaks against."""


class Candidacy(NamedTuple):
    """What each latent would be claimed to be, and what speaks for it."""

    label: Int[np.ndarray, " latent"]
    """What the rule says before q-values, an index into `LABELS`."""

    effect: Float[np.ndarray, " latent"]
    """Column of the table: the shift that a latent explains where it fires; 0 where it cannot be estimated."""

    p_value: Float[np.ndarray, " latent"]
    """Probability of such values of ν if one of them were at its limit for new or lost; 1 where it cannot be estimated."""

    p_turned: Float[np.ndarray, " latent"]
    """The same for rotated."""

    alive: Bool[np.ndarray, " latent"]
    """Whether the latent fires in enough documents to be judged."""

    weight: Float[np.ndarray, " latent"]
    """For how many latents one of a null stands: see `weights_of_null`."""

    def of(self, family: Sequence[Label]) -> Bool[np.ndarray, " latent"]:
        """The latents that would be claimed to be one of these."""
        return np.isin(self.label, [LABELS.index(label) for label in family])


def candidacy(
    columns: Columns,
    evidence: Evidence,
    rule: LabelRule,
    weight: Float[np.ndarray, " latent"] | None = None,
) -> Candidacy:
    """What the columns and the evidence of a feature table say; a weight of 1 unless another is given."""
    alive = evidence.n_documents >= rule.min_documents
    leaning = [
        _room(evidence.leaning("nu_error"), rule.nu_error, rule),
        _room(evidence.leaning("nu_reconstruction"), rule.nu_reconstruction, rule),
    ]
    both = [
        _room(side.nu_reconstruction, rule.rotated_cosine, rule) for side in (evidence.new, evidence.lost)
    ]
    return Candidacy(
        labels_of(decide(evidence, rule)),
        np.nan_to_num(columns["effect"], nan=0.0),
        _p_value(leaning, alive),
        _p_value(both, alive),
        alive,
        np.ones(len(alive)) if weight is None else weight,
    )


def _room(bound: Bounded, limit: float, rule: LabelRule) -> Float[np.ndarray, " latent"]:
    """Standard errors between |ν| and its limit; NaN where they cannot be estimated."""
    width = 2 * ndtri((1 + rule.confidence) / 2)
    room = limit - np.abs(bound.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            bound.high > bound.low, room / ((bound.high - bound.low) / width), np.sign(room) * np.inf
        ) + 0 * (bound.high + bound.low)


def _p_value(
    rooms: Sequence[Float[np.ndarray, " latent"]], alive: Bool[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """That of the part that is nearest to its limit."""
    p_value = ndtr(-np.min(rooms, axis=0))
    return np.where(np.isnan(p_value) | ~alive, 1.0, p_value)


def weights_of_null(columns: Columns, replaced: int | None) -> Float[np.ndarray, " latent"]:
    """For how many latents one of a null stands.

    Where `replaced` is None: for itself. Else the null is of models that share no space, and has what only the model that was kept has,
    as the map leads it nowhere; that is no artifact. What leans to the model that was replaced (0: the reference) can be nothing else,
    and stands for as many that lean the other way.
    """
    if replaced is None:
        return np.ones(len(columns["density"]))
    to_new = columns["norm_intervened"] >= columns["norm_reference"]
    return np.where(to_new == bool(replaced), 2.0, 0.0)


def q_values(observed: Candidacy, nulls: Sequence[Candidacy]) -> Float[np.ndarray, " latent"]:
    """The false-discovery rate among latents of like claims with at least this much evidence; 1 for latents that would claim nothing.

    Without nulls only chance is counted.
    """
    q = np.ones(len(observed.label))
    chance = {("new", "lost"): observed.p_value, ("rotated",): observed.p_turned}
    for family in FAMILIES:
        rate = artifact_rate(observed, nulls, family)
        if family in chance:
            rate = np.maximum(rate, benjamini_hochberg(chance[family], observed.alive))
        claimed = observed.of(family)
        q[claimed] = rate[claimed]
    return q


def benjamini_hochberg(
    p_values: Float[np.ndarray, " latent"], tested: Bool[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """q-values of those that are tested, 1 for the others (Benjamini and Hochberg 1995)."""
    q = np.ones(len(p_values))
    if tested.any():
        q[tested] = false_discovery_control(p_values[tested])
    return q


def artifact_rate(
    observed: Candidacy, nulls: Sequence[Candidacy], family: Sequence[Label]
) -> Float[np.ndarray, " latent"]:
    """min over effects up to a latent's own of (mean number of null latents that have it) / (number here that have it).

    Of latents that would be claimed to be one of the family; 1 for the others.
    """
    claimed = observed.of(family)
    rate = np.where(claimed, 0.0, 1.0)
    meeting = np.flatnonzero(claimed)
    if not nulls:
        return rate
    order = meeting[np.argsort(observed.effect[meeting], kind="stable")]
    effects = observed.effect[order]
    here = len(order) - np.searchsorted(effects, effects, side="left")
    false = np.mean([_reaching(null, family, effects) for null in nulls], axis=0)
    # An effect that is less than a latent's own is one at which it would be found, too.
    rate[order] = np.minimum(np.minimum.accumulate(false / np.maximum(here, 1)), 1)
    return rate


def _reaching(
    null: Candidacy, family: Sequence[Label], limits: Float[np.ndarray, " limit"]
) -> Float[np.ndarray, " limit"]:
    """How many latents of a null reach each effect, and a little more."""
    counted = null.of(family)
    order = np.argsort(null.effect[counted])
    effects, weights = SAFETY * null.effect[counted][order], null.weight[counted][order]
    from_here_on = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
    return from_here_on[np.searchsorted(effects, limits, side="left")]
