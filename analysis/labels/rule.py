"""From numbers to a label with its reason: one rule, `config.LabelRule`, the same for both directions.

In this order:

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
               turn against each other, and together into nothing
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

import math
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from crosscoder.config import LabelRule

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
_ALONE = 0.9
# How far the interval of nu_error may miss the norm ratio and still count as agreeing with it.
RATIO_TOLERANCE = 0.1


class Bounded(NamedTuple):
    """A number and its interval; NaN = not estimable."""

    value: float
    low: float
    high: float

    @property
    def largest(self) -> float:
        """Upper bound of its magnitude; NaN where a bound is missing."""
        return max(abs(self.low), abs(self.high)) if not math.isnan(self.low + self.high) else math.nan


class Toward(NamedTuple):
    """Latent scaling toward one side: how much of this side's direction the other model holds."""

    nu_error: Bounded
    nu_reconstruction: Bounded
    own: float
    """β of the error in this side's own model along its own direction: near 1 where the model holds what the row writes."""


class Twin(NamedTuple):
    """What is known of the latent that writes the direction nearest to a latent's into the other model."""

    cosine: float
    """Between the two directions, there."""
    relative_rate: Bounded
    """How often the intervened model holds the direction, as a share of how often either does; both latents counted. NaN where the
    two directions are not the same."""


class Evidence(NamedTuple):
    """What is known of a latent. Norms in training space."""

    n_tokens: int
    n_documents: int
    norm_reference: float
    norm_intervened: float
    cosine: float
    """Between the two decoder directions; NaN where one is zero or the models share no space."""
    new: Toward
    """Toward the intervened model."""
    lost: Toward
    """Toward the reference."""
    comparable: bool = True
    """Whether the models share one space, or a map leads across, so that directions and latent scaling are defined."""
    mapped: bool = False
    """Whether a fitted map leads from one model's space to the other's: that it is inexact cannot be told from a turn."""
    q_value: float = math.nan
    """Of the change that the latent would be claimed to be; NaN where it was not computed."""
    twin: Twin | None = None
    """The nearest to it in the model that it does not lean to; None where no latent writes into that."""


class Verdict(NamedTuple):
    """A label, and the rule and numbers that gave it, in one sentence."""

    label: Label
    reason: str


class _Leaning(NamedTuple):
    """Evidence seen from the side that the latent leans to, so that one text serves both directions."""

    label: Literal["new", "lost"]
    strong: str
    weak: str
    ratio: float
    scaling: Toward
    opposite: Toward


def decide(evidence: Evidence, rule: LabelRule) -> Verdict:
    """The label of one latent. Exchanging the models exchanges new and lost and changes no other label."""
    few = _too_few(evidence.n_tokens, evidence.n_documents, rule)
    if few is not None:
        return few
    if not evidence.comparable:
        return Verdict(
            "undetermined",
            "the models share no space and no linear map carries directions from one to the other, so they and latent scaling cannot be "
            "compared, and norms alone never decide",
        )
    if evidence.norm_reference + evidence.norm_intervened == 0:
        return Verdict("undetermined", "writes into neither model: both decoder norms are 0")
    verdict = _compared(evidence, rule)
    if verdict.label in CLAIMED and evidence.q_value > rule.false_discovery_rate:
        return Verdict(
            "undetermined",
            f"{verdict.reason}: {verdict.label}, but q-value {evidence.q_value:.2g} (> {rule.false_discovery_rate:g}): too many "
            "latents with this much evidence are to be expected from nothing",
        )
    return verdict


def _compared(evidence: Evidence, rule: LabelRule) -> Verdict:
    """The label by norms, directions and latent scaling, before q-values."""
    side = _lean(evidence)
    if side.ratio <= rule.weak_norm and _absent(side.scaling, rule):
        if evidence.twin is not None and lies_near(evidence.twin.cosine, rule):
            return _elsewhere(evidence.twin, side, rule)
        return _exclusive(side, rule)
    if side.ratio <= min(NEARLY_NOTHING, rule.weak_norm):
        return _artifact(side, rule)
    for scaling, without in ((side.scaling, side.weak), (side.opposite, side.strong)):
        if _absent(scaling, rule):
            return _contradicted(evidence, side, scaling, without, rule)
    return _geometry(evidence, side, rule)


