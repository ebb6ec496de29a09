"""The parts of the report on the page, verbatim: findings, summary, survey, claims about latents, and requirements."""

from typing import Any

from ..report.schema import Claim, ClaimGroup, Report, Requirement
from .before_section import before_record
from .findings_section import findings_record
from .section import Section
from .sentence_pieces import pieces


def report_section(report: Report) -> Section:
    """Return the parts of a report that the overview shows."""
    return Section(
        {
            "in_short": [
                {
                    "kind": headline.kind,
                    "about": headline.about,
                    "text": pieces(headline.text),
                    "rests_on": list(headline.rests_on),
                }
                for headline in report.summary
            ],
            "withheld": report.why_withheld and pieces(report.why_withheld),
            "discovery": findings_record(report.discovery),
            "before": before_record(report.before),
            "shared": next(pieces(count.meaning) for count in report.counts if count.label == "shared"),
            "claims": [_group(group) for group in report.groups],
            "desiderata": [_requirement(requirement) for requirement in report.desiderata],
        }
    )


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
