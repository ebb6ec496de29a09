"""The report's summary: how behaviors shifted, how many latents changed, how much is explained, and which conditions failed."""

from collections.abc import Mapping

from ..behaviors.behavior_files import MIN_SHARE
from ..tables.analysis_files import AnalysisResults
from .behavior_schema import BehaviorShift
from .phrases import NOT_MEASURED, unit_format
from .schema import Check, LabelCount
from .wording import Part, Sentence, listed, named, say


def summary_sentences(
    results: AnalysisResults,
    counts: tuple[LabelCount, ...],
    checks: tuple[Check, ...],
    behaviors: tuple[BehaviorShift, ...],
    identical: bool,
) -> tuple[Sentence, ...]:
    """Return the sentences that open the report."""
    if identical:
        same = "Both models computed identical activations: there is no difference to explain, and nothing below describes one."
        return say(same), _changed_latents(results, counts)
    fve = (results.summary.get("fve") or {}).get("difference")
    explained = (
        say(
            "The dictionary explains {fve_difference:percent} of the variance of the difference between the models' activations.",
            fve_difference=fve,
        )
        if fve is not None
        else say(
            "The models differ in width, so their activations have no difference that the dictionary could explain."
            if results.labels_undefined
            else "How much of the difference between the models' activations the dictionary explains is not measured."
        )
    )
    shifts = tuple(_behavior_shift(behavior) for behavior in behaviors)
    return *shifts, _changed_latents(results, counts), explained, _conditions(checks)


def _behavior_shift(behavior: BehaviorShift) -> Sentence:
    """Return whether a behavior shifted, and what its named latents contribute."""
    explanation = behavior.explanation
    if not behavior.established:
        return say("{behavior}: no shift between the models is established.", behavior=named(behavior.name))
    values = _values(behavior)
    if explanation is None:
        return say(
            "{behavior} changed {values}. The shift is not attributed to latents.",
            behavior=named(behavior.name),
            values=values,
        )
    if explanation.level != "causal":
        return say(
            "{behavior} changed {values}. No latents are shown to cause the shift.",
            behavior=named(behavior.name),
            values=values,
        )
    if explanation.sufficiency is None:
        return say(
            "{behavior} changed {values}. Some of the intervened model's behavior is caused by {latents:counted latent} together: setting all of "
            "them to their mean undoes {necessity:percent} of what it does beyond its mean activation.",
            behavior=named(behavior.name),
            values=values,
            latents=len(explanation.latents),
            necessity=explanation.necessity.share.value,
        )
    answers = explanation.answers_necessity, explanation.answers_sufficiency
    if any(answers) and not any(check and (check.share.low or 0) > MIN_SHARE for check in answers):
        return say(
            "{behavior} changed {values}. In generated answers, removing or adding {latents:counted latent} is not shown to change it. In the "
            "stand-in metric, removing them from the intervened model undoes {necessity:percent} of the shift, and adding "
            "them to the reference's activations produces {sufficiency:percent}.",
            behavior=named(behavior.name),
            values=values,
            latents=len(explanation.latents),
            necessity=explanation.necessity.share.value,
            sufficiency=explanation.sufficiency.share.value,
        )
    necessity = explanation.answers_necessity or explanation.necessity
    sufficiency = explanation.answers_sufficiency or explanation.sufficiency
    return say(
        "{behavior} changed {values}. Some of the shift is caused by {latents:counted latent} together: removing all of them from the "
        "intervened model undoes {necessity:percent} of it{where}, and adding them to the reference's activations produces "
        "{sufficiency:percent} of it.",
        behavior=named(behavior.name),
        values=values,
        latents=len(explanation.latents),
        necessity=necessity.share.value,
        where=" in generated answers" if explanation.answers_necessity else "",
        sufficiency=sufficiency.share.value,
    )


def _values(behavior: BehaviorShift) -> Sentence:
    """Return the behavior's value in each model."""
    form = unit_format(behavior.unit)
    return say(
        "from {reference} in the reference to {intervened} in the intervened model ({unit})",
        reference=say(f"{{reference:{form}}}", reference=behavior.reference.value),
        intervened=say(f"{{intervened:{form}}}", intervened=behavior.intervened.value),
        unit=behavior.unit,
    )