def _too_few(n_tokens: int, n_documents: int, rule: LabelRule) -> Verdict | None:
    """The label of a latent that was hardly seen; None where it was seen enough."""
    if n_tokens == 0:
        return Verdict("dead", "fired on no held-out token")
    if n_documents < rule.min_documents:
        seen = f"fired in {n_documents} held-out document{'s' * (n_documents != 1)}"
        return Verdict("undetermined", f"{seen} (at least {rule.min_documents} needed)")
    return None


def _lean(evidence: Evidence) -> _Leaning:
    weaker, stronger = sorted((evidence.norm_reference, evidence.norm_intervened))
    ratio = weaker / stronger
    if evidence.norm_intervened >= evidence.norm_reference:
        return _Leaning("new", "intervened model", "reference", ratio, evidence.new, evidence.lost)
    return _Leaning("lost", "reference", "intervened model", ratio, evidence.lost, evidence.new)


def _absent(scaling: Toward, rule: LabelRule) -> bool:
    """Whether latent scaling says, bounds included, that the other model lacks the concept."""
    return (
        scaling.nu_error.largest <= rule.nu_error
        and scaling.nu_reconstruction.largest <= rule.nu_reconstruction
    )


def _contradicted(
    evidence: Evidence, side: _Leaning, scaling: Toward, without: str, rule: LabelRule
) -> Verdict:
    """Latent scaling says that the model `without` lacks the concept, but its decoder row is not weak."""
    share = side.ratio if without == side.weak else 1.0
    reason = (
        f"latent scaling finds it absent in the {without} (nu_error {_two(scaling.nu_error.value)}, nu_reconstruction "
        f"{_two(scaling.nu_reconstruction.value)}), yet {_two(share)} of its larger norm lies there"
    )
    if evidence.cosine < rule.rotated_cosine and side.ratio >= ROTATED_RATIO:
        reason += (
            f", along another direction (cosine {_two(evidence.cosine)}): a turn by nearly 90° cannot be told from two "
            "features in one latent"
        )
    return Verdict("undetermined", reason)


def _exclusive(side: _Leaning, rule: LabelRule) -> Verdict:
    """New or lost: norm and latent scaling agree."""
    error, reconstruction = side.scaling.nu_error, side.scaling.nu_reconstruction
    return Verdict(
        side.label,
        f"{side.weak} norm {_two(side.ratio)} of the {side.strong}'s (<= {rule.weak_norm:.2f}), nu_error {_two(error.value)} "
        f"(<= {rule.nu_error:.2f}), nu_reconstruction {_two(reconstruction.value)} (<= {rule.nu_reconstruction:.2f}), {_percent(rule)} "
        "upper bounds below",
    )


def _elsewhere(twin: Twin, side: _Leaning, rule: LabelRule) -> Verdict:
    """In one model alone where it fires, but the other has the direction on other tokens: how much more often is the one?"""
    if twin.cosine < rule.shared_cosine:
        return Verdict(
            "undetermined",
            f"in the {side.strong} alone where it fires, but another latent writes a direction near it (cosine {_two(twin.cosine)}) into "
            f"the {side.weak} on other tokens: neither absent (< {rule.rotated_cosine:.2f}) nor the same (>= {rule.shared_cosine:.2f})",
        )
    relative = twin.relative_rate
    found = (
        f"in the {side.strong} alone where it fires, but another latent writes the same direction (cosine {_two(twin.cosine)}) into "
        f"the {side.weak} on other tokens, so the concept is in both; relative rate {_two(relative.value)} "
        f"[{_two(relative.low)}, {_two(relative.high)}]"
    )
    times = f"{rule.rate_ratio:g} times as often in one model"
    if differs_in_rate(relative.low, relative.high, rule):
        return Verdict("reweighted", f"{found}: at least {times}, interval included")
    return Verdict("undetermined", f"{found}: it is not established that it is there {times}")


