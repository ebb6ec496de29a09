"""The parts of the report on the page, verbatim: its summary, its claims about latents, and its requirements."""

from typing import Any

from ..report.schema import Claim, ClaimGroup, Report, Requirement
from ..report.wording import Sentence
from .section import Section


def report_section(report: Report) -> Section:
    """Return the parts of a report that the overview shows."""
    return Section(
        {
            "in_short": [
                {
                    "kind": headline.kind,
                    "text": pieces(headline.text),
                    "rests_on": list(headline.rests_on),
                }
                for headline in report.summary
            ],
            "withheld": pieces(report.summary[0].text) if report.withheld else None,
            "shared": next(pieces(count.meaning) for count in report.counts if count.label == "shared"),
            "claims": [_group(group) for group in report.groups],
            "desiderata": [_requirement(requirement) for requirement in report.desiderata],
        }
    )


def pieces(sentence: Sentence) -> list[str | list[str]]:
    """Split a sentence of the report: words and numbers as strings, quoted text as one-element lists."""
    return [piece.text if piece.kind in ("words", "number") else [piece.text] for piece in sentence.pieces()]


def _group(group: ClaimGroup) -> dict[str, Any]:
    return {
        "title": group.title,
        "total": group.total,
        "statement": group.statement and pieces(group.statement),
        "claims": [_claim(claim) for claim in group.claims],
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "latent": claim.latent,
        "text": pieces(claim.sentence),
        "rule": claim.rule and pieces(claim.rule),
        "doubt": claim.doubt,
    }


def _requirement(requirement: Requirement) -> dict[str, Any]:
    return {
        "name": f"{requirement.family}: {requirement.name}",
        "verdict": requirement.verdict,
        **{part: pieces(getattr(requirement, part)) for part in ("measure", "shown", "threshold")},
    }
