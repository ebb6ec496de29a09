"""What the evidence supports, in words: report.json, report.md and report.html, each claim beside its numbers."""

from .desiderata import unmet
from .render import read_report, write_report

__all__ = ["read_report", "unmet", "write_report"]
