"""What the opening says about findings: the first of them, each only if its checks passed, and how many there are besides."""

from collections.abc import Iterator, Sequence

from ..discovery.findings_file import Discovery, Finding
from .discovered import claim, not_established
from .discovery_grounds import grounds_of_finding
from .discovery_statements import nothing_found, stopped_early
from .grounds import Draft, Grounds
from .wording import say

_SHOWN = 3


def discovery_drafts(found: Discovery | None, grounds: Grounds) -> Iterator[Draft]:
    """Yield the findings that open the report, established ones first; nothing if discovery did not run."""
    if found is None:
        return
    if not found.findings:
        nothing, early = nothing_found(found), stopped_early(found)
        text = nothing if early is None else say("{nothing} {early}", nothing=nothing, early=early)
        yield Draft(text, kind="measured" if found.hypotheses else "not established", about="answers")
        return
    ordered = sorted(found.findings, key=lambda finding: not grounds.passed(*grounds_of_finding(finding)))
    for finding in ordered[:_SHOWN]:
        yield Draft(
            claim(finding),
            grounds_of_finding(finding),
            otherwise=not_established(finding, grounds),
            about="answers",
        )
    yield from _more(ordered[_SHOWN:], grounds)


def _more(findings: Sequence[Finding], grounds: Grounds) -> Iterator[Draft]:
    """Yield how many findings are not in the opening."""
    established = [finding for finding in findings if grounds.passed(*grounds_of_finding(finding))]
    if established:
        yield Draft(
            say("And {more:counted more change} of behavior: see Findings.", more=len(established)),
            tuple(dict.fromkeys(name for one in established for name in grounds_of_finding(one))),
            about="answers",
        )
    if left := len(findings) - len(established):
        yield Draft(
            say("{left:counted more possible change} of behavior: not established, see Findings.", left=left),
            kind="not established",
            about="answers",
        )