def _conditions(checks: tuple[Check, ...]) -> Sentence:
    failed, unmeasured = (
        "; ".join(check.name for check in checks if check.verdict == verdict)
        for verdict in ("fail", NOT_MEASURED)
    )
    return say(
        "{failed}{unmeasured}",
        failed=f"Conditions for a comparison that failed: {failed}."
        if failed
        else "No condition for a comparison failed.",
        unmeasured=f" Conditions not measured: {unmeasured}." if unmeasured else "",
    )


def _changed_latents(results: AnalysisResults, counts: tuple[LabelCount, ...]) -> Sentence:
    total = len(results.features)
    by_label = {count.label: count for count in counts}
    if not results.has_norms:
        reweighted = by_label["reweighted"].count
        return say(
            "This dictionary has no separate decoder norms for the two models, so it calls no latent new or lost. It gives the share of the "
            "activation shift of each of {n_latents:counted latent}.{rates}",
            n_latents=total,
            rates=say(
                f" {{reweighted:counted latent}} {'fires' if reweighted == 1 else 'fire'} at different rates in the two models (reweighted).",
                reweighted=reweighted,
            )
            if reweighted
            else "",
        )
    if results.labels_undefined:
        return say(
            "The two models share no activation space, and no linear map between them carries directions, so a direction of one model cannot "
            "be looked up in the other. Which of {n_latents:counted latent} are new, lost or shared is undefined, and none is labeled so. "
            "The report gives where each latent fires, and how strongly it writes into each model.",
            n_latents=total,
        )
    new, lost, others = by_label["new"], by_label["lost"], _other_changes(by_label)
    open_ = _undetermined(by_label["undetermined"].count, total)
    if not new.count and not lost.count:
        return say(
            "Of {n_latents:counted latent}, none is called new (only in the intervened model) or lost (only in the reference) by the rule "
            "below{at_most}.{others}{open}",
            n_latents=total,
            others=others,
            open=open_,
            at_most=_at_most(new, lost),
        )
    return say(
        "Of {n_latents:counted latent}, {new:,} {new_verb} new: only in the intervened model{new_range}. {lost:,} {lost_verb} lost: only in "
        "the reference{lost_range}.{others}{open}{expected}",
        n_latents=total,
        new=new.count,
        new_verb=_is(new.count),
        new_range=_range(new),
        lost=lost.count,
        lost_verb=_is(lost.count),
        lost_range=_range(lost),
        others=others,
        open=open_,
        expected=_expected(new, lost),
    )


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _other_changes(by_label: Mapping[str, LabelCount]) -> Part:
    """Return a sentence for each other label of change that some latents have."""
    found = [
        (
            label,
            say(
                " {latents:counted latent} {verb} {label}: {meaning}{range}.",
                latents=by_label[label].count,
                verb=_is(by_label[label].count),
                label=label,
                meaning=by_label[label].meaning,
                range=_range(by_label[label]),
            ),
        )
        for label in ("rotated", "rescaled", "reweighted")
        if by_label[label].count
    ]
    return listed(found, "") if found else ""


def _undetermined(undetermined: int, total: int) -> Part:
    """Return for how many latents the evidence is not enough: none of them is called new, and none is shown not to be."""
    if not undetermined:
        return ""
    return say(
        " For {undetermined} the evidence does not settle what changed (undetermined).",
        undetermined="all of them"
        if undetermined == total
        else say("{latents:counted latent}", latents=undetermined),
    )


def _at_most(new: LabelCount, lost: LabelCount) -> Part:
    if new.high is None:
        return ""
    if not new.high and not lost.high:
        return say(
            " ({low:.0f} to {high:.0f} of either if other held-out text had been read)",
            low=new.low,
            high=new.high,
        )
    return say(
        " (up to {new_high:.0f} new and {lost_high:.0f} lost if other held-out text had been read)",
        new_high=new.high,
        lost_high=lost.high,
    )


def _range(count: LabelCount) -> Part:
    if count.low is None or count.high is None:
        return ""
    return say(
        " ({low:.0f} to {high:.0f} if other held-out text had been read)", low=count.low, high=count.high
    ).under(count.label)


def _expected(new: LabelCount, lost: LabelCount) -> Sentence:
    """Return how many new and lost latents to expect by chance."""
    if new.expected_false is None or lost.expected_false is None:
        return say(" How many to expect by chance is not measured.")
    return say(
        " For comparison, a null pair (two models that differ by as much, but in no feature) has {expected_new:.1f} new and "
        "{expected_lost:.1f} lost latents with at least as large an effect.",
        expected_new=new.expected_false,
        expected_lost=lost.expected_false,
    )
