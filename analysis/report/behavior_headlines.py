"""What the opening says about behaviors: each shift, what its latents cause in the metric in which a check passed, and what is not shown."""

from collections.abc import Iterable, Iterator, Mapping

from .behavior_schema import BehaviorShift, CausalCheck, Explanation
from .grounds import Draft, behavior_ground, check_verdict
from .phrases import unit_format
from .shortages import not_established
from .wording import Part, Sentence, listed, named, say

_POWER = ("verdict", "n_prompts", "prompts_needed", "detectable", "detectable_when_enough")
_ANSWERS = "generated answers"
_TOLD_SINGLY = 2
"""Most checks that a headline tells one by one."""


def behavior_drafts(behavior: BehaviorShift) -> Iterator[Draft]:
    """Yield the sentences about one behavior."""
    name, shift = named(behavior.name), behavior_ground(behavior.name, "shift")
    why = not_established(behavior.model_dump(include=set(_POWER)), behavior.unit)
    nothing = say("{behavior}: {why}", behavior=name, why=_lowered(why))
    if not behavior.established:
        yield Draft(nothing, kind="not established")
        return
    explanation = behavior.explanation
    yield Draft(
        say(
            "{behavior} changed {values}.{rest}",
            behavior=name,
            values=_values(behavior),
            rest=" The shift is not attributed to latents." if explanation is None else "",
        ),
        (shift,),
        otherwise=nothing,
    )
    if explanation is not None:
        yield from _set_claims(behavior, explanation)
        yield from _against(behavior, explanation)


def carrying_drafts(behavior: BehaviorShift) -> Iterator[Draft]:
    """Yield only what carries the shift of a behavior; the shift itself if it is not attributed to latents."""
    if behavior.explanation is None:
        yield from behavior_drafts(behavior)
    else:
        yield from _set_claims(behavior, behavior.explanation)


def _set_claims(behavior: BehaviorShift, explanation: Explanation) -> Iterator[Draft]:
    """Yield, for each metric, what the named latents together cause in it, and one line of what is not shown."""
    metrics: dict[str, tuple[str, Mapping[str, CausalCheck | None]]] = {
        "answers": (
            _ANSWERS,
            {"necessity": explanation.answers_necessity, "sufficiency": explanation.answers_sufficiency},
        ),
        "together": (
            explanation.unit,
            {"necessity": explanation.necessity, "sufficiency": explanation.sufficiency},
        ),
    }
    open_: list[tuple[str, Sentence]] = []
    claimed = False
    for metric, (unit, checks) in metrics.items():
        made = {kind: check for kind, check in checks.items() if check is not None}
        passed = {kind: check for kind, check in made.items() if check_verdict(check) == "pass"}
        if passed:
            grounds = tuple(behavior_ground(behavior.name, metric, kind) for kind in passed)
            # The stability is measured in the metric in which latents are found, not in answers.
            stable = _stability(explanation) if metric == "together" else ""
            text = _claim(behavior, explanation, unit, passed, stable)
            yield Draft(text, (behavior_ground(behavior.name, "shift"), *grounds))
            claimed = True
        open_ += [
            (f"{metric}_{kind}", _open(kind, unit, check, explanation))
            for kind, check in made.items()
            if kind not in passed
        ]
    if open_ and not claimed and len(open_) > _TOLD_SINGLY:
        yield Draft(_none_shown(behavior, explanation, metrics.values()), kind="not established")
    elif open_:
        text = say(
            "{behavior}: {lead} that {open}.",
            behavior=named(behavior.name),
            lead=say(
                "it is not shown of the {latents:counted named latent}", latents=len(explanation.latents)
            )
            if claimed
            else say(
                "no latents are shown to cause the shift: it is not shown of the {latents:counted named latent}",
                latents=len(explanation.latents),
            ),
            open=listed(open_, "; or that "),
        )
        yield Draft(text, kind="not established")


def _none_shown(
    behavior: BehaviorShift,
    explanation: Explanation,
    metrics: Iterable[tuple[str, Mapping[str, CausalCheck | None]]],
) -> Sentence:
    """Return that no check is passed, and what those that could not be made would need; the section on the behavior has each."""
    checks = [check for _, found in metrics for check in found.values() if check is not None]
    reasons = {check.why_not.text: check.why_not for check in checks if check.why_not is not None}.values()
    n_made = sum(check.made for check in checks)
    return say(
        "{behavior}: no latents are shown to cause the shift. {made}{unmade} Each check is listed under the behavior.",
        behavior=named(behavior.name),
        made=say(
            "None of {n:counted check} shows of the {latents:counted named latent} more than of random latents.",
            n=n_made,
            latents=len(explanation.latents),
        )
        if n_made
        else "",
        unmade=say(
            " {n:counted check} could not be made: {why}.",
            n=len(checks) - n_made,
            why=listed(((f"reason_{place}", reason) for place, reason in enumerate(reasons)), "; "),
        )
        if reasons
        else "",
    )


