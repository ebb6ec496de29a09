"""The reason for each label: the outcome of the rule in words, with the numbers that decided it."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from crosscoder.config import LabelRule

from .evidence import Evidence, LatentScaling, RateEvidence
from .rule import CLAIMED, LABEL_OF, ROTATED_RATIO, Label, Outcome


class _Sides(NamedTuple):
    """The models by decoder norm, so that one wording serves both directions."""

    stronger: Literal["intervened model", "reference"]
    weaker: Literal["intervened model", "reference"]
    ratio: float
    """Weaker decoder norm as a share of the stronger."""
    scaling: LatentScaling
    """Latent scaling toward the stronger model."""
    scaling_weaker: LatentScaling
    """Latent scaling toward the weaker model."""


class FoundAgain(NamedTuple):
    """How many other trainings find a latent again, and whether its direction is its own."""

    share: float
    """Share of the other trainings that find it with the same label; NaN if there are too few trainings."""
    n_trainings: int
    span_residual: float = math.nan


def reason_of(outcome: Outcome, evidence: Evidence, rule: LabelRule, again: FoundAgain) -> str:
    """Return the outcome of `rule.decide` in words, and what holds the label back: its q-value, or the other trainings."""
    reason = _REASONS[outcome](evidence, rule)
    label = LABEL_OF.get(outcome, "undetermined")
    if label in CLAIMED and evidence.q_value > rule.false_discovery_rate:
        return (
            f"{reason}: {label}, but q-value {evidence.q_value:.2g} (> {rule.false_discovery_rate:g}): too many "
            "latents with this much evidence are expected by chance"
        )
    return reason + _held_back(label, rule, again)


def _held_back(label: Label, rule: LabelRule, again: FoundAgain) -> str:
    """Return why the other trainings do not support a label, or how many do; empty for a label that claims no change."""
    if label not in CLAIMED:
        return ""
    if again.span_residual < rule.span_residual:
        return (
            f": {label} in this training, but its direction lies in the span of the other latents with such a label (span residual "
            f"{_two(again.span_residual)} < {rule.span_residual:.2f}): together they tile a subspace, in which no direction stands out"
        )
    if rule.replications == 0:
        return ""
    if math.isnan(again.share):
        return (
            f": {label} in this training, but not repeated: the rule asks for {rule.replications} other trainings, and the run has "
            f"{again.n_trainings} (controls.seeds)"
        )
    found = f"{round(again.share * again.n_trainings)} of {again.n_trainings} other trainings"
    if again.share < 1:
        return f": {label} in this training, but not found again: {found} have a latent of the same direction and label"
    return f"; found again by {found}"


def reason_of_rate(outcome: Outcome, evidence: RateEvidence, rule: LabelRule, again: FoundAgain) -> str:
    """Return the outcome of `rule.decide_by_rate` in words, and whether the other trainings support it."""
    label = LABEL_OF.get(outcome, "undetermined")
    return _rate_reason(outcome, evidence, rule) + _held_back(label, rule, again)


def _rate_reason(outcome: Outcome, evidence: RateEvidence, rule: LabelRule) -> str:
    if outcome in (Outcome.DEAD, Outcome.TOO_FEW_DOCUMENTS):
        return _seldom_seen(outcome, evidence.n_documents, rule)
    relative = evidence.relative_rate
    rates = (
        f"fires on {100 * evidence.rate_reference:.3g} % of the reference's tokens and {100 * evidence.rate_intervened:.3g} % of "
        f"the intervened model's"
    )
    measured = f"{rates} (relative rate {_two(relative.value)} [{_two(relative.low)}, {_two(relative.high)}])"
    times = f"{rule.rate_ratio:g} times as often in one model"
    match outcome:
        case Outcome.RATE_UNBOUNDED:
            return f"{rates}, in too few blocks of documents for an interval of the relative rate"
        case Outcome.RATE_IN_ONE_MODEL:
            return f"{measured}: nearly in one model only, so it may be new or lost, which one direction for both models cannot decide"
        case Outcome.RATE_DIFFERS:
            return f"{measured}: at least {times}, interval included"
        case Outcome.RATE_ALIKE:
            return f"{measured}: less than {times}, interval included"
        case _:
            return f"{measured}: the interval leaves open whether it fires at least {times}"


def reason_of_difference(outcome: Outcome, held_by_reference: float, held_by_intervened: float) -> str:
    """Return the outcome of a latent of a diff-SAE in words.

    Args:
        held_by_reference: β of the reference's activations along the direction, as a share of the latent's activation.
        held_by_intervened: The same for the intervened model.
    """
    if outcome == Outcome.DEAD:
        return _DEAD
    return (
        "a diff-SAE has no decoder norms to confirm a label with: along its direction, the reference "
        f"holds {held_by_reference:.2f} and the intervened model {held_by_intervened:.2f} of the latent's activation"
    )


_DEAD = "fired on no held-out token"


def _seldom_seen(outcome: Outcome, n_documents: int | float, rule: LabelRule) -> str:
    if outcome == Outcome.DEAD:
        return _DEAD
    seen = f"fired in {int(n_documents)} held-out document{'s' * (n_documents != 1)}"
    return f"{seen} (at least {rule.min_documents} required)"


def _sides(evidence: Evidence) -> _Sides:
    weaker, stronger = sorted((evidence.norm_reference, evidence.norm_intervened))
    ratio = weaker / stronger
    if evidence.intervened_stronger:
        return _Sides("intervened model", "reference", ratio, evidence.new, evidence.lost)
    return _Sides("reference", "intervened model", ratio, evidence.lost, evidence.new)


def _in_one_model(evidence: Evidence, rule: LabelRule) -> str:
    """New or lost: norm and latent scaling agree."""
    sides = _sides(evidence)
    error, reconstruction = sides.scaling.nu_error, sides.scaling.nu_reconstruction
    return (
        f"{sides.weaker} norm {_two(sides.ratio)} of the {sides.stronger}'s (<= {rule.weak_norm:.2f}), nu_error {_two(error.value)} "
        f"(<= {rule.nu_error:.2f}), nu_reconstruction {_two(reconstruction.value)} (<= {rule.nu_reconstruction:.2f}), {_percent(rule)} "
        "upper bounds within these limits"
    )


def _present_elsewhere(evidence: Evidence, rule: LabelRule) -> str:
    sides, nu = _sides(evidence), evidence.nu_unselected
    if sides.ratio > rule.weak_norm:
        return (
            "each model lacks the other's direction where it fires, but its firings are chosen by both models: on the tokens that one model alone "
            f"chooses along its own direction, the other holds a share of {_two(nu.value)} (nu_unselected, upper bound "
            f"{_two(nu.magnitude_bound)} > {rule.nu_unselected:.2f})"
        )
    return (
        f"in the {sides.stronger} only where it fires, but its firings are chosen by both models: on the tokens that the {sides.stronger} alone "
        f"chooses along this direction, the {sides.weaker} holds a share of {_two(nu.value)} (nu_unselected, upper bound "
        f"{_two(nu.magnitude_bound)} > {rule.nu_unselected:.2f})"
    )


def _replaced_pair(evidence: Evidence, rule: LabelRule) -> str:
    return (
        f"{_in_one_model(evidence, rule)}; a latent that only the other model has fires on the same tokens (Jaccard index "
        f"{_two(evidence.partner_jaccard)} >= {rule.replaced_jaccard:.2f})"
    )


def _replaced(evidence: Evidence, rule: LabelRule) -> str:
    new, lost = evidence.new, evidence.lost
    return (
        f"decoder cosine {_two(evidence.cosine)} (< {rule.rotated_cosine:.2f}), and each model lacks the other's direction: nu_error "
        f"{_two(new.nu_error.value)} and {_two(lost.nu_error.value)} (<= {rule.nu_error:.2f}), nu_reconstruction "
        f"{_two(new.nu_reconstruction.value)} and {_two(lost.nu_reconstruction.value)} (<= {rule.nu_reconstruction:.2f}), {_percent(rule)} "
        "upper bounds within these limits"
    )


def _near_other_direction(evidence: Evidence, rule: LabelRule) -> str:
    sides = _sides(evidence)
    return (
        f"in the {sides.stronger} only where it fires, but another latent writes a similar direction (cosine {_two(evidence.twin_cosine)}) into "
        f"the {sides.weaker} on other tokens: neither absent (< {rule.rotated_cosine:.2f}) nor the same (>= {rule.shared_cosine:.2f})"
    )


def _same_direction_elsewhere(evidence: Evidence) -> str:
    sides, relative = _sides(evidence), evidence.relative_rate
    return (
        f"in the {sides.stronger} only where it fires, but another latent writes the same direction (cosine {_two(evidence.twin_cosine)}) into "
        f"the {sides.weaker} on other tokens, so both models have the concept; relative rate {_two(relative.value)} "
        f"[{_two(relative.low)}, {_two(relative.high)}]"
    )


def _norm_alone(evidence: Evidence, rule: LabelRule) -> str:
    """Say why latent scaling does not confirm that the latent is in one model only, as its norms suggest."""
    sides = _sides(evidence)
    norm = f"{sides.weaker} norm {_two(sides.ratio)} of the {sides.stronger}'s"
    error, reconstruction = sides.scaling.nu_error, sides.scaling.nu_reconstruction
    if math.isnan(error.value) or math.isnan(reconstruction.value):
        return f"{norm}, but latent scaling is not estimable: even the {sides.stronger} holds little of the direction"
    if math.isnan(error.magnitude_bound + reconstruction.magnitude_bound):
        return (
            f"{norm}, but the latent fires in too few blocks of documents for an interval of latent scaling"
        )
    if abs(error.value) > rule.nu_error:
        return (
            f"{norm}, but nu_error {_two(error.value)} (> {rule.nu_error:.2f}): the {sides.weaker} holds the concept in its residual "
            "(complete shrinkage)"
        )
    if abs(reconstruction.value) > rule.nu_reconstruction:
        return (
            f"{norm}, but nu_reconstruction {_two(reconstruction.value)} (> {rule.nu_reconstruction:.2f}): other latents "
            f"already write it into the {sides.weaker} (latent decoupling)"
        )
    return (
        f"{norm}, nu_error {_two(error.value)} (<= {rule.nu_error:.2f}), nu_reconstruction {_two(reconstruction.value)} "
        f"(<= {rule.nu_reconstruction:.2f}), but the evidence is weak: {_percent(rule)} upper bounds are nu_error {_two(error.magnitude_bound)}, "
        f"nu_reconstruction {_two(reconstruction.magnitude_bound)}"
    )


def _absent_from(which: Literal["weaker", "stronger"]) -> Callable[[Evidence, LabelRule], str]:
    """Word the reason if latent scaling finds the latent absent from a model whose decoder norm is not small."""

    def reason(evidence: Evidence, rule: LabelRule) -> str:
        sides = _sides(evidence)
        scaling, share = (sides.scaling, sides.ratio) if which == "weaker" else (sides.scaling_weaker, 1.0)
        found = (
            f"latent scaling finds it absent from the {getattr(sides, which)} (nu_error {_two(scaling.nu_error.value)}, nu_reconstruction "
            f"{_two(scaling.nu_reconstruction.value)}), but its norm there is {_two(share)} of the larger one"
        )
        if evidence.cosine < rule.rotated_cosine and sides.ratio >= ROTATED_RATIO:
            found += (
                f", along another direction (cosine {_two(evidence.cosine)}): a rotation by nearly 90° looks the same as two "
                "features in one latent"
            )
        return found

    return reason


def _in_both(evidence: Evidence) -> str:
    sides = _sides(evidence)
    return f"decoder cosine {_two(evidence.cosine)}, {sides.weaker} norm {_two(sides.ratio)} of the {sides.stronger}'s"


def _rotated(evidence: Evidence, rule: LabelRule) -> str:
    return (
        f"{_in_both(evidence)} (cosine < {rule.rotated_cosine:.2f}, norm >= {ROTATED_RATIO:.2f}), and the other latents do not compensate "
        f"(nu_reconstruction {_two(evidence.new.nu_reconstruction.value)} and {_two(evidence.lost.nu_reconstruction.value)}, "
        f"{_percent(rule)} upper bounds < {rule.rotated_cosine:.2f})"
    )


def _compensated(evidence: Evidence, rule: LabelRule) -> str:
    """Say why a rotation may be none: other latents may write the direction that a model's own row lacks."""
    part, model = evidence.new.nu_reconstruction, "reference"
    if part.magnitude_bound < rule.rotated_cosine:
        part, model = evidence.lost.nu_reconstruction, "intervened model"
    if math.isnan(part.magnitude_bound):
        why = f"how much of the other direction the {model} holds has no bound: too few blocks of documents, or no direction of its own"
    else:
        why = (
            f"other latents write the other direction into the {model}: nu_reconstruction {_two(part.value)}, with an upper bound "
            f"not below {rule.rotated_cosine:.2f}, so together they may not rotate at all"
        )
    return f"{_in_both(evidence)}, but {why}"


