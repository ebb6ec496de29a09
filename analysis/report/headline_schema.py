"""The opening of a report as data: its sentences, the checks that they rest on, and the numbers of latents."""

from typing import Literal

from .fields import Count, NotNegative, Quoted, ReportPart, Verdict
from .wording import Sentence

Kind = Literal["finding", "measured", "not established", "conditions"]
About = Literal["answers", "labels withheld", "activations"]


class Ground(ReportPart):
    """A check that a sentence of the opening can rest on."""

    name: Quoted
    """Where it belongs and what it checks, as `conditions/fve_reference` or `behaviors/NAME/together/necessity`."""

    verdict: Verdict
    """Whether it passed; a check that was not made is not measured."""

    found: Sentence
    """What it found."""


class Headline(ReportPart):
    """A sentence of the opening.

    A finding is stated only if every check that it rests on passed. Otherwise one sentence says that it is not established, and what that
    would need.
    """

    kind: Kind
    """`finding`: a claim that rests on checks; `measured`: a number without a claim; `not established`: what is not claimed, and why;
    `conditions`: which conditions and requirements failed."""

    about: About
    """`answers`: changes of behavior that `crosscoder discover` found; `labels withheld`: that nothing is labeled, and why; `activations`: all
    else, which the dictionary and the behaviors of the settings show."""

    text: Sentence
    """The sentence."""

    rests_on: tuple[Quoted, ...]
    """Names of the checks that it rests on, all of them in `grounds` and passed; empty if it claims nothing."""


class LabelCount(ReportPart):
    """Number of latents with a label."""

    label: str
    """The label."""

    meaning: Sentence
    """What the label means."""

    count: Count
    """Number of latents with the label."""

    low: NotNegative | None
    """Lower bound of the count if other held-out text had been read, from resampling documents; null if not measured."""

    high: NotNegative | None
    """Upper bound of the count if other held-out text had been read; null if not measured."""

    candidates: Count | None
    """Number of latents that this training alone would give the label, before q-values and before the other trainings were asked; null if
    not recorded."""

    expected_false: NotNegative | None
    """Number of latents with the label in the null pair that has most, before replication; null if no null pair was trained."""

    expected_false_high: NotNegative | None
    """Upper confidence bound of that number, because a null pair is one draw; null if no null pair was trained."""
