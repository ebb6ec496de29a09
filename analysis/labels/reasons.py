"""The reason beside a label: each outcome of the rule, worded with the numbers that decided it."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from crosscoder.config import LabelRule

from .rule import (
    CLAIMED,
    LABEL_OF,
    LABELS,
    ROTATED_RATIO,
    Evidence,
    Label,
    Outcome,
    RateEvidence,
    Toward,
    decide,
    decide_by_rate,
    labels_of,
)


class Verdict(NamedTuple):
    """A label, and the rule and numbers that gave it, in one sentence."""

    label: Label
    reason: str


class _Leaning(NamedTuple):
    """Evidence seen from the side that the latent leans to, so that one text serves both directions."""

    strong: Literal["intervened model", "reference"]
    weak: Literal["intervened model", "reference"]
    ratio: float
    scaling: Toward
    opposite: Toward


def verdict_of(evidence: Evidence, rule: LabelRule) -> Verdict:
    """The label of one latent, and why."""
    outcome = Outcome(int(decide(evidence, rule)))
    label = LABELS[int(labels_of(np.asarray(outcome), evidence.q_value, rule))]
    return Verdict(label, reason_of(outcome, evidence, rule))


def verdict_of_rates(evidence: RateEvidence, rule: LabelRule) -> Verdict:
    """The label of one latent of a shared-dictionary SAE, and why."""
    outcome = Outcome(int(decide_by_rate(evidence, rule)))
    return Verdict(LABEL_OF.get(outcome, "undetermined"), reason_of_rate(outcome, evidence, rule))


def reason_of(outcome: Outcome, evidence: Evidence, rule: LabelRule) -> str:
    """The outcome of `rule.decide` in words; says so where a q-value holds the label back."""
    reason = _REASONS[outcome](evidence, rule)
    label = LABEL_OF.get(outcome, "undetermined")
    if label in CLAIMED and evidence.q_value > rule.false_discovery_rate:
        return (
            f"{reason}: {label}, but q-value {evidence.q_value:.2g} (> {rule.false_discovery_rate:g}): too many "
            "latents with this much evidence are to be expected from nothing"
        )
    return reason


def reason_of_rate(outcome: Outcome, evidence: RateEvidence, rule: LabelRule) -> str:
    """The outcome of `rule.decide_by_rate` in words."""
    if outcome in (Outcome.DEAD, Outcome.TOO_FEW_DOCUMENTS):
        return _hardly_seen(outcome, evidence.n_documents, rule)
    relative = evidence.relative_rate
    rates = (
        f"fires on {100 * evidence.rate_reference:.3g} % of the reference's tokens and {100 * evidence.rate_intervened:.3g} % of "
        f"the intervened model's"
    )
    measured = f"{rates} (relative rate {_two(relative.value)} [{_two(relative.low)}, {_two(relative.high)}])"
    times = f"{rule.rate_ratio:g} times as often in one model"
    match outcome:
        case Outcome.RATE_UNBOUNDED:
            return f"{rates}, in too few blocks of documents to bound how much more often"
        case Outcome.RATE_ALONE:
            return f"{measured}: nearly in one model alone, so it may be new or lost; one direction for both models has no norms to tell"
        case Outcome.RATE_DIFFERS:
            return f"{measured}: at least {times}, interval included"
        case Outcome.RATE_ALIKE:
            return f"{measured}: less than {times}, interval included"
        case _:
            return f"{measured}: the interval leaves open whether it fires {times}"


def reason_of_difference(outcome: Outcome, held_by_reference: float, held_by_intervened: float) -> str:
    """The outcome of a diff-SAE's latent in words.

    Args:
        held_by_reference: β of the reference's activations along the direction, as a share of the latent's activation.
        held_by_intervened: The same of the intervened model.
    """
    if outcome == Outcome.DEAD:
        return _DEAD
    return (
        "a dictionary of the difference has no decoder norms to confirm a label with: along the direction the reference "
        f"holds {held_by_reference:.2f} and the intervened model {held_by_intervened:.2f} of the latent's activation"
    )


_DEAD = "fired on no held-out token"


def _hardly_seen(outcome: Outcome, n_documents: float, rule: LabelRule) -> str:
    if outcome == Outcome.DEAD:
        return _DEAD
    seen = f"fired in {int(n_documents)} held-out document{'s' * (n_documents != 1)}"
    return f"{seen} (at least {rule.min_documents} needed)"


def _lean(evidence: Evidence) -> _Leaning:
    weaker, stronger = sorted((evidence.norm_reference, evidence.norm_intervened))
    ratio = weaker / stronger
    if evidence.to_new:
        return _Leaning("intervened model", "reference", ratio, evidence.new, evidence.lost)
    return _Leaning("reference", "intervened model", ratio, evidence.lost, evidence.new)


def _exclusive(evidence: Evidence, rule: LabelRule) -> str:
    """New or lost: norm and latent scaling agree."""
    side = _lean(evidence)
    error, reconstruction = side.scaling.nu_error, side.scaling.nu_reconstruction
    return (
        f"{side.weak} norm {_two(side.ratio)} of the {side.strong}'s (<= {rule.weak_norm:.2f}), nu_error {_two(error.value)} "
        f"(<= {rule.nu_error:.2f}), nu_reconstruction {_two(reconstruction.value)} (<= {rule.nu_reconstruction:.2f}), {_percent(rule)} "
        "upper bounds below"
    )


def _near_another(evidence: Evidence, rule: LabelRule) -> str:
    side = _lean(evidence)
    return (
        f"in the {side.strong} alone where it fires, but another latent writes a direction near it (cosine {_two(evidence.twin_cosine)}) into "
        f"the {side.weak} on other tokens: neither absent (< {rule.rotated_cosine:.2f}) nor the same (>= {rule.shared_cosine:.2f})"
    )


def _same_direction_elsewhere(evidence: Evidence) -> str:
    side, relative = _lean(evidence), evidence.relative_rate
    return (
        f"in the {side.strong} alone where it fires, but another latent writes the same direction (cosine {_two(evidence.twin_cosine)}) into "
        f"the {side.weak} on other tokens, so the concept is in both; relative rate {_two(relative.value)} "
        f"[{_two(relative.low)}, {_two(relative.high)}]"
    )


def _norm_alone(evidence: Evidence, rule: LabelRule) -> str:
    """The norm alone says that the latent is in one model only: why latent scaling does not."""
    side = _lean(evidence)
    norm = f"{side.weak} norm {_two(side.ratio)} of the {side.strong}'s"
    error, reconstruction = side.scaling.nu_error, side.scaling.nu_reconstruction
    if math.isnan(error.value) or math.isnan(reconstruction.value):
        return f"{norm}, but latent scaling is not estimable: the {side.strong} itself hardly holds the direction"
    if math.isnan(error.largest + reconstruction.largest):
        return f"{norm}, but it fires in too few blocks of documents to bound latent scaling"
    if abs(error.value) > rule.nu_error:
        return (
            f"{norm}, but nu_error {_two(error.value)} (> {rule.nu_error:.2f}): the concept sits in the {side.weak}'s residual "
            "(complete shrinkage)"
        )
    if abs(reconstruction.value) > rule.nu_reconstruction:
        return (
            f"{norm}, but nu_reconstruction {_two(reconstruction.value)} (> {rule.nu_reconstruction:.2f}): other latents "
            f"already write it in the {side.weak} (latent decoupling)"
        )
    return (
        f"{norm}, nu_error {_two(error.value)} (<= {rule.nu_error:.2f}), nu_reconstruction {_two(reconstruction.value)} "
        f"(<= {rule.nu_reconstruction:.2f}), but the evidence is thin: {_percent(rule)} bounds reach nu_error {_two(error.largest)}, "
        f"nu_reconstruction {_two(reconstruction.largest)}"
    )


def _absent_from(which: Literal["weak", "strong"]) -> Callable[[Evidence, LabelRule], str]:
    """Latent scaling says that one model lacks the concept, but its decoder row is not weak."""

    def reason(evidence: Evidence, rule: LabelRule) -> str:
        side = _lean(evidence)
        scaling, share = (side.scaling, side.ratio) if which == "weak" else (side.opposite, 1.0)
        found = (
            f"latent scaling finds it absent in the {getattr(side, which)} (nu_error {_two(scaling.nu_error.value)}, nu_reconstruction "
            f"{_two(scaling.nu_reconstruction.value)}), yet {_two(share)} of its larger norm lies there"
        )
        if evidence.cosine < rule.rotated_cosine and side.ratio >= ROTATED_RATIO:
            found += (
                f", along another direction (cosine {_two(evidence.cosine)}): a turn by nearly 90° cannot be told from two "
                "features in one latent"
            )
        return found

    return reason


def _in_both(evidence: Evidence) -> str:
    side = _lean(evidence)
    return (
        f"decoder cosine {_two(evidence.cosine)}, {side.weak} norm {_two(side.ratio)} of the {side.strong}'s"
    )


def _rotated(evidence: Evidence, rule: LabelRule) -> str:
    return (
        f"{_in_both(evidence)} (cosine < {rule.rotated_cosine:.2f}, norm >= {ROTATED_RATIO:.2f}), and the other latents do not turn it back "
        f"(nu_reconstruction {_two(evidence.new.nu_reconstruction.value)} and {_two(evidence.lost.nu_reconstruction.value)}, "
        f"{_percent(rule)} upper bounds < {rule.rotated_cosine:.2f})"
    )


def _turned_back(evidence: Evidence, rule: LabelRule) -> str:
    """Why a turn may be none: a model holds the direction that its own row lacks, by what other latents write into it."""
    part, model = evidence.new.nu_reconstruction, "reference"
    if part.largest < rule.rotated_cosine:
        part, model = evidence.lost.nu_reconstruction, "intervened model"
    if math.isnan(part.largest):
        why = f"what the {model} holds of the other's direction has no bound: too few blocks of documents, or none of its own"
    else:
        why = (
            f"other latents write the other direction into the {model}: nu_reconstruction {_two(part.value)}, with an upper bound that "
            f"is not below {rule.rotated_cosine:.2f}, so together they may not turn at all"
        )
    return f"{_in_both(evidence)}, but {why}"


def _ratio_found(evidence: Evidence) -> str:
    error = _lean(evidence).scaling.nu_error
    return f"nu_error {_two(error.value)} [{_two(error.low)}, {_two(error.high)}]"


def _ratio_unconfirmed(evidence: Evidence) -> str:
    error = _lean(evidence).scaling.nu_error
    if math.isnan(error.low + error.high):
        return f"{_in_both(evidence)}, but nu_error has no interval to compare the norms with"
    return f"{_in_both(evidence)}, but {_ratio_found(evidence)} does not agree with that ratio"


def _percent(rule: LabelRule) -> str:
    return f"{100 * rule.confidence:g} %"


def _two(number: float) -> str:
    """Two decimals, and no minus before a zero."""
    return f"{round(number, 2) + 0.0:.2f}"


_REASONS: dict[Outcome, Callable[[Evidence, LabelRule], str]] = {
    Outcome.DEAD: lambda evidence, rule: _DEAD,
    Outcome.TOO_FEW_DOCUMENTS: lambda evidence, rule: _hardly_seen(
        Outcome.TOO_FEW_DOCUMENTS, evidence.n_documents, rule
    ),
    Outcome.NOT_COMPARABLE: lambda evidence, rule: (
        "the models share no space and no linear map carries directions from one to the other, so they and latent scaling cannot be "
        "compared, and norms alone never decide"
    ),
    Outcome.WRITES_NOTHING: lambda evidence, rule: "writes into neither model: both decoder norms are 0",
    Outcome.FIRES_MORE_OFTEN: lambda evidence, rule: (
        f"{_same_direction_elsewhere(evidence)}: at least {rule.rate_ratio:g} times as often in one model, interval included"
    ),
    Outcome.FIRES_AS_OFTEN: lambda evidence, rule: (
        f"{_same_direction_elsewhere(evidence)}: it is not established that it is there {rule.rate_ratio:g} times as often in one model"
    ),
    Outcome.NEAR_ANOTHER: _near_another,
    Outcome.NEW: _exclusive,
    Outcome.LOST: _exclusive,
    Outcome.NORM_ALONE: _norm_alone,
    Outcome.ABSENT_FROM_WEAKER: _absent_from("weak"),
    Outcome.ABSENT_FROM_STRONGER: _absent_from("strong"),
    Outcome.NO_COSINE: lambda evidence, rule: "the two decoder directions cannot be compared",
    Outcome.TURNED_OR_MAPPED: lambda evidence, rule: (
        f"{_in_both(evidence)}: the models share no space, and that the map between them is inexact cannot be told from a turn"
    ),
    Outcome.TURNED_UNEQUAL: lambda evidence, rule: (
        f"{_in_both(evidence)}: turned (cosine < {rule.rotated_cosine:.2f}), but too unequal for rotated (< {ROTATED_RATIO:.2f})"
    ),
    Outcome.TURNED_LEAKED: lambda evidence, rule: (
        f"{_in_both(evidence)}, but one model holds little of what its direction writes (leaked norm)"
    ),
    Outcome.TURNED_BACK: _turned_back,
    Outcome.ROTATED: _rotated,
    Outcome.BETWEEN_COSINES: lambda evidence, rule: (
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
