"""A figure, before it is drawn: what it is called, which numbers it shows, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Plot:
    """One figure. Nothing else is drawn than what `data` holds."""

    name: str
    """Path of its files without the ending, e.g. `limits` or `behaviors/refusal/shift`."""

    data: pd.DataFrame
    draw: Callable[[Any, pd.DataFrame], None]
    """Draws the numbers on a matplotlib figure."""

    size: tuple[float, float]
    """Inches."""

    def figure(self) -> Any:
        """The matplotlib figure."""
        from .style import drawn

        return drawn(lambda figure: self.draw(figure, self.data), self.size)

    def csv(self) -> str:
        """The numbers as CSV; an empty cell: not measured, or not there."""
        return self.data.to_csv(index=False, lineterminator="\n")
