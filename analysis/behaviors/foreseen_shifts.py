"""What the prompts of behaviors can show at best, before anything is run. For `doctor`."""

from collections.abc import Sequence

import numpy as np

from crosscoder.config.behavior import Behavior, Judged, Pattern, UserFunction

from .answers import answer_bounds
from .prompts import n_claim_prompts
from .shift_power import POWER, detectable_shift, prompts_needed


def foreseen_shifts(behaviors: Sequence[Behavior]) -> str:
    """Return a section with a line for each behavior: whether its prompts can establish a shift, and for a bounded metric, the smallest one;
    an empty text without behaviors.

    Raises:
        ConfigError, DataError, FormatError: The prompts of one cannot be read, or are too few to split.
    """
    lines = [f"  {one.name}   {_foreseen(one)}" for one in behaviors]
    return "\n".join(["behaviors", *lines]) if lines else ""


def _foreseen(behavior: Behavior) -> str:
    metric = behavior.metric
    bounds = answer_bounds(metric) if isinstance(metric, Pattern | UserFunction | Judged) else None
    n_prompts, needed = n_claim_prompts(behavior), prompts_needed(behavior.shift, bounds)
    have = f"{n_prompts} held-out prompts"
    if n_prompts < needed:
        return f"{have}, but a shift of this metric needs {needed}, so none can be established: add prompts, or raise held_out"
    if bounds is None:
        return f"{have}; a shift of this metric needs {needed}. Which size they establish depends on how much they differ, and is told with the shift"
    # At best, no answer of the reference shows it, and every other answer of the intervened model stays as it was.
    least = detectable_shift(np.zeros(n_prompts), n_prompts, behavior.shift, behavior.seed, bounds)
    if least is None:
        return f"{have}; no shift of this metric is as large as shift.at_least ({behavior.shift.at_least:g}), so none can be established"
    shift = f"{least:.0%} of the answers" if bounds == (0.0, 1.0) else f"{least:.3g}"
    return f"{have}; at best, a shift of {shift} is established in {POWER:.0%} of cases"
