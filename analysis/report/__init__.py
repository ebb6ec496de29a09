"""The report: what the evidence supports, in words and numbers, as report.json, report.md and report.html."""

from .desiderata import unmet
from .render import read_report, write_report
from .schema import Report

__all__ = ["Report", "read_report", "unmet", "write_report"]
