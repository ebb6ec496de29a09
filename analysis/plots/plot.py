"""A figure before drawing: its name, its data, and its drawing function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Plot:
    """One figure, drawn from `data` alone."""

    name: str
    """Path of its files without extension, e.g. `limits` or `behaviors/refusal/shift`."""

    data: pd.DataFrame
    draw: Callable[[Any, pd.DataFrame], None]
    """Draws the data on a matplotlib figure."""

    size: tuple[float, float]
    """Width and height in inches."""

    def figure(self) -> Any:
        """Draw the matplotlib figure."""
        from .style import draw_figure

        return draw_figure(lambda figure: self.draw(figure, self.data), self.size)

    def csv(self) -> str:
        """Return the data as CSV; empty cells were not measured or do not apply."""
        return self.data.to_csv(index=False, lineterminator="\n")