def _ratio_found(evidence: Evidence) -> str:
    error = _sides(evidence).scaling.nu_error
    return f"nu_error {_two(error.value)} [{_two(error.low)}, {_two(error.high)}]"


def _ratio_unconfirmed(evidence: Evidence) -> str:
    error = _sides(evidence).scaling.nu_error
    if math.isnan(error.low + error.high):
        return f"{_in_both(evidence)}, but nu_error has no interval to compare the norm ratio with"
    return f"{_in_both(evidence)}, but {_ratio_found(evidence)} does not agree with that ratio"


def _percent(rule: LabelRule) -> str:
    return f"{100 * rule.confidence:g} %"


def _two(number: float) -> str:
    """Format with two decimals and no minus sign before zero."""
    return f"{round(number, 2) + 0.0:.2f}"


_REASONS: dict[Outcome, Callable[[Evidence, LabelRule], str]] = {
    Outcome.DEAD: lambda evidence, rule: _DEAD,
    Outcome.TOO_FEW_DOCUMENTS: lambda evidence, rule: _seldom_seen(
        Outcome.TOO_FEW_DOCUMENTS, evidence.n_documents, rule
    ),
    Outcome.NOT_COMPARABLE: lambda evidence, rule: (
        "the models share no activation space and no linear map connects them, so neither directions nor latent scaling can be "
        "compared; norms alone never decide a label"
    ),
    Outcome.WRITES_NOTHING: lambda evidence, rule: "writes into neither model: both decoder norms are 0",
    Outcome.OCCURS_MORE_OFTEN: lambda evidence, rule: (
        f"{_same_direction_elsewhere(evidence)}: at least {rule.rate_ratio:g} times as often in one model, interval included"
    ),
    Outcome.OCCURS_AS_OFTEN: lambda evidence, rule: (
        f"{_same_direction_elsewhere(evidence)}: it is not established that it occurs at least {rule.rate_ratio:g} times as often in one model"
    ),
    Outcome.NEAR_OTHER_DIRECTION: _near_other_direction,
    Outcome.PRESENT_ELSEWHERE: _present_elsewhere,
    Outcome.REPLACED_PAIR: _replaced_pair,
    Outcome.REPLACED: _replaced,
    Outcome.NEW: _in_one_model,
    Outcome.LOST: _in_one_model,
    Outcome.NORM_ALONE: _norm_alone,
    Outcome.ABSENT_FROM_WEAKER: _absent_from("weaker"),
    Outcome.ABSENT_FROM_STRONGER: _absent_from("stronger"),
    Outcome.NO_COSINE: lambda evidence, rule: "the two decoder directions cannot be compared",
    Outcome.ROTATED_OR_MAP_ERROR: lambda evidence, rule: (
        f"{_in_both(evidence)}: the models share no space, and an inexact map between them looks the same as a rotation"
    ),
    Outcome.ROTATED_UNEQUAL_NORMS: lambda evidence, rule: (
        f"{_in_both(evidence)}: rotated by its cosine (< {rule.rotated_cosine:.2f}), but the norms are too unequal (< {ROTATED_RATIO:.2f})"
    ),
    Outcome.ROTATED_LEAKED_NORM: lambda evidence, rule: (
        f"{_in_both(evidence)}, but one model holds little of what its decoder row writes (leaked norm)"
    ),
    Outcome.ROTATED_COMPENSATED: _compensated,
    Outcome.ROTATED: _rotated,
    Outcome.BETWEEN_ROTATED_AND_SHARED: lambda evidence, rule: (
        f"{_in_both(evidence)}: between rotated (cosine < {rule.rotated_cosine:.2f}) and shared (>= {rule.shared_cosine:.2f})"
    ),
    Outcome.SHARED: lambda evidence, rule: (
        f"{_in_both(evidence)} (cosine >= {rule.shared_cosine:.2f}, norm >= {rule.shared_ratio:.2f})"
    ),
    Outcome.RESCALED: lambda evidence, rule: (
        f"{_in_both(evidence)} (norm < {rule.shared_ratio:.2f}), and {_ratio_found(evidence)} agrees"
    ),
    Outcome.RATIO_UNCONFIRMED: lambda evidence, rule: _ratio_unconfirmed(evidence),
}