def _artifact(side: _Leaning, rule: LabelRule) -> Verdict:
    """The norm alone says that the latent is in one model only: why latent scaling does not."""
    norm = f"{side.weak} norm {_two(side.ratio)} of the {side.strong}'s"
    error, reconstruction = side.scaling.nu_error, side.scaling.nu_reconstruction
    if math.isnan(error.value) or math.isnan(reconstruction.value):
        return Verdict(
            "undetermined",
            f"{norm}, but latent scaling is not estimable: the {side.strong} itself hardly holds the direction",
        )
    numbers = f"nu_error {_two(error.value)} (<= {rule.nu_error:.2f}), nu_reconstruction {_two(reconstruction.value)}"
    numbers = f"{numbers} (<= {rule.nu_reconstruction:.2f})"
    if math.isnan(error.largest + reconstruction.largest):
        return Verdict(
            "undetermined", f"{norm}, but it fires in too few blocks of documents to bound latent scaling"
        )
    if abs(error.value) > rule.nu_error:
        return Verdict(
            "undetermined",
            f"{norm}, but nu_error {_two(error.value)} (> {rule.nu_error:.2f}): the concept sits in the {side.weak}'s residual "
            "(complete shrinkage)",
        )
    if abs(reconstruction.value) > rule.nu_reconstruction:
        return Verdict(
            "undetermined",
            f"{norm}, but nu_reconstruction {_two(reconstruction.value)} (> {rule.nu_reconstruction:.2f}): other latents "
            f"already write it in the {side.weak} (latent decoupling)",
        )
    wide = f"bounds reach nu_error {_two(error.largest)}, nu_reconstruction {_two(reconstruction.largest)}"
    return Verdict("undetermined", f"{norm}, {numbers}, but the evidence is thin: {_percent(rule)} {wide}")


def _geometry(evidence: Evidence, side: _Leaning, rule: LabelRule) -> Verdict:
    """Rotated, shared or rescaled: the latent writes into both models."""
    both = (
        f"decoder cosine {_two(evidence.cosine)}, {side.weak} norm {_two(side.ratio)} of the {side.strong}'s"
    )
    if math.isnan(evidence.cosine):
        return Verdict("undetermined", "the two decoder directions cannot be compared")
    if evidence.cosine < rule.rotated_cosine:
        if evidence.mapped:
            return Verdict(
                "undetermined",
                f"{both}: the models share no space, and that the map between them is inexact cannot be told from a turn",
            )
        if side.ratio < ROTATED_RATIO:
            return Verdict(
                "undetermined",
                f"{both}: turned (cosine < {rule.rotated_cosine:.2f}), but too unequal for rotated (< {ROTATED_RATIO:.2f})",
            )
        # Not estimable counts as too little: NaN compares as false.
        if not (side.scaling.own >= OWN_CONCEPT and side.opposite.own >= OWN_CONCEPT):
            return Verdict(
                "undetermined",
                f"{both}, but one model holds little of what its direction writes (leaked norm)",
            )
        made_up = _made_up_for(evidence, rule)
        if made_up is not None:
            return Verdict("undetermined", f"{both}, but {made_up}")
        return Verdict(
            "rotated",
            f"{both} (cosine < {rule.rotated_cosine:.2f}, norm >= {ROTATED_RATIO:.2f}), and the other latents do not turn it back "
            f"(nu_reconstruction {_two(evidence.new.nu_reconstruction.value)} and {_two(evidence.lost.nu_reconstruction.value)}, "
            f"{_percent(rule)} upper bounds < {rule.rotated_cosine:.2f})",
        )
    if evidence.cosine < rule.shared_cosine:
        return Verdict(
            "undetermined",
            f"{both}: between rotated (cosine < {rule.rotated_cosine:.2f}) and shared (>= {rule.shared_cosine:.2f})",
        )
    if side.ratio >= rule.shared_ratio:
        return Verdict(
            "shared", f"{both} (cosine >= {rule.shared_cosine:.2f}, norm >= {rule.shared_ratio:.2f})"
        )
    return _rescaled(side, rule, both)


