"""Findings of several runs, matched by their effects: the same effect is one row, whatever its trigger."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

from ..discovery.findings_file import Discovery, Example, Finding, expression_of
from ..report.behavior_schema import Estimate
from ..report.discovered import claim, effect_of, not_established, prompts_of
from ..report.discovery_content import answer_rates
from ..report.discovery_grounds import grounds_of_finding
from ..report.discovery_schema import AnswerRates
from ..report.discovery_statements import found_in_nulls, nothing_found, number_found, searched, stopped_early
from ..report.phrases import visible
from ..report.wording import Part, Sentence, say
from .compared_runs import ComparedRun
from .comparison_schema import Cell, EffectInAnswers, FindingCell, FindingRow, FoundEffect, Row

_MOST = 0.5
"""An expression matches the other finding's examples if it matches more than this share of the answers that show its effect."""


class RunFinding(NamedTuple):
    """A finding of one run; `run` is the place of the run among those compared."""

    run: int
    finding: Finding


def same_effect(one: Finding, other: Finding) -> bool:
    """Whether two findings are of the same effect: both gained or both vanished, and the words of one are in those of the other, or the
    expression of one matches the answers of the other."""
    if one.direction != other.direction:
        return False
    return _contains(one, other) or _matches(one, other) or _matches(other, one)


def matched_findings(runs: Sequence[ComparedRun]) -> list[list[RunFinding]]:
    """Return the findings of all runs in groups of the same effect, those of most runs first, then those in which the models differ most.

    Groups are transitive. The order of the runs changes nothing but the order inside a group.

    Raises:
        FormatError: The pattern of a finding is no regular expression.
        DataError: It takes too long.
    """
    every = [
        RunFinding(place, finding)
        for place, run in enumerate(runs)
        for finding in (run.discovery.findings if run.discovery is not None else ())
    ]
    group = list(range(len(every)))
    for first, second in combinations(range(len(every)), 2):
        if group[first] != group[second] and same_effect(every[first].finding, every[second].finding):
            group = [group[first] if one == group[second] else one for one in group]
    groups = [[every[at] for at, one in enumerate(group) if one == name] for name in dict.fromkeys(group)]
    return sorted(
        groups, key=lambda members: (-len({one.run for one in members}), *_rank(strongest(members)))
    )


def strongest(members: Sequence[RunFinding]) -> Finding:
    """Return the finding of a group in which the models differ most."""
    return min((one.finding for one in members), key=_rank)


def _rank(finding: Finding) -> tuple[float, str, str]:
    return -abs(finding.difference), finding.effect.text, finding.name


def _contains(one: Finding, other: Finding) -> bool:
    """Whether the whole words of one effect are in the other; forms are the same only if they are told alike."""
    forms = [finding.effect.kind == "shape" for finding in (one, other)]
    if any(forms):
        return all(forms) and one.effect.text == other.effect.text
    texts = [f" {' '.join(finding.effect.text.lower().split())} " for finding in (one, other)]
    return texts[0] in texts[1] or texts[1] in texts[0]


def _matches(one: Finding, other: Finding) -> bool:
    """Whether the expression of one effect is in most of the other's answers that show its effect, and in more of them than of the other
    model's answers."""
    if one.effect.pattern is None or not other.examples:
        return False
    expression = expression_of(one)
    acting, opposite = (
        sum(span is not None for span in expression.find_each(answers))
        for answers in zip(*(_answers(example, other.direction) for example in other.examples), strict=True)
    )
    return acting > _MOST * len(other.examples) and acting > opposite


def _answers(example: Example, direction: str) -> tuple[str, str]:
    """Return the answer of the model that shows the effect more often, then that of the other."""
    if direction == "gained":
        return example.intervened, example.reference
    return example.reference, example.intervened


# --- rows -------------------------------------------------------------------------------------------------------------


def finding_rows(
    runs: Sequence[ComparedRun], groups: Sequence[Sequence[RunFinding]]
) -> tuple[FindingRow, ...]:
    """Return a row for each effect that any run found."""
    rows = []
    for members in groups:
        leading = strongest(members)
        cells = tuple(
            _cell(run, [one.finding for one in members if one.run == place], leading)
            for place, run in enumerate(runs)
        )
        rows.append(
            FindingRow(
                effect=visible(effect_of(leading)),
                direction=leading.direction,
                runs=sum(cell.state == "found" for cell in cells),
                searched=sum(run.discovery is not None for run in runs),
                cells=cells,
            )
        )
    return tuple(rows)


