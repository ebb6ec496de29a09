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
    counts: tuple[LabelCount, ...]
    groups: tuple[ClaimGroup, ...]
    rule: tuple[Statement, ...]
    certainty: tuple[Statement, ...]
    unexplained: tuple[Statement, ...]
    undetermined: tuple[Reason, ...]
    stages: tuple[Stage, ...]
    versions: tuple[Fact, ...]
    seed: int | None
    page: str
