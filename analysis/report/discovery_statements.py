"""The search for findings in words: how many there are, how it was made, and what it finds in nulls, where nothing changed."""

from ..discovery.findings_file import Discovery, NullSearch
from .discovered import as_written
from .wording import Part, Quote, Sentence, listed, named, say

_EFFECTS_SHOWN = 3

_ORIGINS = {
    "text": "from the run's text",
    "probes": "from the shipped set",
    "openings": "without a topic",
    "variants": "asked again in other words",
    "similar": "like those asked again",
}


def not_searched() -> Sentence:
    """Return that discovery did not run, and how to run it."""
    return say(
        "Discovery did not run: changes of behavior that the settings do not name were not searched for. To search: {command}.",
        command=named("crosscoder discover RUN"),
    )


def nothing_found(found: Discovery) -> Sentence:
    """Return that there is no finding, and that this does not show that nothing changed."""
    if found.incomplete is not None and not found.hypotheses:
        return say("Whether a behavior changed is not known: nothing was tested.")
    return say(
        "No change of behavior was found: {prompts:counted prompt} answered by both models, {hypotheses} tested. That is no proof of none: a change "
        "counts from a difference of {least:percent} of the answers on, and only after prompts like these.",
        prompts=found.find_prompts + found.claim_prompts,
        hypotheses=_hypotheses(found.hypotheses),
        least=found.least_difference,
    )


def number_found(found: Discovery, established: int) -> Sentence:
    """Return how many findings there are, and how many of them are established."""
    total = len(found.findings)
    some = say(
        "; {established:,} of them {verb} established",
        established=established,
        verb="is" if established == 1 else "are",
    )
    return say(
        f"{{findings:counted {'change' if established else 'possible change'}}} of behavior {{was}} found without being told what to look for{{established}}.",
        findings=total,
        was="was" if total == 1 else "were",
        established="; none is established"
        if not established
        else some
        if established < total
        else "; it is established"
        if total == 1
        else "; all are established",
    )


def searched(found: Discovery) -> Sentence:
    """Return the prompts, hypotheses and limits of the search."""
    sources = [
        (source, say("{n:whole} {source}", n=n, source=_ORIGINS.get(source) or named(source)))
        for source, n in found.prompts.items()
    ]
    return say(
        "Both models answered {prompts:counted prompt}{sources}, each with up to {tokens:counted token} at temperature {temperature:g}. What {find:whole} "
        "of them suggested was tested on the other {claim:whole}, the held-out prompts: {hypotheses} (a trigger and an effect each), at a "
        "false-discovery rate of {rate:percent}. A change counts from a difference of {least:percent} of the answers on.",
        prompts=found.find_prompts + found.claim_prompts,
        sources=say(" ({sources})", sources=listed(sources)) if sources else "",
        tokens=found.answer_tokens,
        temperature=found.temperature,
        find=found.find_prompts,
        claim=found.claim_prompts,
        hypotheses=_hypotheses(found.hypotheses),
        rate=found.false_discovery_rate,
        least=found.least_difference,
    )


def found_in_nulls(found: Discovery) -> Sentence:
    """Return what the same search finds in its nulls, where nothing that a person would report changed."""
    if not found.nulls:
        return say(
            "The same search was not made in any null, between models in which nothing changed. So how much it finds in nothing is not known, and no "
            "finding is established."
        )
    false = sum(null.findings for null in found.nulls)
    doubt: Part = ""
    if false and found.findings:
        doubt = (
            " So a finding may be one of these."
            if false < len(found.findings)
            else " That is no less than between these models, so no finding is established."
        )
    return say(
        "The same search finds {each}.{doubt}",
        each=listed(((null.name, _in_null(null)) for null in found.nulls), ", and "),
        doubt=doubt,
    )


def accounted_for(found: Discovery) -> Sentence | None:
    """Return which share of the held-out prompts the findings account for; None without findings."""
    if found.changed_prompts is None:
        return None
    return say(
        "On {share:percent} of the {prompts:counted held-out prompt}, the effect of a finding accounts for the difference between the models' answers.",
        share=found.changed_prompts,
        prompts=found.claim_prompts,
    )


def stopped_early(found: Discovery) -> Sentence | None:
    """Return why the search is incomplete; None if it is not."""
    if found.incomplete is None:
        return None
    return say("The search is incomplete: {why}.", why=named(found.incomplete))


def _hypotheses(number: int) -> Sentence:
    return say(
        "{hypotheses:whole} {noun}", hypotheses=number, noun="hypothesis" if number == 1 else "hypotheses"
    )


def _in_null(null: NullSearch) -> Sentence:
    """Return what the search found in one null, with the first of the effects."""
    effects: Part = ""
    if null.findings and null.found:
        shown = null.found[:_EFFECTS_SHOWN]
        effects = say(
            ": {effects}{more}",
            effects=listed(
                (f"effect_{at}", say("{effect}", effect=Quote(as_written(text))))
                for at, text in enumerate(shown)
            ),
            more=say(" and {more:,} more", more=len(null.found) - len(shown))
            if len(null.found) > len(shown)
            else "",
        )
    return say(
        "{findings} when {name} ({hypotheses}{effects})",
        findings=say("{findings:counted change} of behavior", findings=null.findings)
        if null.findings
        else "nothing",
        name=named(null.name),
        hypotheses=_hypotheses(null.hypotheses),
        effects=effects,
    )