def _cell(run: ComparedRun, findings: Sequence[Finding], leading: Finding) -> FindingCell:
    """Return what a run found of the effect that `leading` has in another run, or in this one."""
    if run.discovery is None:
        problem = run.problems["discovery"]
        state = "not searched" if problem.state == "missing" else "unreadable"
        return FindingCell(state=state, found=(), answers=None, shown=problem.short)
    found = tuple(_effect(run, finding) for finding in findings)
    if not found:
        answers = _in_answers(run, leading)
        shown = _not_found(run.discovery, answers)
        return FindingCell(state="not found", found=(), answers=answers, shown=shown)
    if any(one.established for one in found):
        return FindingCell(state="found", found=found, answers=None, shown=say("found"))
    return FindingCell(
        state="not established", found=found, answers=None, shown=say("found, but not established")
    )


def _in_answers(run: ComparedRun, finding: Finding) -> EffectInAnswers | None:
    """Return how often the answers of a run show an effect; None if no expression finds it, or without answers."""
    if finding.effect.pattern is None or not run.answers:
        return None
    expression = expression_of(finding)
    reference, intervened = (
        sum(span is not None for span in expression.find_each(answers))
        for answers in zip(*run.answers, strict=True)
    )
    return EffectInAnswers(prompts=len(run.answers), reference=reference, intervened=intervened)


def _not_found(found: Discovery, answers: EffectInAnswers | None) -> Sentence:
    """Return how far the run searched for what it did not find, and how often its answers show it."""
    seen: Part = ""
    if answers is not None:
        seen = say(
            "; its answers show it in {reference:,} → {intervened:,} of {answered:,}",
            reference=answers.reference,
            intervened=answers.intervened,
            answered=answers.prompts,
        )
    if not found.hypotheses:
        return say("not found: nothing was tested{seen}", seen=seen)
    return say(
        "not found: {hypotheses:whole} {noun} tested on {prompts:counted held-out prompt}{incomplete}{seen}",
        hypotheses=found.hypotheses,
        noun="hypothesis" if found.hypotheses == 1 else "hypotheses",
        prompts=found.claim_prompts,
        incomplete="" if found.incomplete is None else "; the search stopped early",
        seen=seen,
    )


def _effect(run: ComparedRun, finding: Finding) -> FoundEffect:
    established = run.grounds.passed(*grounds_of_finding(finding))
    rates = answer_rates(finding.with_trigger)
    others = None if finding.without_trigger is None else answer_rates(finding.without_trigger)
    return FoundEffect(
        name=visible(finding.name),
        established=established,
        sentence=claim(finding) if established else not_established(finding, run.grounds),
        shown=_rates(
            rates,
            "" if others is None else say("; elsewhere {others}", others=_rates(others).under("elsewhere")),
        ),
        trigger=prompts_of(finding.trigger, "on"),
        with_trigger=rates,
        without_trigger=others,
        difference=Estimate(
            value=finding.difference, low=finding.difference_low, high=finding.difference_high
        ),
    )


def _rates(rates: AnswerRates, others: Part = "") -> Sentence:
    return say(
        "{reference:,} → {intervened:,} of {prompts:,}{others}",
        reference=rates.reference.count,
        intervened=rates.intervened.count,
        prompts=rates.prompts,
        others=others,
    )


def search_rows(runs: Sequence[ComparedRun]) -> tuple[Row, ...]:
    """Return what each run found and searched, and what the same search finds in nulls."""
    kinds: tuple[tuple[str, str, Callable[[ComparedRun, Discovery], Sentence]], ...] = (
        ("found", "changes of behavior, found without being told what to look for", _number_found),
        ("nulls", "what the same search finds where nothing changed", lambda _, found: found_in_nulls(found)),
        ("search", "prompts, hypotheses and limits", lambda _, found: _searched(found)),
    )
    return tuple(
        Row(name=name, meaning=meaning, cells=tuple(_search_cell(run, tell) for run in runs))
        for name, meaning, tell in kinds
    )


def _search_cell(run: ComparedRun, tell: Callable[[ComparedRun, Discovery], Sentence]) -> Cell:
    if run.discovery is None:
        problem = run.problems["discovery"]
        return Cell(state=problem.state, shown=problem.short)
    return Cell(state="stated", shown=tell(run, run.discovery))


def _number_found(run: ComparedRun, found: Discovery) -> Sentence:
    if not found.findings:
        return nothing_found(found)
    return number_found(
        found, sum(run.grounds.passed(*grounds_of_finding(finding)) for finding in found.findings)
    )


def _searched(found: Discovery) -> Sentence:
    early = stopped_early(found)
    return say(
        "{searched}{early}",
        searched=searched(found),
        early="" if early is None else say(" {early}", early=early),
    )
