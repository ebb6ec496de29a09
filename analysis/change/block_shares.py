"""Shares of a sum over tokens, with intervals over blocks of documents.

A share is the ratio Σ_b p_b / Σ_b t_b over blocks b. It is as uncertain as the mean of the residuals of the linearized ratio, p_b - share · t_b
(Cochran 1977, chapter 6), which are skewed where few documents have the part: `latents.mean_intervals` allows for that. With fewer than
`MIN_BLOCKS` blocks there is no interval, and nothing is established.
"""

from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from ..latents.mean_intervals import margins, sample_of

MIN_BLOCKS = 12
"""Blocks of documents, with at least one token each, without which a share has no interval."""


class Share(NamedTuple):
    """A share of a total, with its interval; the bounds are None with too few documents."""

    value: float
    low: float | None
    high: float | None

    def record(self) -> dict[str, float | None]:
        """Return its entries in summary.json."""
        return {"share": self.value, "low": self.low, "high": self.high}

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above 0; false without an interval."""
        return self.low is not None and self.low > 0


def share_of(part: Float64[Tensor, " block"], total: Float64[Tensor, " block"], confidence: float) -> Share:
    """Return Σ part / Σ total with its interval. Blocks without tokens, whose total is 0, do not count."""
    filled = total > 0
    part, total = part[filled], total[filled]
    n_blocks, whole = len(total), float(total.sum())
    value = float(part.sum()) / whole if whole else 0.0
    if n_blocks < MIN_BLOCKS:
        return Share(value, None, None)
    residual = (part - value * total).numpy()[:, None]
    below, above = margins(sample_of(residual), confidence)
    return Share(
        value, value - float(below[0]) * n_blocks / whole, value + float(above[0]) * n_blocks / whole
    )


def permutation_p(observed: float, null: Float64[Tensor, " draw"]) -> float:
    """Return the p-value of a statistic that is large where there is an effect: (1 + draws at least as large) / (1 + draws).

    Phipson and Smyth (2010): the data themselves are one draw, so p is never 0.
    """
    return (1 + int((null >= observed).sum())) / (1 + len(null))
