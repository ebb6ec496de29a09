"""The report: what the evidence supports, in words and numbers, as report.json, and as a report and its appendix in Markdown and HTML."""

from .desiderata import unmet
from .render import read_report, write_report
from .schema import Report

__all__ = ["Report", "read_report", "unmet", "write_report"]
