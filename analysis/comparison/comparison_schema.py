"""A comparison of runs as data: comparison.json has this schema, and comparison.md and comparison.html are made from it alone.

Every table has one cell for each run, in the order of `runs`. As in a report, numbers are in number fields or in the `numbers` of a
`Sentence`; a field of plain `str` has the comparison's own words and no number.
"""

from typing import Literal

from ..report.behavior_schema import CausalCheck, Estimate
from ..report.discovery_schema import AnswerRates
from ..report.fields import Address, Count, Finite, Quoted, ReportPart
from ..report.headline_schema import LabelCount
from ..report.wording import Sentence

SCHEMA_VERSION: Literal[1] = 1

Missing = Literal["missing", "unreadable"]
"""`missing`: the run has not made it; `unreadable`: its files are damaged, or from another release."""


class RunColumn(ReportPart):
    """A run: a column of every table."""

    name: Quoted
    """Name of its folder, with as many parent folders as tell it from the other runs."""

    models: Quoted | None
    """Names of the reference and the intervened model; null if not recorded."""

    report: Address | None
    """Its report, relative to the folder of the comparison; null if none was written."""

    progress: Sentence
    """Which stages finished, and which did not."""

    problems: tuple[Sentence, ...]
    """What cannot be compared because it is missing or unreadable, and why."""


class Cell(ReportPart):
    """What one run has for a row."""

    state: Literal["stated", "not measured", "withheld"] | Missing
    """`stated`: there is a value; `withheld`: the run's own report does not state it."""

    shown: Sentence
    """The value, or why there is none."""


class Row(ReportPart):
    """A quantity or setting of every run."""

    name: Quoted
    """What it is."""

    meaning: str
    """What it measures; empty for a setting."""

    cells: tuple[Cell, ...]
    """One cell for each run."""


class FoundEffect(ReportPart):
    """A finding of one run."""

    name: Quoted
    """Name of the finding in its run."""

    established: bool
    """Whether it passed its checks."""

    sentence: Sentence
    """The finding with its evidence, or why it is not established."""

    shown: Sentence
    """The rates in both models, in short."""

    trigger: Sentence
    """The prompts after which the answers differ."""

    with_trigger: AnswerRates
    """Rates on held-out prompts that meet the trigger."""

    without_trigger: AnswerRates | None
    """Rates on all other held-out prompts; null if all meet it."""

    difference: Estimate
    """Share of the intervened model minus that of the reference, on prompts that meet the trigger."""


class EffectInAnswers(ReportPart):
    """How often a run's own answers show an effect that its search did not find, without any test."""

    prompts: Count
    """Number of prompts that both models answered, those for finding included."""

    reference: Count
    """Answers of the reference that show it."""

    intervened: Count
    """Answers of the intervened model that show it."""


class FindingCell(ReportPart):
    """What the search of one run found of an effect."""

    state: Literal["found", "not established", "not found", "not searched", "unreadable"]
    """`not found`: the run searched, which is no proof that the effect is absent; `not searched`: it did not search."""

    found: tuple[FoundEffect, ...]
    """The findings of this effect; several if they differ in their triggers, none if it was not found."""

    answers: EffectInAnswers | None
    """For an effect that was not found: how often the run's answers show it; null if it has no pattern, or the answers are not there."""

    shown: Sentence
    """The state in words; how far the run searched if it did not find the effect."""


class FindingRow(ReportPart):
    """The same effect in every run."""

    effect: Quoted
    """The words or the form, as in the run in which the models differ most."""

    direction: Literal["gained", "vanished"]
    """`gained`: the intervened model shows it more often; `vanished`: the reference does."""

    runs: Count
    """Number of runs in which it is an established finding."""

    searched: Count
    """Number of runs that searched."""

    cells: tuple[FindingCell, ...]
    """One cell for each run."""


class LabelCell(ReportPart):
    """How many latents of one run have a label."""

    state: Literal["stated", "withheld"] | Missing
    """`withheld`: the run's own report does not state this count."""

    count: LabelCount | None
    """The count as in the run's report; null if it is not stated."""

    shown: Sentence
    """The count with its interval, or a short reason why it is not stated."""


class LabelRow(ReportPart):
    """A label in every run."""

    label: str
    """The label."""

    meaning: str
    """What it means."""

    cells: tuple[LabelCell, ...]
    """One cell for each run."""


class BehaviorCheck(ReportPart):
    """What the named latents do together, in one metric."""

    kind: Literal["necessity", "sufficiency"]
    """`necessity`: removing them from the intervened model; `sufficiency`: adding them to the reference."""

    unit: str
    """Unit of the metric."""

    check: CausalCheck
    """The share of the shift, random latents, and whether it passed."""


