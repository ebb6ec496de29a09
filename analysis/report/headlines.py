"""The opening of the report. A finding is stated only if it rests on checks that passed (`grounds`); otherwise the report says what was not
established, and what it would need."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..discovery.findings_file import Discovery
from ..labels.rule import CLAIMED
from ..tables.analysis_files import AnalysisResults
from .behavior_headlines import behavior_drafts
from .behavior_schema import BehaviorShift
from .change_headlines import change_drafts
from .discovery_headlines import discovery_drafts
from .grounds import FOUND_AGAIN, Q_VALUES, Draft, Grounds, condition_names
from .headline_schema import Headline, LabelCount
from .label_conditions import conditions_of, is_withheld, withheld_sentence
from .phrases import NOT_MEASURED
from .schema import Check, Requirement
from .wording import Part, Sentence, listed, say

_OTHER_CHANGES = ("replaced", "rotated", "rescaled", "reweighted")


def headlines(
    results: AnalysisResults,
    counts: tuple[LabelCount, ...],
    checks: tuple[Check, ...],
    requirements: Sequence[Requirement],
    behaviors: tuple[BehaviorShift, ...],
    discovered: Discovery | None,
    grounds: Grounds,
    identical: bool,
) -> tuple[Headline, ...]:
    """Return the sentences that open the report."""
    summary, withheld = results.summary, is_withheld(results.summary)
    conditions, claims = _conditions_and_claims(summary, grounds)
    # Findings rest on no dictionary, so they come before what is said about it.
    drafts = list(discovery_drafts(discovered, grounds))
    if withheld:
        why = withheld_sentence(summary)
        drafts.append(Draft(why, kind="not established", about="labels withheld"))
    if identical:
        same = "Both models computed identical activations: there is no difference to explain, and nothing below describes one."
        drafts.append(Draft(say(same), kind="measured"))
    drafts += change_drafts(summary, claims, withheld)
    for behavior in behaviors:
        drafts += behavior_drafts(behavior)
    if not withheld:
        drafts += _label_drafts(results, counts, grounds, conditions, claims)
    if not identical:
        drafts.append(Draft(_explained(results), kind="measured"))
    drafts.append(Draft(_conditions(checks, requirements), kind="conditions"))
    return tuple(grounds.settle(drafts))


def _explained(results: AnalysisResults) -> Sentence:
    fve = (results.summary.get("fve") or {}).get("difference")
    if fve is not None:
        return say(
            "The dictionary explains {fve_difference:percent} of the variance of the difference between the models' activations.",
            fve_difference=fve,
        )
    return say(
        "The models differ in width, so their activations have no difference that the dictionary could explain."
        if results.labels_undefined
        else "How much of the difference between the models' activations the dictionary explains is not measured."
    )


def _conditions(checks: tuple[Check, ...], requirements: Sequence[Requirement]) -> Sentence:
    """Return which conditions and requirements failed, and which conditions were not measured."""
    failed, unmeasured = (
        "; ".join(check.name for check in checks if check.verdict == verdict)
        for verdict in ("fail", NOT_MEASURED)
    )
    missed = [requirement for requirement in requirements if requirement.verdict == "fail"]
    missed_text: Part = "No requirement on an explanation failed."
    if missed:
        missed_text = say(
            "Requirements on an explanation that failed: {missed}.",
            missed=listed(
                (
                    (
                        one.key,
                        say(
                            f"{one.family}: {one.name} (found {{shown}}; required {{threshold}})",
                            shown=one.shown.under("shown"),
                            threshold=one.threshold.under("threshold"),
                        ),
                    )
                    for one in missed
                ),
                "; ",
            ),
        )
    return say(
        "{failed} {missed}{unmeasured}",
        failed=f"Conditions for a comparison that failed: {failed}."
        if failed
        else "No condition for a comparison failed.",
        missed=missed_text,
        unmeasured=f" Conditions not measured: {unmeasured}." if unmeasured else "",
    )


# --- labels -----------------------------------------------------------------------------------------------------------


def why_unlabeled(results: AnalysisResults) -> Sentence | None:
    """Return why no label of the run may be stated; None if labels may be, as far as their own checks passed."""
    return withheld_sentence(results.summary) if is_withheld(results.summary) else _why_undefined(results)


def why_no_change(results: AnalysisResults, grounds: Grounds) -> Sentence | None:
    """Return why no label of change of a labeled run may be stated; None if they may be."""
    _, claims = _conditions_and_claims(results.summary, grounds)
    return None if claims and grounds.passed(*claims) else _not_established(results, grounds, claims)


def _conditions_and_claims(
    summary: Mapping[str, Any], grounds: Grounds
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the checks that a label rests on, and of those that a label of change rests on."""
    conditions = grounds.measured(condition_names(summary))
    return conditions, (*conditions, *(name for name in (FOUND_AGAIN, Q_VALUES) if name in grounds.by_name))


