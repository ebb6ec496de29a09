"""The findings on the page: the report's sentences about them, the rates of both models, and their answers side by side."""

from typing import Any

from ..report.discovery_schema import DiscoveredFinding, DiscoverySection
from ..report.wording import Sentence
from .sentence_pieces import pieces


def findings_record(discovery: DiscoverySection) -> dict[str, Any]:
    """Return the part of the overview pack that shows what changed in the answers."""
    return {
        "ran": discovery.ran,
        **{
            part: _optional(getattr(discovery, part))
            for part in ("opening", "searched", "in_nulls", "coverage", "incomplete")
        },
        "findings": [_finding(finding) for finding in discovery.findings],
    }


def _finding(finding: DiscoveredFinding) -> dict[str, Any]:
    record = finding.model_dump(
        mode="json",
        include={"name", "direction", "effect", "established", "with_trigger", "without_trigger", "examples"},
    )
    return record | {
        # What the page marks in the answers; the form of an answer is in no place of it.
        "words": None if finding.effect == "shape" else finding.effect_text,
        "sentence": pieces(finding.sentence),
        "details": [pieces(sentence) for sentence in finding.details],
        "carried": finding.carried and pieces(finding.carried.text),
        "latents": [{"latent": one.latent, "evidence": one.evidence} for one in finding.latents],
    }


def _optional(sentence: Sentence | None) -> list[str | list[str]] | None:
    return None if sentence is None else pieces(sentence)
