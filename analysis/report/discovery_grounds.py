"""The checks that a finding rests on: its test on held-out prompts, and what the same search finds in nulls, where nothing changed."""

from collections.abc import Iterator

from ..discovery.findings_file import Discovery, Finding
from .fields import Verdict
from .headline_schema import Ground
from .phrases import NOT_MEASURED
from .wording import Sentence, say

NULLS = "discovery/nulls"


def held_out_ground(finding: Finding) -> str:
    """Return the name of the check of a finding on held-out prompts."""
    return f"discovery/{finding.name}/held_out_prompts"


def grounds_of_finding(finding: Finding) -> tuple[str, str]:
    """Return the names of the checks that a finding rests on."""
    return held_out_ground(finding), NULLS


def discovery_grounds(found: Discovery | None) -> Iterator[Ground]:
    """Yield the checks of all findings; nothing without findings."""
    if found is None or not found.findings:
        return
    for finding in found.findings:
        yield Ground(
            name=held_out_ground(finding),
            verdict="pass" if _holds(finding, found.false_discovery_rate) else "fail",
            found=say(
                "q is {q:.2g}, at most {limit:g} asked for; intervened minus reference is {difference:percent} ({low:percent} to {high:percent}) "
                "of {prompts:counted held-out prompt}",
                q=finding.q_value,
                limit=found.false_discovery_rate,
                difference=finding.difference,
                low=finding.difference_low,
                high=finding.difference_high,
                prompts=finding.with_trigger.n,
            ),
        )
    yield Ground(name=NULLS, verdict=_nulls_verdict(found), found=_nulls_found(found))


def _holds(finding: Finding, largest_q: float) -> bool:
    """Whether the models differ in the direction of the finding, interval included."""
    beyond = finding.difference_low > 0 if finding.direction == "gained" else finding.difference_high < 0
    return finding.q_value <= largest_q and beyond


def _nulls_verdict(found: Discovery) -> Verdict:
    if not found.nulls:
        return NOT_MEASURED
    return "pass" if sum(null.findings for null in found.nulls) < len(found.findings) else "fail"


def _nulls_found(found: Discovery) -> Sentence:
    if not found.nulls:
        return say("the same search was not made in any null")
    return say(
        "the same search finds {in_nulls:counted change} in {searches:counted null}, and {findings:,} between these models",
        in_nulls=sum(null.findings for null in found.nulls),
        searches=len(found.nulls),
        findings=len(found.findings),
    )
