"""What a report says, as data. report.json is this; the text and the page are made from nothing else.

Numbers stand in number fields or in the `numbers` of a `Sentence`, never in words alone. A field of plain `str` holds the report's own
words and no number; text that others wrote is `Quoted`, and a page `Address` leads to the page.
"""

from typing import Literal

from .behavior_schema import BehaviorShift
from .fields import (
    Address,
    Count,
    Evidence,
    Finite,
    NotNegative,
    Quoted,
    ReportPart,
    Retold,
    Verdict,
)
from .wording import Sentence

SCHEMA_VERSION: Literal[3] = 3


class Fact(ReportPart):
    """One thing that is so, with its name."""

    name: str
    """What it is about."""

    value: Sentence
    """What is so."""


class Recorded(ReportPart):
    """One thing as the manifest records it."""

    name: Quoted
    """Its name there."""

    value: int | float | Quoted
    """What is recorded: a number, or a name, digest, path or version."""


class Model(ReportPart):
    """One of the two models."""

    side: Literal["reference", "intervened"]
    """The model before, or the model after."""

    name: Quoted
    """A short name: the last part of its path or id, and of its adapter's."""

    facts: tuple[Recorded, ...]
    """What the manifest records of it, digests of its weights included."""


class Check(ReportPart):
    """One condition for comparing the two models."""

    name: str
    """What is asked."""

    value: Finite | Quoted | None
    """What was measured: a share of 0 to 1, a cosine of −1 to 1, a number of latents or tokens, or a digest; null: not measured."""

    shown: Sentence
    """The value as it is read."""

    threshold: Sentence
    """What the value has to be. Its number is `limit`, in the unit of the value."""

    verdict: Verdict
    """Whether it is."""

    meaning: str
    """What was measured, in words."""


class Requirement(ReportPart):
    """One requirement of the desiderata table."""

    key: str
    """`family.name`, as `--require` names it."""

    family: str
    """The family of Comparative XAI: comparability, validity, actionability or monitoring."""

    name: str
    """The name within the family, as words."""

    measure: Sentence
    """What is measured."""

    value: Finite | None
    """What was measured: a share of 0 to 1, or a number of latents; null: not measured."""

    shown: Sentence
    """The value as it is read, and what belongs to it."""

    threshold: Sentence
    """What the value has to be. Its number is `limit`, in the unit of the value."""

    verdict: Verdict
    """Whether it is."""


class LabelCount(ReportPart):
    """How many latents bear a label."""

    label: str
    """The label."""

    meaning: str
    """What it says of a latent."""

    count: Count
    """Latents that bear it."""

    low: NotNegative | None
    """Lower bound of that count with other text, from resampling held-out documents; null: not measured."""

    high: NotNegative | None
    """Upper bound of that count with other text."""

    expected_false: NotNegative | None
    """How many of them are to be expected from nothing, by the null pairs; null: not measured."""


class Claim(ReportPart):
    """What is said of one latent, and from what."""

    latent: Count
    """Its number, counted from 0, as in features.parquet."""

    label: str
    """Its label."""

    evidence: Evidence
    """How strong the evidence is; `observed`: seen in activations."""

    sentence: Sentence
    """Where it fires, in which model its direction is, and what that points at."""

    rule: Sentence | None
    """A short rule for where it fires, and its AUROC on held-out documents that it was not learnt on; null: none was looked for."""

    numbers: dict[str, Finite | None]
    """The evidence, named as the columns of features.parquet: shares and rates 0 to 1, cosines −1 to 1; null: not measured."""

    facts: tuple[Fact, ...]
    """The most important of them, with intervals, as they are read."""

    doubt: str | None
    """Why the claim may mislead; null: nothing known."""

    link: Address
    """The latent on the page."""


class ClaimGroup(ReportPart):
    """Claims of one kind; `total` counts also those that are not written out."""

    name: str
    """A label, or `shift` for the largest shares of the shift."""

    title: str
    """The same as a heading."""

    total: Count
    """Latents of this kind."""

    claims: tuple[Claim, ...]
    """Those that are written out, the largest share of the shift first."""

    statement: Sentence | None
    """How many are written out, and by what they were chosen; null: all are."""

    link: Address
    """All of them, on the page."""


class Statement(ReportPart):
    """A named sentence; `verdict` says whether the thing was measured at all."""

    name: str
    """What it is about."""

    text: Sentence
    """What is said."""

    value: Finite | None = None
    """The one number it is about, where there is one."""

    verdict: Literal["measured", "not measured"] = "measured"
    """Whether it was measured."""


class Reason(ReportPart):
    """A reason why latents are undetermined, in the words of one of them."""

    count: Count
    """Latents with this reason."""

    latent: Count
    """The one whose words they are."""

    example: Retold
    """Its `reason` in features.parquet."""

    numbers: dict[str, Finite]
    """That latent's evidence, named as the columns of features.parquet, what the rule makes of it (norms as shares of the larger one,
    the larger end of an interval), and the rule's limits as `rule.NAME`: the numbers of `example`, unrounded."""


