"""What a report says, as data. report.json is this; the text and the page are made from nothing else."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

Verdict = Literal["pass", "fail", "not measured"]
Evidence = Literal["observed", "associated", "causal"]
NOT_MEASURED: Verdict = "not measured"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Part):
    """A piece of a sentence. A token is text from a model or a data set: quoted, never read as markup."""

    kind: Literal["text", "token", "peak"]
    text: str


class Fact(_Part):
    """One thing that is so, with its name."""

    name: str
    value: str


class Model(_Part):
    """One of the two models."""

    side: Literal["reference", "intervened"]
    name: str
    facts: tuple[Fact, ...]


class Check(_Part):
    """One condition for comparing the two models."""

    name: str
    value: float | str | None
    shown: str
    threshold: str
    verdict: Verdict
    meaning: str


class Requirement(_Part):
    """One requirement of the desiderata table."""

    key: str
    """`family.name`, as `--require` names it."""

    family: str
    name: str
    measure: str
    value: float | None
    shown: str
    threshold: str
    verdict: Verdict


class LabelCount(_Part):
    """How many latents bear a label."""

    label: str
    meaning: str
    count: int
    low: float | None
    high: float | None
    expected_false: float | None


class Claim(_Part):
    """What is said of one latent, and from what."""

    latent: int
    label: str
    evidence: Evidence
    sentence: str
    spans: tuple[Span, ...]
    numbers: dict[str, float | None]
    facts: tuple[Fact, ...]
    doubt: str | None
    link: str


class ClaimGroup(_Part):
    """Claims of one kind; `total` counts also those that are not written out."""

    name: str
    title: str
    total: int
    claims: tuple[Claim, ...]
    statement: str | None
    link: str


class Statement(_Part):
    """A named sentence; `verdict` says whether the thing was measured at all."""

    name: str
    text: str
    value: float | None = None
    verdict: Literal["measured", "not measured"] = "measured"


class Reason(_Part):
    """A reason why latents are undetermined, in the words of one of them."""

    count: int
    example: str


class LimitCurve(_Part):
    """New and lost latents while one limit of the rule moves alone, and the same drawn."""

    limit: str
    meaning: str
    configured: float
    values: tuple[float, ...]
    new: tuple[int, ...]
    lost: tuple[int, ...]
    expected_false: tuple[float, ...] | None
    text: str
    path: str
    path_false: str | None
    mark: float


class LayerShift(_Part):
    """How alike the models are after one layer."""

    name: str
    cka: float | None
    change: float | None
    hookpoint: bool


class Prediction(_Part):
    """A place where the models' predictions differ most; texts are from models and data sets."""

    context: str
    kl: float
    reference: str
    intervened: str


class BeforeDictionary(_Part):
    """What the models differ in before any dictionary; empty parts were not measured."""

    statements: tuple[Statement, ...]
    predictions: tuple[Prediction, ...]
    layers: tuple[LayerShift, ...]


class Stage(_Part):
    """One stage of the run, as the manifest has it."""

    name: str
    wall_seconds: float | None
    tokens: int | None
    command: str | None
    finished: bool | None


class Report(_Part):
    """Everything the report says."""

    schema_version: int
    title: str
    summary: tuple[str, ...]
    identical: bool
    models: tuple[Model, ...]
    compared: tuple[Fact, ...]
    checks: tuple[Check, ...]
    before: BeforeDictionary
    counts: tuple[LabelCount, ...]
    groups: tuple[ClaimGroup, ...]
    rule: tuple[Statement, ...]
    limits: tuple[LimitCurve, ...]
    certainty: tuple[Statement, ...]
    unexplained: tuple[Statement, ...]
    desiderata: tuple[Requirement, ...]
    undetermined: tuple[Reason, ...]
    stages: tuple[Stage, ...]
    versions: tuple[Fact, ...]
    seed: int | None
    page: str