def _label_drafts(
    results: AnalysisResults,
    counts: tuple[LabelCount, ...],
    grounds: Grounds,
    conditions: tuple[str, ...],
    claims: tuple[str, ...],
) -> Iterator[Draft]:
    """Yield how many latents have each label, what replication removed, and what "shared" means in this run."""
    by_label = {count.label: count for count in counts}
    undefined = _why_undefined(results)
    if undefined is not None:
        yield Draft(undefined, kind="not established")
        return
    if not results.has_norms:
        yield Draft(_without_norms(results), kind="measured")
    counted = _changed(results, by_label) if results.has_norms else _reweighted(by_label["reweighted"])
    if counted is not None:
        yield Draft(counted, claims, otherwise=_not_established(results, grounds, claims))
    if grounds.passed(FOUND_AGAIN):
        yield from _removed(results)
    if by_label["shared"].count:
        yield Draft(_shared(results, by_label["shared"]), conditions)


def _why_undefined(results: AnalysisResults) -> Sentence | None:
    """Return why labels are undefined, or unfit to be stated; None if they are neither."""
    if results.labels_undefined:
        return _undefined(len(results.features))
    if conditions_of(results.summary):
        return None
    return say(
        "Which latents changed is not established: whether this dictionary is fit to be labeled was not checked, because an earlier release "
        "made the analysis. Run crosscoder analyze again."
    )


def _undefined(total: int) -> Sentence:
    return say(
        "The two models share no activation space, and no linear map between them carries directions, so a direction of one model cannot "
        "be looked up in the other. Which of {n_latents:counted latent} are new, lost or shared is undefined, and none is labeled so. "
        "The report gives where each latent fires, and how strongly it writes into each model.",
        n_latents=total,
    )


def _without_norms(results: AnalysisResults) -> Sentence:
    return say(
        "This dictionary has no separate decoder norms for the two models, so it calls no latent new or lost. It gives the share of the "
        "activation shift of each of {n_latents:counted latent}.",
        n_latents=len(results.features),
    )


def _reweighted(count: LabelCount) -> Sentence | None:
    if not count.count:
        return None
    return say(
        f"{{reweighted:counted latent}} {'fires' if count.count == 1 else 'fire'} at different rates in the two models (reweighted).",
        reweighted=count.count,
    )


def _changed(results: AnalysisResults, by_label: Mapping[str, LabelCount]) -> Sentence:
    total = len(results.features)
    new, lost, others = by_label["new"], by_label["lost"], _other_changes(by_label)
    open_ = _undetermined(by_label["undetermined"].count, total)
    alone = _alone(results)
    if not new.count and not lost.count:
        return say(
            "Of {n_latents:counted latent}, none is called new (only in the intervened model) or lost (only in the reference) by the label rule"
            "{at_most}.{others}{open}{alone}",
            n_latents=total,
            others=others,
            open=open_,
            alone=alone,
            at_most=_at_most(new, lost),
        )
    return say(
        "Of {n_latents:counted latent}, {new:,} {new_verb} new: only in the intervened model{new_range}. {lost:,} {lost_verb} lost: only in "
        "the reference{lost_range}.{others}{open}{expected}{alone}",
        n_latents=total,
        new=new.count,
        new_verb=_is(new.count),
        new_range=_range(new),
        lost=lost.count,
        lost_verb=_is(lost.count),
        lost_range=_range(lost),
        others=others,
        open=open_,
        alone=alone,
        expected=_expected(new, lost),
    )


def _alone(results: AnalysisResults) -> str:
    """Return a warning if the rule asks for no other training."""
    if (results.summary.get("rule") or {}).get("replications"):
        return ""
    return " These are the labels of one training alone: the rule asks for no other training to find them again (analysis.rule.replications)."