def _claim(
    behavior: BehaviorShift,
    explanation: Explanation,
    unit: str,
    passed: Mapping[str, CausalCheck],
    stable: Part,
) -> Sentence:
    """Return what the checks that passed show, in their metric, with what random latents do."""
    effects = listed(((kind, _effect(kind, check, explanation)) for kind, check in passed.items()), ", and ")
    return say(
        "{behavior}, in {unit}: {latents:counted latent} {cause} some of {whole}: {effects}{stable}.",
        behavior=named(behavior.name),
        unit=unit,
        latents=len(explanation.latents),
        cause="causes" if len(explanation.latents) == 1 else "together cause",
        whole="what the intervened model does" if explanation.sufficiency is None else "the shift",
        effects=effects,
        stable=stable,
    )


def _effect(kind: str, check: CausalCheck, explanation: Explanation) -> Sentence:
    return say(
        f"{edit_words(kind, explanation)} {{share:percent}}{{bounds}} of {whole_words(explanation)} (random latents {{random:percent}} on average)",
        share=check.share.value,
        bounds=""
        if check.share.low is None or check.share.high is None
        else say(" ({low:percent} to {high:percent})", low=check.share.low, high=check.share.high),
        random=check.random_mean,
    )


def edit_words(kind: str, explanation: Explanation) -> str:
    """Return what a check of the named latents does; a share of `whole_words` follows."""
    if kind == "sufficiency":
        return "adding them to the reference's activations produces"
    if explanation.sufficiency is None:
        return "setting them to their mean in the intervened model undoes"
    return "removing them from the intervened model undoes"


def whole_words(explanation: Explanation) -> str:
    """Return what the shares of the checks are shares of."""
    return "the shift" if explanation.sufficiency is not None else "what it does beyond its mean activation"


def _stability(explanation: Explanation) -> Part:
    found = explanation.stability
    if found.trainings is None or found.causal is None:
        return "; not repeated with other trainings of the dictionary"
    return say(
        "; causal in {causal} of {trainings:counted training}", causal=found.causal, trainings=found.trainings
    )


def _open(kind: str, unit: str, check: CausalCheck, explanation: Explanation) -> Sentence:
    """Return what a check did not show, and what it would need if it could not be made."""
    if not check.made:
        return say(
            f"{edit_words(kind, explanation)} any of it in {{unit}} ({{why}})",
            unit=unit,
            why=check.why_not or "",
        )
    return say(
        f"{edit_words(kind, explanation)} more of it in {{unit}} than random latents do ({{share:percent}}, random latents {{random:percent}} on average "
        "and at most {largest:percent}, in {draws:counted draw})",
        unit=unit,
        share=check.share.value,
        random=check.random_mean,
        largest=check.random_largest,
        draws=check.n_random,
    )


def _against(behavior: BehaviorShift, explanation: Explanation) -> Iterator[Draft]:
    """Yield what pushes against the shift, if a check shows it."""
    against = explanation.against
    if against is None:
        return
    words = {
        "necessity": "removing them from the intervened model increases it by",
        "sufficiency": "adding them to the reference's activations counters it by",
    }
    checks = {"necessity": against.necessity, "sufficiency": against.sufficiency}
    passed = {
        kind: check for kind, check in checks.items() if check is not None and check_verdict(check) == "pass"
    }
    if not passed:
        return
    yield Draft(
        say(
            "{behavior}, in {unit}: {latents:counted other latent} {push} against the shift: {effects}.",
            behavior=named(behavior.name),
            unit=explanation.unit,
            latents=len(against.latents),
            push="pushes" if len(against.latents) == 1 else "together push",
            effects=listed(
                (
                    (
                        kind,
                        say(
                            f"{words[kind]} {{share:percent}} of its size (random latents {{random:percent}} on average)",
                            share=check.share.value,
                            random=check.random_mean,
                        ),
                    )
                    for kind, check in passed.items()
                ),
                ", and ",
            ),
        ),
        (
            behavior_ground(behavior.name, "shift"),
            *(behavior_ground(behavior.name, "against", kind) for kind in passed),
        ),
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


def _lowered(sentence: Sentence) -> Sentence:
    """Return the sentence to follow a colon."""
    first, *rest = sentence.template
    return Sentence(
        text=sentence.text[:1].lower() + sentence.text[1:],
        template=first.lower() + "".join(rest),
        numbers=sentence.numbers,
        quotes=sentence.quotes,
    )
