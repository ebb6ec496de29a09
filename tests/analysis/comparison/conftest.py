"""Runs of these tests are made by hand."""

from tests.analysis.handmade_runs import files_are_not_checked

__all__ = ["files_are_not_checked"]
