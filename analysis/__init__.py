"""The verbs that read a trained dictionary: statistics, labels, examples, report, page."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .notebook.run import Run

__all__ = ["Run"]


def __getattr__(name: str) -> object:
    # Loaded on first use: a run brings pandas and torch.
    if name != "Run":
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    from .notebook.run import Run

    return Run
