"""The section of the findings: the record of the search, as words and numbers of the report."""

from collections.abc import Iterable, Iterator

from ..discovery.findings_file import Discovery, Example, Finding, Rate, Rates
from .behavior_headlines import carrying_drafts
from .behavior_schema import BehaviorShift, Estimate
from .claims import PAGE
from .discovered import claim, details, not_established, shortened
from .discovery_grounds import grounds_of_finding
from .discovery_schema import (
    AnswerPair,
    AnswerRate,
    AnswerRates,
    DiscoveredFinding,
    DiscoverySection,
    LinkedLatent,
    NullResult,
)
from .discovery_statements import (
    accounted_for,
    found_in_nulls,
    not_searched,
    nothing_found,
    number_found,
    searched,
    stopped_early,
)
from .grounds import Grounds
from .headline_schema import Headline
from .phrases import visible

_EXAMPLES = 6
_ANSWER_LETTERS = 600
"""Characters of a prompt or an answer in an example."""


def discovery_section(
    found: Discovery | None, behaviors: Iterable[BehaviorShift], grounds: Grounds
) -> DiscoverySection:
    """Return the findings with their evidence; without a record, how to search."""
    if found is None:
        return DiscoverySection(
            ran=False, opening=not_searched(), searched=None, in_nulls=None, coverage=None, incomplete=None,
            hypotheses=None, false_discovery_rate=None, least_difference=None, findings=(), nulls=(),
        )  # fmt: skip
    by_name = {behavior.name: behavior for behavior in behaviors}
    findings = tuple(
        _finding(finding, by_name.get(finding.name), grounds, found.answer_tokens)
        for finding in found.findings
    )
    established = sum(finding.established for finding in findings)
    return DiscoverySection(
        ran=True,
        opening=number_found(found, established) if findings else nothing_found(found),
        searched=searched(found),
        in_nulls=found_in_nulls(found),
        coverage=accounted_for(found),
        incomplete=stopped_early(found),
        hypotheses=found.hypotheses,
        false_discovery_rate=found.false_discovery_rate,
        least_difference=found.least_difference,
        findings=findings,
        nulls=tuple(
            NullResult(
                name=visible(null.name),
                hypotheses=null.hypotheses,
                findings=null.findings,
                found=tuple(map(visible, null.found)),
            )
            for null in found.nulls
        ),
    )


def _finding(
    finding: Finding, behavior: BehaviorShift | None, grounds: Grounds, answer_tokens: int
) -> DiscoveredFinding:
    established = grounds.passed(*grounds_of_finding(finding))
    trigger = finding.trigger
    return DiscoveredFinding(
        name=visible(finding.name),
        direction=finding.direction,
        trigger=trigger.kind,
        effect=finding.effect.kind,
        effect_text=visible(finding.effect.text),
        established=established,
        sentence=claim(finding) if established else not_established(finding, grounds),
        details=tuple(details(finding, answer_tokens)),
        with_trigger=answer_rates(finding.with_trigger),
        without_trigger=None if finding.without_trigger is None else answer_rates(finding.without_trigger),
        difference=Estimate(
            value=finding.difference, low=finding.difference_low, high=finding.difference_high
        ),
        p_value=finding.p_value,
        q_value=finding.q_value,
        auroc=None
        if trigger.auroc is None
        else Estimate(value=trigger.auroc, low=trigger.auroc_low, high=trigger.auroc_high),
        examples=tuple(map(_pair, finding.examples[:_EXAMPLES])),
        behavior=None if finding.behavior is None else visible(finding.behavior),
        carried=None if behavior is None else next(_carried(behavior, grounds), None),
        latents=() if behavior is None else tuple(_latents(behavior)),
    )


def answer_rates(rates: Rates) -> AnswerRates:
    """Return the rates of an effect in both models, as the report stores them."""

    def rate(one: Rate) -> AnswerRate:
        return AnswerRate(count=one.count, share=Estimate(value=one.value, low=one.low, high=one.high))

    return AnswerRates(prompts=rates.n, reference=rate(rates.reference), intervened=rate(rates.intervened))


def _pair(example: Example) -> AnswerPair:
    def cell(text: str) -> str:
        return visible(shortened(text, _ANSWER_LETTERS))

    return AnswerPair(
        prompt=cell(example.prompt),
        reference=cell(example.reference),
        intervened=cell(example.intervened),
    )


def _carried(behavior: BehaviorShift, grounds: Grounds) -> Iterator[Headline]:
    """Yield what carries the shift of a behavior: first what its checks show, then what they do not show."""
    settled = list(grounds.settle(carrying_drafts(behavior)))
    yield from sorted(settled, key=lambda headline: headline.kind != "finding")


def _latents(behavior: BehaviorShift) -> Iterator[LinkedLatent]:
    if behavior.explanation is None:
        return
    for latent in behavior.explanation.latents:
        yield LinkedLatent(
            latent=latent.latent, evidence=latent.evidence, link=f"{PAGE}#latent={latent.latent}"
        )