def _shared(results: AnalysisResults, shared: LabelCount) -> Sentence:
    return say(
        "{shared:counted latent} {verb} {meaning}.",
        shared=shared.count,
        verb=_is(shared.count),
        meaning=shared_meaning(results),
    )


def shared_meaning(results: AnalysisResults) -> Sentence:
    """Return what the label shared means in this run: it says nothing about what the dictionary does not explain."""
    fve = (results.summary.get("fve") or {}).get("difference")
    if fve is None:
        return say("the same in both models, as far as this dictionary sees")
    return say(
        "the same in both models, as far as this dictionary sees (it explains {fve_difference:percent} of the difference)",
        fve_difference=fve,
    )


def _candidates(results: AnalysisResults) -> Counter[str]:
    """Return how many latents this training alone would call changed, by label, that are not labeled so although their q-value is small
    enough."""
    features = results.features
    if "candidate" not in features:
        return Counter()
    limit = (results.summary.get("rule") or {}).get("false_discovery_rate") or 1.0
    q_value = (
        features["q_value"].to_numpy(dtype=float, na_value=np.nan)
        if "q_value" in features
        else np.full(len(features), np.nan)
    )
    kept = features["candidate"].isin(CLAIMED) & ~features["label"].isin(CLAIMED) & ~(q_value > limit)
    return Counter(features.loc[kept, "candidate"].tolist())


def _removed(results: AnalysisResults) -> Iterator[Draft]:
    """Yield, in one line, what replication removed."""
    found = _candidates(results)
    total = sum(found.values())
    if not total:
        return
    one = next(iter(found)) if len(found) == 1 else None
    text = say(
        "{removed:counted further latent} would be called {label} by this training alone{kinds}; the other trainings do not find {them} again.",
        removed=total,
        label=one or "changed",
        kinds="" if one else say(" ({kinds})", kinds=_by_label(found)),
        them="it" if total == 1 else "them",
    )
    yield Draft(text, kind="not established")


def _by_label(found: Counter[str]) -> Sentence:
    return listed(
        (label, say(f"{{latents:,}} {label}", latents=found[label])) for label in CLAIMED if found[label]
    )


def _not_established(results: AnalysisResults, grounds: Grounds, claims: tuple[str, ...]) -> Sentence:
    """Return why no change is claimed, and what that would need."""
    found = _candidates(results)
    alone: Part = ""
    if found:
        alone = say(
            " By this training alone, {candidates:counted latent} would be called changed ({kinds}).",
            candidates=sum(found.values()),
            kinds=_by_label(found),
        )
    if grounds.verdict(FOUND_AGAIN) == NOT_MEASURED and FOUND_AGAIN in claims:
        return say(
            "Which latents changed is not established: {asked:counted other training} must find a change again, and the run has {seeds} "
            "(controls.seeds).{alone}",
            asked=(results.summary.get("rule") or {}).get("replications"),
            seeds=(results.summary.get("controls") or {}).get("seeds") or 0,
            alone=alone,
        )
    if not claims:
        return say(
            "Which latents changed is not established: no check of the labels was made.{alone}", alone=alone
        )
    failed = [grounds.by_name[name] for name in claims if not grounds.passed(name)]
    return say(
        "Which latents changed is not established: {why}.{alone}",
        why=listed(((ground.name, ground.found) for ground in failed), "; "),
        alone=alone,
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
        for label in _OTHER_CHANGES
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
    """Return how many new and lost latents the null pairs lead to expect."""
    if new.expected_false is None or lost.expected_false is None:
        return say(" How many to expect by chance is not measured.")
    return say(
        " {expected_new} and {expected_lost} are expected under the nulls tried, models that differ by as much but in no feature{bounds}.",
        expected_new=say("{expected_new:.3g} new", expected_new=new.expected_false),
        expected_lost=say("{expected_lost:.3g} lost", expected_lost=lost.expected_false),
        bounds=""
        if new.expected_false_high is None or lost.expected_false_high is None
        else say(
            " (at most {new_high:.1f} and {lost_high:.1f}), before the other trainings were asked",
            new_high=new.expected_false_high,
            lost_high=lost.expected_false_high,
        ),
    )
