"""The verbs that analyze a trained dictionary: statistics, labels, behaviors, explanations, report and page."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .notebook.run import Run

__all__ = ["Run"]


def __getattr__(name: str) -> object:
    # Imported on first use, because it imports pandas and torch.
    if name != "Run":
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    from .notebook.run import Run

    return Run
