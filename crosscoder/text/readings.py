"""Counts what a source gave and what was left out or changed, so that nothing is lost in silence."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..errors import DataError, FormatError
from .chat_messages import LeftOutError

logger = logging.getLogger(__name__)


@dataclass
class Reading:
    """What was read of one source."""

    name: str
    """Name of the source."""

    place: dict[str, Any] = field(default_factory=dict)
    """Where its documents come from: files, or dataset, revision and position."""

    n_documents: int = 0
    """Number of documents, those that were left out included."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Number of documents that were left out, by reason."""

    altered: Counter[str] = field(default_factory=Counter)
    """Number of documents of which something was changed, by what it was."""

    first: LeftOutError | None = None
    """The first document that was left out, and why."""

    def leave_out(self, error: LeftOutError, *, counted: bool = False) -> None:
        """Count a document that cannot be used.

        Args:
            counted: Whether `n_documents` has it already.
        """
        self.n_documents += not counted
        self.left_out[error.reason] += 1
        self.first = self.first or error

    def check(self) -> None:
        """Refuse a source half of whose documents, or more, cannot be used: then the source is wrong, not a few documents.

        Raises:
            DataError, FormatError: What is wrong with the first of them.
        """
        lost = self.left_out.total()
        if self.first is None or 2 * lost < self.n_documents:
            return
        kind = FormatError if isinstance(self.first, FormatError) else DataError
        more = f" ({lost} of the {self.n_documents} documents of {self.name!r} cannot be used)"
        raise kind(f"{self.first}{more if self.n_documents > 1 else ''}") from self.first

    def report(self) -> None:
        """Log what was left out and what was changed."""
        if self.left_out:
            logger.warning(
                "text.sources, %r: left out %d of %d documents (%s); the first: %s",
                self.name,
                self.left_out.total(),
                self.n_documents,
                _listed(self.left_out),
                self.first,
            )
        if self.altered:
            logger.warning(
                "text.sources, %r: changed in some documents: %s", self.name, _listed(self.altered)
            )

    def describe(self) -> dict[str, Any]:
        """Return the record for the manifest of a run."""
        return {**self.place, "left_out": dict(self.left_out), "altered": dict(self.altered)}


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in counts.most_common())
