"""The style of all figures: sizes, colors, and marks and hatches that distinguish labels without color.

Output is reproducible: no file contains a date, and ids in SVG use a fixed salt. Text stays text in SVG and PDF.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, get_args

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..report.phrases import visible

Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = get_args(Format)

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches: one column of a two-column paper, and the full page."""

INK, MUTED, FAINT = "#1d1d1b", "#6b6b66", "#d9d9d3"
REFERENCE, INTERVENED, DIFFERENCE = "#1f5fbf", "#b83a0e", "#1d1d1b"


@dataclass(frozen=True)
class Look:
    """How a label is drawn. Colors match the page; marks and hatches differ between labels too."""

    color: str
    marker: str
    hatch: str


LOOKS = {
    "new": Look("#b83a0e", "^", "////"),
    "lost": Look("#1f5fbf", "v", "\\\\\\\\"),
    "replaced": Look("#a8275f", "X", "++++"),
    "rotated": Look("#7a3fb0", "D", "xxxx"),
    "rescaled": Look("#0b7a55", "s", "----"),
    "reweighted": Look("#8a6a00", "P", "||||"),
    "shared": Look("#9a9a94", "o", ""),
    "undetermined": Look("#6b6b66", "x", "...."),
    "dead": Look("#b9b9b3", "+", "oo"),
}

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # Names may contain dollar signs.
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "svg.hashsalt": "crosscoder",
    "pdf.fonttype": 42,
}
_METADATA: dict[Format, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class PaperFigure(Figure):
    """A figure that a notebook displays in this style, whatever the user's settings."""

    def _repr_png_(self) -> bytes:
        return figure_bytes(self, "png")


def draw_figure(draw: Callable[[Figure], None], size: tuple[float, float]) -> PaperFigure:
    """Draw a figure of the given size in inches in this style."""
    with _style():
        figure = PaperFigure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        # Freeze the layout, which would otherwise differ slightly between files.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def figure_bytes(figure: Figure, kind: Format) -> bytes:
    """Return the content of the figure's file; byte-identical on every call."""
    with _style():
        file = BytesIO()
        figure.savefig(file, format=kind, metadata=_METADATA[kind])
    return file.getvalue()


def truncated(text: str, max_length: int = 40) -> str:
    """Return text for a title, with invisible characters spelled out, truncated to `max_length` characters."""
    shown = visible(text)
    return shown if len(shown) <= max_length else shown[: max_length - 1] + "…"


@contextmanager
def _style() -> Iterator[None]:
    """Apply matplotlib's defaults and this style, ignoring the user's settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield
