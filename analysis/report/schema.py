"""A report as data: report.json has this schema, and the report and its appendix are made from it alone.

Numbers are in number fields or in the `numbers` of a `Sentence`, never only in words. A field of plain `str` has the report's own
words and no number; text from elsewhere is `Quoted`, and a link is an `Address`.
"""

from typing import Literal

from .behavior_schema import BehaviorShift
from .discovery_schema import DiscoverySection
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
from .headline_schema import Ground, Headline, LabelCount
from .wording import Sentence

SCHEMA_VERSION: Literal[5] = 5


class Fact(ReportPart):
    """A named fact."""

    name: str
    """Name of the fact."""

    value: Sentence
    """The fact."""


class Recorded(ReportPart):
    """An entry of the manifest."""

    name: Quoted
    """Its name in the manifest."""

    value: int | float | Quoted
    """The recorded number, name, digest, path or version."""


class Model(ReportPart):
    """One of the two models."""

    side: Literal["reference", "intervened"]
    """The model before (reference) or after (intervened) the intervention."""

    name: Quoted
    """Short name: the last part of its path or id, and of that of its adapter."""

    facts: tuple[Recorded, ...]
    """What the manifest records about it, including digests of its weights."""


class Check(ReportPart):
    """A condition for comparing the two models."""

    name: Quoted
    """Name of the condition; it may contain the name of a control run."""

    value: Finite | Quoted | None
    """Measured value: a share of 0 to 1, a cosine of −1 to 1, a number of latents or tokens, or a digest; null if not measured."""

    shown: Sentence
    """The value in words."""

    threshold: Sentence
    """The required value. Its number is `limit`, in the unit of the value."""

    verdict: Verdict
    """Whether the value meets the threshold."""

    meaning: str
    """What the value measures."""


class Requirement(ReportPart):
    """A requirement of the desiderata table."""

    key: str
    """`family.name`, as `--require` names it."""

    family: str
    """The family of Comparative XAI: comparability, validity, actionability or monitoring."""

    name: str
    """Name within the family, in words."""

    measure: Sentence
    """What the value measures."""

    value: Finite | None
    """Measured value: a share of 0 to 1, or a number of latents; null if not measured."""

    shown: Sentence
    """The value in words, with details."""

    threshold: Sentence
    """The required value. Its number is `limit`, in the unit of the value."""

    verdict: Verdict
    """Whether the value meets the threshold."""


class Claim(ReportPart):
    """A claim about one latent, with its evidence."""

    latent: Count
    """Index of the latent, counted from 0, as in features.parquet."""

    label: str
    """Its label."""

    evidence: Evidence
    """Strength of the evidence; `observed` means seen in activations."""

    sentence: Sentence
    """Where it fires, which model has its direction, and the top tokens of that direction."""

    rule: Sentence | None
    """A short rule for where it fires, and its AUROC on held-out documents that it was not learned on; null if none was learned."""

    numbers: dict[str, Finite | None]
    """The evidence, named as the columns of features.parquet: shares and rates 0 to 1, cosines −1 to 1; null if not measured."""

    facts: tuple[Fact, ...]
    """The most important of these numbers, with intervals, in words."""

    doubt: str | None
    """Why the claim may mislead; null if no reason is known."""

    link: Address
    """The latent on the page."""


class ClaimGroup(ReportPart):
    """Claims of one kind."""

    name: str
    """A label, or `shift` for the largest shares of the activation shift."""

    title: str
    """Heading of the group."""

    total: Count
    """Number of latents of this kind, with and without a claim in the report."""

    claims: tuple[Claim, ...]
    """The claims in the report, largest share of the activation shift first."""

    statement: Sentence | None
    """How many latents have a claim in the report, and how they were chosen; null if all have one."""

    link: Address
    """All latents of this kind, on the page."""


class Statement(ReportPart):
    """A named sentence."""

    name: str
    """Topic of the sentence."""

    text: Sentence
    """The sentence."""

    value: Finite | None = None
    """The main number of the sentence; null if there is none."""

    verdict: Literal["measured", "not measured"] = "measured"
    """Whether the topic was measured."""


class Reason(ReportPart):
    """A reason why latents are undetermined, with one latent as example."""

    count: Count
    """Number of latents with this reason."""

    latent: Count
    """Index of the example."""

    example: Retold
    """`reason` of the example in features.parquet."""

    numbers: dict[str, Finite]
    """The numbers of `example`, unrounded: evidence of the latent, named as the columns of features.parquet; values that the rule derives
    from it (norms as shares of the larger one, the larger bound of an interval); and the limits of the rule as `rule.NAME`."""


class LimitCurve(ReportPart):
    """Numbers of new and lost latents while one limit of the rule varies and the others stay."""

    limit: str
    """The limit, as `analysis.rule` names it."""

    meaning: str
    """What the limit bounds."""

    configured: Finite
    """Value of the limit in this run."""

    values: tuple[Finite, ...]
    """Values of the limit along the curve."""

    new: tuple[Count, ...]
    """Number of new latents at each value."""

    lost: tuple[Count, ...]
    """Number of lost latents at each value."""

    expected_false: tuple[NotNegative, ...] | None
    """Number of new and lost latents in the null pairs at each value; null if no null pair was trained."""

    text: Sentence
    """Range of the limit in which the number of new and lost latents stays about the same."""