class LimitCurve(ReportPart):
    """New and lost latents while one limit of the rule moves alone."""

    limit: str
    """The limit, as `analysis.rule` names it."""

    meaning: str
    """What it bounds."""

    configured: Finite
    """What it was in this run."""

    values: tuple[Finite, ...]
    """What it is along the curve."""

    new: tuple[Count, ...]
    """New latents at each."""

    lost: tuple[Count, ...]
    """Lost latents at each."""

    expected_false: tuple[NotNegative, ...] | None
    """How many new and lost the nulls have at each; null: no null was trained."""

    text: Sentence
    """From where to where the count stays what it is."""


class LayerShift(ReportPart):
    """How alike the models are after one layer."""

    name: Sentence
    """The layer, counted from 0; of each model where they differ."""

    cka: Finite | None
    """Linear CKA, unbiased; 1: the same geometry; null: not measured."""

    change: NotNegative | None
    """E‖intervened − reference‖² over the variance of the reference; null where the widths differ."""

    hookpoint: bool
    """Whether the dictionary reads this layer."""


class Prediction(ReportPart):
    """A place where the models' predictions differ most."""

    context: Quoted
    """The text before it."""

    kl: Finite
    """KL of the intervened model's next-token prediction from the reference's, in nats."""

    reference: Sentence
    """The reference's likeliest next tokens with their probabilities."""

    intervened: Sentence
    """The intervened model's likeliest next tokens with their probabilities."""


class BeforeDictionary(ReportPart):
    """What the models differ in before any dictionary; empty parts were not measured."""

    statements: tuple[Statement, ...]
    """Predictions, and the plain difference of the activations."""

    predictions: tuple[Prediction, ...]
    """Where the predictions differ most, the largest KL first."""

    layers: tuple[LayerShift, ...]
    """Where the models part, layer by layer."""


class Outlook(ReportPart):
    """What follows from it."""

    side_effects: tuple[Statement, ...]
    """Behaviors that were not meant to shift; values are shifts in the unit of each."""

    levers: tuple[Statement, ...]
    """How a shift can be undone, and at which cost; values are shares of the shift."""

    monitoring: tuple[Statement, ...]
    """When to look again, and at what."""

    reach: tuple[Statement, ...]
    """How far what the report says reaches."""


class Stage(ReportPart):
    """One stage of the run, as the manifest has it."""

    name: Quoted
    """Its name."""

    wall_seconds: NotNegative | None
    """Wall time in seconds; null: not recorded."""

    tokens: Count | None
    """Tokens it read; null: not recorded."""

    command: Quoted | None
    """The command it ran under; null: not recorded."""

    finished: bool | None
    """Whether it came to its end; null: not recorded."""


class Report(ReportPart):
    """What changed between two language models, feature by feature, and how sure that is: everything the report says."""

    schema_version: Literal[3]
    """Version of this format."""

    title: Quoted
    """The two models' names."""

    summary: tuple[Sentence, ...]
    """What was found, in a few sentences."""

    identical: bool
    """Whether both sides computed identical activations, so that there is nothing to explain."""

    models: tuple[Model, Model]
    """The reference, then the intervened model."""

    compared: tuple[Fact, ...]
    """On what, and by which dictionary."""

    checks: tuple[Check, ...]
    """Whether the two can be compared."""

    before: BeforeDictionary
    """What they differ in before any dictionary."""

    counts: tuple[LabelCount, ...]
    """How many latents bear each label."""

    groups: tuple[ClaimGroup, ...]
    """What changed, latent by latent."""

    behaviors: tuple[BehaviorShift, ...]
    """How behaviors shifted, and which latents carry that; none where none was attributed."""

    rule: tuple[Statement, ...]
    """The rule behind every label."""

    limits: tuple[LimitCurve, ...]
    """How much the count of new and lost depends on each limit of the rule."""

    certainty: tuple[Statement, ...]
    """What stands behind the labels."""

    unexplained: tuple[Statement, ...]
    """What is not explained; values are shares of 0 to 1."""

    desiderata: tuple[Requirement, ...]
    """What an explanation of a change has to fulfill; `crosscoder report RUN --require FILE` asks of these."""

    outlook: Outlook
    """Side effects, levers, monitoring, and how far the report reaches."""

    undetermined: tuple[Reason, ...]
    """Why latents are undetermined, commonest first."""

    stages: tuple[Stage, ...]
    """How it was made."""

    versions: tuple[Recorded, ...]
    """Versions of the libraries that made it."""

    seed: int | None
    """Seed of the run; null: not recorded."""

    page: Address
    """The page of all latents."""
