"""What was found, in a few sentences: how many latents changed, how much is explained, and which conditions failed."""

from collections.abc import Mapping

from ..behaviors.behavior_files import LEAST_SHARE
from ..tables.analysis_files import AnalysisResults
from .behavior_schema import BehaviorShift
from .behavior_shifts import form_of
from .phrases import NOT_MEASURED
from .schema import Check, LabelCount
from .wording import Part, Sentence, listed, named, say


def summary_sentences(
    results: AnalysisResults,
    counts: tuple[LabelCount, ...],
    checks: tuple[Check, ...],
    behaviors: tuple[BehaviorShift, ...],
    identical: bool,
) -> tuple[Sentence, ...]:
    """The first thing that a reader sees."""
    if identical:
        same = "Both sides computed identical activations: there is no difference to explain, and nothing below is one."
        return say(same), _new_and_lost(results, counts)
    fve = (results.summary.get("fve") or {}).get("difference")
    explained = (
        say(
            "The dictionary explains {fve_difference:percent} of the difference between the models.",
            fve_difference=fve,
        )
        if fve is not None
        else say(
            "Between models of different width there is no difference that the dictionary could explain."
            if results.labels_undefined
            else "How much of the difference the dictionary explains is not measured."
        )
    )
    shifted = tuple(_shifted(behavior) for behavior in behaviors)
    return *shifted, _new_and_lost(results, counts), explained, _verdicts(checks)


def _shifted(behavior: BehaviorShift) -> Sentence:
    """Whether a behavior shifted, and what its named latents do to that."""
    explanation = behavior.explanation
    if not behavior.established:
        return say("{behavior}: no shift established.", behavior=named(behavior.name))
    values = _values(behavior)
    if explanation is None:
        return say(
            "{behavior}: {values}. The shift is not told apart.",
            behavior=named(behavior.name),
            values=values,
        )
    if explanation.level != "causal":
        return say(
            "{behavior}: {values}. No latents are shown to cause the shift.",
            behavior=named(behavior.name),
            values=values,
        )
    if explanation.sufficiency is None:
        return say(
            "{behavior}: {values}. {latents:counted latent} together cause some of what the intervened model does: brought to their "
            "mean there they undo {necessity:percent} of it.",
            behavior=named(behavior.name),
            values=values,
            latents=len(explanation.latents),
            necessity=explanation.necessity.share.value,
        )
    answers = explanation.answers_necessity, explanation.answers_sufficiency
    if any(answers) and not any(check and (check.share.low or 0) > LEAST_SHARE for check in answers):
        return say(
            "{behavior}: {values}. In generated answers {latents:counted latent} are not shown to change it; in the metric that stands in "
            "for them, taking them out undoes {necessity:percent} of the shift and putting them in brings {sufficiency:percent}.",
            behavior=named(behavior.name),
            values=values,
            latents=len(explanation.latents),
            necessity=explanation.necessity.share.value,
            sufficiency=explanation.sufficiency.share.value,
        )
    necessity = explanation.answers_necessity or explanation.necessity
    sufficiency = explanation.answers_sufficiency or explanation.sufficiency
    return say(
        "{behavior}: {values}. {latents:counted latent} together cause some of the shift: taken out they undo {necessity:percent} of "
        "it{where}, put into the reference's activations they bring {sufficiency:percent}.",
        behavior=named(behavior.name),
        values=values,
        latents=len(explanation.latents),
        necessity=necessity.share.value,
        where=" in generated answers" if explanation.answers_necessity else "",
        sufficiency=sufficiency.share.value,
    )


def _values(behavior: BehaviorShift) -> Sentence:
    """The behavior before and after."""
    form = form_of(behavior.unit)
    return say(
        "from {reference} to {intervened} ({unit})",
        reference=say(f"{{reference:{form}}}", reference=behavior.reference.value),
        intervened=say(f"{{intervened:{form}}}", intervened=behavior.intervened.value),
        unit=behavior.unit,
    )


def _verdicts(checks: tuple[Check, ...]) -> Sentence:
    failed, unmeasured = (
        "; ".join(check.name for check in checks if check.verdict == verdict)
        for verdict in ("fail", NOT_MEASURED)
    )
    return say(
        "{failed}{unmeasured}",
        failed=f"Not met: {failed}." if failed else "No condition for a comparison failed.",
        unmeasured=f" Not measured: {unmeasured}." if unmeasured else "",
    )


def _new_and_lost(results: AnalysisResults, counts: tuple[LabelCount, ...]) -> Sentence:
    total = len(results.features)
    by_label = {count.label: count for count in counts}
    if not results.has_norms:
        reweighted = by_label["reweighted"].count
        return say(
            "This dictionary has no decoder norm for each model, so it calls no latent new or lost. What it gives is each latent's share "
            "of the shift, for {n_latents:counted latent}.{rates}",
            n_latents=total,
            rates=say(" {reweighted:counted latent} fire at another rate.", reweighted=reweighted)
            if reweighted
            else "",
        )
    if results.labels_undefined:
        return say(
            "The models share no space, and no linear map leads between them, so a direction of one has no place in the other: which of the {n_latents:counted latent} is "
            "new, lost or shared is undefined here, and none is called so. What is given is where each fires, and how strongly it "
            "writes into either model.",
            n_latents=total,
        )
    new, lost, others = by_label["new"], by_label["lost"], _others(by_label)
    open_ = _open(by_label["undetermined"].count, total)
    if not new.count and not lost.count:
        return say(
            "Of {n_latents:counted latent}, none is called new or lost by the rule below{at_most}{others}.{open}",
            n_latents=total,
            others=others,
            open=open_,
            at_most=_at_most(new, lost),
        )
    return say(
        "Of {n_latents:counted latent}, {new:,}{new_range} are new (in the intervened model only) and {lost:,}{lost_range} lost (in the "
        "reference only){others}.{open}{expected}",
        n_latents=total,
        new=new.count,
        new_range=_range(new),
        lost=lost.count,
        lost_range=_range(lost),
        others=others,
        open=open_,
        expected=_expected(new, lost),
    )


def _others(by_label: Mapping[str, LabelCount]) -> Part:
    """What else is claimed to have changed."""
    found = [
        (
            label,
            say(
                "{latents:,}{range} {label}",
                latents=by_label[label].count,
                range=_range(by_label[label]),
                label=label,
            ),
        )
        for label in ("rotated", "rescaled", "reweighted")
        if by_label[label].count
    ]
    return say("; {others}", others=listed(found)) if found else ""


def _open(undetermined: int, total: int) -> Part:
    """For how many the evidence leaves it open: none of them is called new, and none is shown not to be."""
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
        return ", nor when documents are resampled (interval 0 to 0)"
    return say(
        " (when documents are resampled, up to {new_high:.0f} new and {lost_high:.0f} lost)",
        new_high=new.high,
        lost_high=lost.high,
    )


def _range(count: LabelCount) -> Part:
    if count.low is None or count.high is None:
        return ""
    return say(" ({low:.0f} to {high:.0f} with other text)", low=count.low, high=count.high).under(
        count.label
    )


def _expected(new: LabelCount, lost: LabelCount) -> Sentence:
    """How many of them to expect from nothing."""
    if new.expected_false is None or lost.expected_false is None:
        return say(" How many to expect from nothing is not measured.")
    return say(
        " A pair that differs as much and in no feature has {expected_new:.1f} new and {expected_lost:.1f} lost ones of as much effect.",
        expected_new=new.expected_false,
        expected_lost=lost.expected_false,
    )
