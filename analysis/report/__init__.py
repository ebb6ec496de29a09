"""What the evidence supports, in words: report.json, report.md and report.html, each claim beside its numbers."""

from .render import write_report

__all__ = ["write_report"]
