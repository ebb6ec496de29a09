"""A finding in words: after which prompts which model does what, how often, and what else is known about it."""

import re
from collections.abc import Iterator, Sequence

from ..discovery.findings_file import Finding, Rates, Trigger, expression_of
from .discovery_grounds import grounds_of_finding
from .grounds import Grounds
from .wording import Part, Quote, Sentence, listed, named, say

_WORDS_SHOWN, _ALSO_SHOWN, _PROMPTS_SHOWN = 5, 5, 2
_PROMPT_LETTERS = 120
"""Characters of a prompt or of an effect in a sentence."""

_RARE = 0.1
"""A model no longer does, or does not do, what it does at most this often as the other; otherwise it does it less often."""

_VERBS = {"opening": "begins its answer with", "phrase": "says", "ending": "ends its answer with"}

# Forms that continue "gives answers …" by themselves; others follow "gives answers that are …".
_CONTINUES = ("with ", "without ", "of ", "that ")

# Words are counted with a space between them, also before marks and between characters of scripts that write none.
_BEFORE_MARK = re.compile(r"(?<=\w) (?=[,.;:!?…%)\]}’])")
_BETWEEN_CHARACTERS = re.compile(r"(?<=[\u3040-\u30ff\u3400-\u9fff]) (?=[\u3040-\u30ff\u3400-\u9fff])")


def claim(finding: Finding) -> Sentence:
    """Return the finding as a claim, with the rates on held-out prompts."""
    rates = finding.with_trigger
    gained = finding.direction == "gained"
    acting, other = (rates.intervened, rates.reference) if gained else (rates.reference, rates.intervened)
    rare = other.value <= _RARE * acting.value
    often = {
        (True, True): ("", " in"),
        (True, False): ("", " more often: in"),
        (False, True): ("no longer ", ": in"),
        (False, False): ("", " less often: in"),
    }
    before, after = often[gained, rare]
    bounds = say(" ({low:percent} to {high:percent})", low=acting.low, high=acting.high)
    return say(
        "{on}, the intervened model {does} {intervened:,} of {n:counted held-out prompt}{intervened_bounds}, the reference in {reference:,} of "
        "{n:,}{reference_bounds}.{others}",
        on=prompts_of(finding.trigger, "On"),
        does=_does(finding, before, after),
        intervened=rates.intervened.count,
        reference=rates.reference.count,
        n=rates.n,
        intervened_bounds=bounds if gained else "",
        reference_bounds="" if gained else bounds,
        others=_elsewhere(finding.without_trigger),
    )


def not_established(finding: Finding, grounds: Grounds) -> Sentence:
    """Return that the finding is not established, with the results of the checks that it did not pass."""
    failed = [grounds.by_name[name] for name in grounds_of_finding(finding) if not grounds.passed(name)]
    return say(
        "It is not established that the intervened model {does} {on} (in {intervened:,} of {n:counted held-out prompt}, the reference in "
        "{reference:,} of {n:,}): {why}.",
        does=_does(finding, "", " more often" if finding.direction == "gained" else " less often"),
        on=prompts_of(finding.trigger, "on"),
        intervened=finding.with_trigger.intervened.count,
        reference=finding.with_trigger.reference.count,
        n=finding.with_trigger.n,
        why=listed(((ground.name, ground.found) for ground in failed), "; "),
    )


def details(finding: Finding, answer_tokens: int) -> Iterator[Sentence]:
    """Yield the test, how well the trigger separates prompts, what else the answers show, and the file of the behavior."""
    yield say(
        "Exact test: p {p:.2g}; q {q:.2g}, corrected for all hypotheses of the search. Intervened minus reference: {difference:percent} of these "
        "prompts ({low:percent} to {high:percent}).",
        p=finding.p_value,
        q=finding.q_value,
        difference=finding.difference,
        low=finding.difference_low,
        high=finding.difference_high,
    )
    if finding.cut:
        yield say(
            "The words come at the end of answers. {cut:,} of the answers to these {n:,} prompts reached the limit of {limit:,} tokens "
            "before their end; whether they would have ended so is unknown ({setting} sets the limit).",
            cut=finding.cut,
            n=finding.with_trigger.n,
            limit=answer_tokens,
            setting=named("discovery.answer_tokens"),
        )
    yield from _separation(finding)
    if finding.trigger.kind == "topic" and finding.trigger.words:
        yield say(
            "Words that are typical of these prompts: {words}.",
            words=_some(finding.trigger.words, "typical", _WORDS_SHOWN, last=", "),
        )
    if finding.effect.also:
        yield say(
            "The same answers also show {also}.",
            also=_some(tuple(map(as_written, finding.effect.also)), "also", _ALSO_SHOWN, last=", "),
        )
    if finding.behavior is None:
        yield say("No regular expression finds this effect, so there is no file of a behavior.")
    else:
        yield say(
            "Its behavior is in {file}, ready to edit and to attribute: {command}.",
            file=named(finding.behavior),
            command=named(f"crosscoder attribute RUN RUN/{finding.behavior}"),
        )


