"""What the evidence supports, in words: report.json, report.md and report.html, each claim beside its numbers."""

from .desiderata import unmet
from .render import read_report, write_report
from .schema import Report

__all__ = ["Report", "read_report", "unmet", "write_report"]