class LayerShift(ReportPart):
    """Similarity of the models after one layer."""

    name: Sentence
    """The layer, counted from 0; one for each model if they differ."""

    cka: Finite | None
    """Linear CKA, unbiased; 1 means the same geometry; null if not measured."""

    change: NotNegative | None
    """E‖intervened − reference‖² over the variance of the reference; null if the widths differ."""

    hookpoint: bool
    """Whether the dictionary reads this layer."""


class Prediction(ReportPart):
    """A position at which the models' predictions differ most."""

    context: Quoted
    """The text before the predicted token."""

    kl: Finite
    """KL of the intervened model's next-token prediction from the reference's, in nats."""

    reference: Sentence
    """The reference's most likely next tokens, with probabilities."""

    intervened: Sentence
    """The intervened model's most likely next tokens, with probabilities."""


class BeforeDictionary(ReportPart):
    """How the models differ before any dictionary; empty parts were not measured."""

    statements: tuple[Statement, ...]
    """Statements about predictions and about the difference of the activations itself."""

    predictions: tuple[Prediction, ...]
    """Positions at which the predictions differ most, largest KL first."""

    layers: tuple[LayerShift, ...]
    """How similar the models are, layer by layer."""


class Outlook(ReportPart):
    """Consequences: side effects, levers, monitoring, scope."""

    side_effects: tuple[Statement, ...]
    """Behaviors that should not have shifted; values are their shifts, in the unit of each."""

    levers: tuple[Statement, ...]
    """How a shift can be undone, and at what cost; values are shares of the shift."""

    monitoring: tuple[Statement, ...]
    """What to measure again, and when."""

    reach: tuple[Statement, ...]
    """Scope of the report's claims."""


class Stage(ReportPart):
    """A stage of the run, from the manifest."""

    name: Quoted
    """Name of the stage."""

    wall_seconds: NotNegative | None
    """Wall time in seconds; null if not recorded."""

    tokens: Count | None
    """Number of tokens that the stage read; null if not recorded."""

    command: Quoted | None
    """Command that ran the stage; null if not recorded."""

    finished: bool | None
    """Whether the stage finished; null if not recorded."""


class Report(ReportPart):
    """What changed between two language models, feature by feature, and how certain that is."""

    schema_version: Literal[5]
    """Version of this format."""

    title: Quoted
    """Names of the two models."""

    summary: tuple[Headline, ...]
    """The main results in a few sentences: findings first, then what the dictionary shows. If nothing is labeled, one says so."""

    grounds: tuple[Ground, ...]
    """The checks that sentences of the summary can rest on."""

    withheld: bool
    """Whether nothing is labeled, because the run missed a condition; then no count of labels is a finding."""

    identical: bool
    """Whether both models computed identical activations, so that there is nothing to explain."""

    models: tuple[Model, Model]
    """The reference, then the intervened model."""

    discovery: DiscoverySection
    """What changed in the answers: findings, which rest on no dictionary."""

    compared: tuple[Fact, ...]
    """The text, hookpoint and dictionary of the comparison."""

    checks: tuple[Check, ...]
    """Conditions for comparing the two models."""

    before: BeforeDictionary
    """How the models differ before any dictionary."""

    counts: tuple[LabelCount, ...]
    """Number of latents with each label."""

    groups: tuple[ClaimGroup, ...]
    """What changed, latent by latent."""

    behaviors: tuple[BehaviorShift, ...]
    """How behaviors shifted, and which latents carry the shifts; empty if no behavior was attributed."""

    rule: tuple[Statement, ...]
    """The rule that decides every label."""

    limits: tuple[LimitCurve, ...]
    """How much the number of new and lost latents depends on each limit of the rule."""

    certainty: tuple[Statement, ...]
    """Checks of the labels, and what they found."""

    change: tuple[Statement, ...]
    """The parts of the squared change, which add up to it: what is constant, in latents, in subspaces, in one linear map, or unexplained."""

    unexplained: tuple[Statement, ...]
    """What the latents do not explain; values are shares of 0 to 1."""

    desiderata: tuple[Requirement, ...]
    """Requirements on an explanation of a change; `crosscoder report RUN --require FILE` demands some of them."""

    outlook: Outlook
    """Side effects, levers, monitoring, and the scope of the report's claims."""

    undetermined: tuple[Reason, ...]
    """Why latents are undetermined, most common reason first."""

    stages: tuple[Stage, ...]
    """Stages of the run."""

    versions: tuple[Recorded, ...]
    """Versions of the libraries that made the run."""

    seed: int | None
    """Seed of the run; null if not recorded."""

    page: Address
    """The page of all latents."""

    @property
    def why_withheld(self) -> Sentence | None:
        """Why nothing is labeled, and what to change; None if the run is labeled."""
        return next((headline.text for headline in self.summary if headline.about == "labels withheld"), None)
