"""Balanced accuracy of verdicts: the mean of the shares of positives and of negatives that are classified correctly.

A coin flip scores 0.5, whatever the balance of yes and no. The interval combines one interval per share (Wilson 1927) by the method of
variance estimates recovery (Newcombe 1998; Zou and Donner 2008), so its width is not zero where all verdicts are correct.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

MIN_VERDICTS = 5
"""Minimum number of verdicts on positives, and on negatives, for a score."""


class Verdict(NamedTuple):
    """The true answer and the judge's answer; None if the reply was neither yes nor no."""

    truth: bool
    answer: bool | None


class Score(NamedTuple):
    """Balanced accuracy; None if too few replies are yes or no."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Number of verdicts that are counted."""
    unparsed: int
    """Number of replies that were neither yes nor no; they are not counted."""


def balanced_accuracy(verdicts: Sequence[Verdict], confidence: float) -> Score:
    """Return the score of these verdicts."""
    parsed = [verdict for verdict in verdicts if verdict.answer is not None]
    unparsed = len(verdicts) - len(parsed)
    shares, ends = [], []
    for truth in (True, False):
        correct = [verdict.answer == truth for verdict in parsed if verdict.truth == truth]
        if len(correct) < MIN_VERDICTS:
            return Score(None, None, None, len(parsed), unparsed)
        shares.append(sum(correct) / len(correct))
        ends.append(binomtest(sum(correct), len(correct)).proportion_ci(confidence, method="wilson"))
    value = (shares[0] + shares[1]) / 2
    below = [share - low for share, (low, _) in zip(shares, ends, strict=True)]
    above = [high - share for share, (_, high) in zip(shares, ends, strict=True)]
    return Score(
        value,
        max(0.0, value - float(np.hypot(*below)) / 2),
        min(1.0, value + float(np.hypot(*above)) / 2),
        len(parsed),
        unparsed,
    )