def prompts_of(trigger: Trigger, on: str) -> Sentence:
    """Return after which prompts the answers differ; `on` begins the text."""
    if trigger.kind == "always":
        return say("{on} all kinds of prompts", on=on)
    if trigger.kind in ("words", "all_words") and trigger.words:
        return say(
            "{on} prompts that contain {words}",
            on=on,
            words=_some(
                trigger.words, "word", _WORDS_SHOWN, last=" or " if trigger.kind == "words" else " and "
            ),
        )
    if trigger.prompts:
        # Whole prompts tell a topic better than words that a few of them share.
        return say(
            "{on} prompts like {prompts}",
            on=on,
            prompts=_some(trigger.prompts[:_PROMPTS_SHOWN], "prompt", _PROMPTS_SHOWN, last=" and "),
        )
    if not trigger.words:
        return say("{on} prompts of one topic", on=on)
    return say(
        "{on} prompts about things like {words}",
        on=on,
        words=_some(trigger.words, "word", _WORDS_SHOWN, last=", "),
    )


def effect_of(finding: Finding) -> str:
    """Return the effect in the letters of the first example that shows it; words are counted in lower case. Of a shape, its description."""
    effect = finding.effect
    if effect.pattern is None:
        return effect.text
    answers = [
        example.intervened if finding.direction == "gained" else example.reference
        for example in finding.examples
    ]
    expression = expression_of(finding)
    for answer in answers:
        span = expression.find(answer)
        if span is not None:
            return " ".join(answer[slice(*span)].split())
    return as_written(effect.text)


def as_written(words: str) -> str:
    """Return words as a person would write them, without the spaces that counting them put in."""
    return _BETWEEN_CHARACTERS.sub("", _BEFORE_MARK.sub("", words))


def shortened(text: str, letters: int = _PROMPT_LETTERS) -> str:
    """Return the text, or its beginning with an ellipsis."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def _does(finding: Finding, before: str, after: str) -> Sentence:
    effect = finding.effect
    if effect.kind == "shape":
        return say(
            "{before}gives answers {that_are}{effect}{after}",
            before=before,
            that_are="" if effect.text.startswith(_CONTINUES) else "that are ",
            effect=named(shortened(effect.text)),
            after=after,
        )
    return say(
        "{before}{verb} {effect}{after}",
        before=before,
        verb=_VERBS[effect.kind],
        effect=Quote(shortened(effect_of(finding))),
        after=after,
    )


def _elsewhere(rates: Rates | None) -> Part:
    """Return the rates on the other prompts, in the order of the models in the claim."""
    if rates is None:
        return ""
    return say(
        " On other prompts: {other_intervened:,} of {other_n:,} and {other_reference:,} of {other_n:,}.",
        other_intervened=rates.intervened.count,
        other_reference=rates.reference.count,
        other_n=rates.n,
    )


def _separation(finding: Finding) -> Iterator[Sentence]:
    trigger = finding.trigger
    if trigger.auroc is None:
        return
    known = trigger.auroc_low is not None and trigger.auroc_high is not None
    yield say(
        "The trigger separates the held-out prompts whose answers {gained} this from all others{cut} with an AUROC of {auroc:.2f}{bounds}.",
        gained="gained" if finding.direction == "gained" else "lost",
        cut=" whose answers were not cut" if finding.cut else "",
        auroc=trigger.auroc,
        bounds=say(" ({low:.2f} to {high:.2f})", low=trigger.auroc_low, high=trigger.auroc_high)
        if known
        else "",
    )


def _some(texts: Sequence[str], called: str, most: int, last: str) -> Sentence:
    """Return the first of the texts as quotations, and how many there are besides; `last` stands before the last of them."""
    shown, rest = texts[:most], len(texts) - most
    quotes = {f"{called}_{place}": Quote(shortened(text)) for place, text in enumerate(shown)}
    fields = [f"{{{key}}}" for key in quotes]
    if rest > 0:
        before = " and " if last == ", " else last
        return say(
            f"{', '.join(fields)}{before}{{more_{called}:,}} more", **quotes, **{f"more_{called}": rest}
        )
    return say(last.join(part for part in (", ".join(fields[:-1]), fields[-1]) if part), **quotes)
