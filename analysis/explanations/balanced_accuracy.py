"""How well verdicts agree with the truth: balanced accuracy, the mean of the shares of positives and of negatives that are told rightly.

0.5 is what a coin gets, whatever the shares of yes and no. The interval is made of one for each share (Wilson 1927), combined by the
method of variance estimates recovery (Newcombe 1998; Zou and Donner 2008): it does not shrink to nothing where all are right.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

LEAST = 5
"""Verdicts on each kind, below which there is no score."""


class Verdict(NamedTuple):
    """What is so, and what was said; None where the reply was neither yes nor no."""

    true: bool
    said: bool | None


class Score(NamedTuple):
    """None where too few verdicts can be read."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Verdicts that count."""
    unparsed: int
    """Replies that were neither yes nor no; they count for nothing."""


def balanced_accuracy(verdicts: Sequence[Verdict], confidence: float) -> Score:
    """The score of some verdicts."""
    read = [verdict for verdict in verdicts if verdict.said is not None]
    unparsed = len(verdicts) - len(read)
    right, ends = [], []
    for true in (True, False):
        kind = [verdict.said == true for verdict in read if verdict.true == true]
        if len(kind) < LEAST:
            return Score(None, None, None, len(read), unparsed)
        right.append(sum(kind) / len(kind))
        ends.append(_wilson(sum(kind), len(kind), confidence))
    value = (right[0] + right[1]) / 2
    below = [share - low for share, (low, _) in zip(right, ends, strict=True)]
    above = [high - share for share, (_, high) in zip(right, ends, strict=True)]
    return Score(
        value,
        max(0.0, value - float(np.hypot(*below)) / 2),
        min(1.0, value + float(np.hypot(*above)) / 2),
        len(read),
        unparsed,
    )


def _wilson(hits: int, n: int, confidence: float) -> tuple[float, float]:
    z = float(ndtri(0.5 + confidence / 2))
    share, square = hits / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    half = z * float(np.sqrt(share * (1 - share) / n + square / (4 * n))) / (1 + square)
    return middle - half, middle + half