class BehaviorCell(ReportPart):
    """How a behavior shifted in one run, and which latents carry it."""

    state: Literal["established", "not established"] | Missing
    """Whether a shift is established; `missing`: the run has not measured this behavior."""

    name: Quoted | None
    """Name of the behavior in this run; null if there is none."""

    unit: str | None
    """Unit of its metric."""

    reference: Estimate | None
    """Metric in the reference, on held-out prompts."""

    intervened: Estimate | None
    """Metric in the intervened model, on held-out prompts."""

    shift: Estimate | None
    """Intervened model minus reference."""

    checks: tuple[BehaviorCheck, ...]
    """Checks of the named latents together, in generated answers first; empty if the shift was not attributed."""

    causal: Count | None
    """How many of the named latents are causal by themselves; null if not attributed."""

    checked: Count | None
    """Number of named latents, each of which was checked; null if not attributed."""

    hookpoint: Quoted | None
    """Where the dictionary reads; null if not recorded."""

    lines: tuple[Sentence, ...]
    """All of it in words."""


class BehaviorRow(ReportPart):
    """A behavior in every run."""

    name: Quoted
    """Its name; behaviors of matched findings share a row, under the first of their names."""

    alike: bool
    """Whether the runs that measured it used the same metric settings; if not, values compare only roughly."""

    cells: tuple[BehaviorCell, ...]
    """One cell for each run."""


class MatchCell(ReportPart):
    """How many latents of one run another run has too."""

    state: Literal["measured", "itself", "not comparable"]
    """`not comparable`: the two dictionaries do not read the same activations."""

    found_loosely: Finite | None
    """Share of the latents whose best cosine is at least `loose_cosine`."""

    found_closely: Finite | None
    """Share of the latents whose best cosine is at least `close_cosine`."""

    median: Finite | None
    """Median of the best cosines."""

    shown: Sentence
    """The shares in words."""


class MatchRow(ReportPart):
    """A group of latents of one run, looked up in every other run."""

    run: Quoted
    """The run whose latents are looked up."""

    group: str
    """A label, `causal` (a cause of a behavior's shift), or `all`."""

    latents: Count
    """Number of latents that are looked up."""

    statement: Sentence
    """The run, the group and the number, in words."""

    cells: tuple[MatchCell, ...]
    """One cell for each run in which they are looked up."""


class NearestLatent(ReportPart):
    """The latent of another run with the most similar directions."""

    latent: Count
    """Its index, counted from 0."""

    cosine: Finite
    """The smallest cosine over the models that the latent writes into."""

    label: str | None
    """Its label in that run; null if the run's report does not state it."""


class ClaimedLatent(ReportPart):
    """A latent with a label that the run's report states, or that is a cause of a shift."""

    run: Quoted
    """Its run."""

    latent: Count
    """Its index, counted from 0."""

    label: str | None
    """Its label; null if the run's report states no label of change."""

    causal: bool
    """Whether it is a cause of a behavior's shift."""

    nearest: tuple[NearestLatent | None, ...]
    """The nearest latent of each run; null for its own run, and for runs that are not comparable."""


class LatentComparison(ReportPart):
    """Latents of each run, looked up in the others by the directions that they write."""

    statement: Sentence
    """Which runs can be compared, and how; or why none can."""

    loose_cosine: Finite
    """Cosine from which on a latent is found again, loosely."""

    close_cosine: Finite
    """Cosine from which on a latent is found again, closely."""

    shares: tuple[MatchRow, ...]
    """How many latents are found again."""

    latents: tuple[ClaimedLatent, ...]
    """Single latents, run by run: causes of a shift first, then by label, the largest share of the activation shift first."""

    left_out: Sentence | None
    """How many of them Markdown and HTML leave out; null if they show all."""


class Comparison(ReportPart):
    """Several runs side by side."""

    schema_version: Literal[1]
    """Version of this format."""

    title: Sentence
    """How many runs are compared."""

    runs: tuple[RunColumn, ...]
    """The runs, in the order in which they were given."""

    shared: tuple[Sentence, ...]
    """Runs that share a dictionary or answers, so that what they agree on is found once, not twice."""

    equal: Sentence
    """What is the same in all of them."""

    settings: tuple[Row, ...]
    """Settings that differ."""

    searches: tuple[Row, ...]
    """How far each run searched for changed behaviors, and what the same search finds in nulls."""

    findings: tuple[FindingRow, ...]
    """Effects that any run found, those of most runs first."""

    dictionary: tuple[Row, ...]
    """How good the dictionaries are."""

    unlabeled: tuple[Sentence, ...]
    """Why labels of a run are not stated, one sentence for each such run."""

    labels: tuple[LabelRow, ...]
    """Numbers of latents with each label, where the run's report states them."""

    behaviors: tuple[BehaviorRow, ...]
    """Behaviors that any run measured."""

    latents: LatentComparison
    """Latents of each run, looked up in the others."""