def _made_up_for(evidence: Evidence, rule: LabelRule) -> str | None:
    """Why a turn may be none: a model holds the direction that its own row lacks, by what other latents write into it."""
    for scaling, model in ((evidence.new, "reference"), (evidence.lost, "intervened model")):
        part = scaling.nu_reconstruction
        if math.isnan(part.largest):
            return f"what the {model} holds of the other's direction has no bound: too few blocks of documents, or none of its own"
        if part.largest >= rule.rotated_cosine:
            return (
                f"other latents write the other direction into the {model}: nu_reconstruction {_two(part.value)}, with an upper bound that "
                f"is not below {rule.rotated_cosine:.2f}, so together they may not turn at all"
            )
    return None


def _rescaled(side: _Leaning, rule: LabelRule, both: str) -> Verdict:
    error = side.scaling.nu_error
    if math.isnan(error.low + error.high):
        return Verdict("undetermined", f"{both}, but nu_error has no interval to compare the norms with")
    measured = f"nu_error {_two(error.value)} [{_two(error.low)}, {_two(error.high)}]"
    near = error.low - RATIO_TOLERANCE <= side.ratio <= error.high + RATIO_TOLERANCE
    if error.low > rule.nu_error and near:
        return Verdict("rescaled", f"{both} (norm < {rule.shared_ratio:.2f}), and {measured} agrees")
    return Verdict("undetermined", f"{both}, but {measured} does not agree with that ratio")


class RateEvidence(NamedTuple):
    """What is known of a latent with one direction for both models and a code of each."""

    n_tokens: int
    n_documents: int
    rate_reference: float
    """Share of the tokens on which it fires in the reference."""
    rate_intervened: float
    relative_rate: Bounded
    """rate_intervened / (rate_reference + rate_intervened)."""


@overload
def lies_near(cosine: float, rule: LabelRule) -> bool: ...
@overload
def lies_near(cosine: np.ndarray, rule: LabelRule) -> np.ndarray: ...
def lies_near(cosine: Any, rule: LabelRule) -> Any:
    """Whether the nearest direction in the other model is too near for a latent's to be absent there; of one latent or many."""
    return cosine >= min(rule.rotated_cosine, rule.shared_cosine)


@overload
def differs_in_rate(low: float, high: float, rule: LabelRule) -> bool: ...
@overload
def differs_in_rate(low: np.ndarray, high: np.ndarray, rule: LabelRule) -> np.ndarray: ...
def differs_in_rate(low: Any, high: Any, rule: LabelRule) -> Any:
    """Whether one model holds a direction at least `rate_ratio` times as often, by the bounds of its relative rate; of one latent or many."""
    limit = rule.rate_ratio / (1 + rule.rate_ratio)
    return (low >= limit) | (high <= 1 - limit)


def decide_by_rate(evidence: RateEvidence, rule: LabelRule) -> Verdict:
    """The label of one latent of a shared-dictionary SAE. Exchanging the models changes no label."""
    few = _too_few(evidence.n_tokens, evidence.n_documents, rule)
    if few is not None:
        return few
    relative, limit = evidence.relative_rate, rule.rate_ratio / (1 + rule.rate_ratio)
    rates = (
        f"fires on {100 * evidence.rate_reference:.3g} % of the reference's tokens and {100 * evidence.rate_intervened:.3g} % of "
        f"the intervened model's"
    )
    if math.isnan(relative.low + relative.high):
        return Verdict(
            "undetermined", f"{rates}, in too few blocks of documents to bound how much more often"
        )
    measured = f"{rates} (relative rate {_two(relative.value)} [{_two(relative.low)}, {_two(relative.high)}])"
    if max(relative.value, 1 - relative.value) > _ALONE:
        return Verdict(
            "undetermined",
            f"{measured}: nearly in one model alone, so it may be new or lost; one direction for both models has no norms to tell",
        )
    times = f"{rule.rate_ratio:g} times as often in one model"
    if differs_in_rate(relative.low, relative.high, rule):
        return Verdict("reweighted", f"{measured}: at least {times}, interval included")
    if 1 - limit < relative.low and relative.high < limit:
        return Verdict("shared", f"{measured}: less than {times}, interval included")
    return Verdict("undetermined", f"{measured}: the interval leaves open whether it fires {times}")


def _percent(rule: LabelRule) -> str:
    return f"{100 * rule.confidence:g} %"


def _two(number: float) -> str:
    """Two decimals, and no minus before a zero."""
    return f"{round(number, 2) + 0.0:.2f}"
