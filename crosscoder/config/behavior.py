"""Settings of a behavior: its prompts, its metric, and what counts as a shift.

One YAML file per behavior. The prompts are split: latents are found on one part and checked on the held-out part.
"""

import reprlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from . import Count, Message, Settings, Share
from .block import Draws, Seed, Window
from .chat_model import EndpointModel, LocalModel
from .messages import why_no_expression

Texts = Annotated[tuple[str, ...], Field(min_length=1)]


# --- metrics with a gradient ------------------------------------------------------------------------------------------


class LogOdds(Settings):
    """Log-odds that the next token is in a given set, in nats."""

    kind: Literal["log_odds"] = "log_odds"
    tokens: Texts = Field(description="the set, as texts of one token each")
    against: tuple[str, ...] = Field(
        default=(), description="the alternatives, as texts of one token each; empty: all other tokens"
    )


class Continuation(Settings):
    """Log-probability that any of the given continuations follows the prompt, in nats."""

    kind: Literal["continuation"] = "continuation"
    texts: Texts = Field(description="continuations of the prompt, e.g. the openings of a refusal")
    against: tuple[str, ...] = Field(
        default=(), description="continuations whose log-probability is subtracted; empty: none"
    )


class Perplexity(Settings):
    """Mean next-token cross-entropy of a text, in nats per token: the logarithm of its perplexity."""

    kind: Literal["perplexity"] = "perplexity"


class Divergence(Settings):
    """KL(model ‖ reference) of the next-token distribution, in nats; 0 for the reference itself."""

    kind: Literal["divergence"] = "divergence"
    places: Literal["last", "all"] = Field(
        default="last", description="last: at the last token of the prompt; all: averaged over all its tokens"
    )


LogitMetric = Annotated[LogOdds | Continuation | Perplexity | Divergence, Field(discriminator="kind")]


# --- metrics of generated answers -------------------------------------------------------------------------------------


class Sampling(Settings):
    """How answers are sampled."""

    max_new_tokens: Window = Field(default=32, description="largest number of tokens in an answer")
    samples: Draws = Field(default=1, description="answers sampled per prompt")
    temperature: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="sampling temperature; 0 decodes greedily, with one sample"
    )

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples is {self.samples}, but at temperature 0 all samples are equal; give a temperature above 0"
            )
        return self


class Pattern(Settings):
    """Share of the generated answers that match a regular expression."""

    kind: Literal["pattern"] = "pattern"
    pattern: str = Field(description="regular expression, searched for anywhere in the answer")
    ignore_case: bool = Field(default=True, description="ignore upper and lower case")
    sampling: Sampling = Field(default=Sampling(), description="how answers are sampled")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        reason = why_no_expression(value)
        if reason is not None:
            raise ValueError(f"{reprlib.repr(value)} is not a regular expression ({reason})")
        return value


class UserFunction(Settings):
    """One number per generated answer, from your own Python function."""

    kind: Literal["callable"] = "callable"
    file: Path = Field(description="Python file; it is executed")
    function: str = Field(
        description="name of a function in the file; takes a list of prompts and a list of answers, returns one number per answer"
    )
    bounds: tuple[float, float] | None = Field(
        default=None,
        description="smallest and largest value that the function can return, e.g. [0, 1]; null: unknown, and an interval has zero width "
        "when all prompts agree",
    )
    sampling: Sampling = Field(default=Sampling(), description="how answers are sampled")

    @field_validator("bounds")
    @classmethod
    def _check_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(f"{list(value)} do not ascend; give the smaller number first")
        return value


class EndpointJudge(EndpointModel):
    """A chat model behind an OpenAI-compatible endpoint. Prompts and answers leave the machine."""

    max_requests: Count = Field(
        default=1000,
        description="limit on the requests for one behavior; a run that needs more is refused before the first",
    )


class Judged(Settings):
    """Share of the generated answers for which a judge model answers a question with yes."""

    kind: Literal["judge"] = "judge"
    question: str = Field(
        description="yes-or-no question for the judge; {prompt} and {answer} are filled in",
    )
    judge: LocalModel | EndpointJudge = Field(description="the judge model", discriminator="kind")
    sampling: Sampling = Field(default=Sampling(), description="how answers are sampled")

    @field_validator("question")
    @classmethod
    def _holds_the_answer(cls, value: str) -> str:
        if "{answer}" not in value:
            raise ValueError("contains no {answer}, so the judge would not see the answer")
        return value


AnswerMetric = Annotated[Pattern | UserFunction | Judged, Field(discriminator="kind")]
Metric = Annotated[
    LogOdds | Continuation | Perplexity | Divergence | Pattern | UserFunction | Judged,
    Field(discriminator="kind"),
]


# --- the behavior -----------------------------------------------------------------------------------------------------


class ShiftRule(Settings):
    """What counts as a shift. A smaller shift is not attributed."""

    at_least: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="smallest shift that counts, in the unit of the metric"
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95,
        description="confidence level of intervals; a shift needs a p-value of at most 1 - confidence",
    )
    unseen: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1,
        description="for a metric without bounds: share of the prompts that may be of a kind not among the claim prompts; 0.1 needs 29 claim "
        "prompts, 0.14 needs 20, 0.22 needs 13",
    )


class AttributionSettings(Settings):
    """How the shift is attributed to latents."""

    residual: Share = Field(
        default=0.01,
        description="integration steps are added until the unattributed share of the shift is below this",
    )
    steps: Window | None = Field(
        default=None,
        description="fixed number of integration steps; 1 is the cheap mode with one gradient per model; null: adaptive",
    )
    max_steps: Window = Field(default=36, description="largest number of integration steps")
    layers: bool = Field(default=True, description="also measure how much of the shift each layer carries")


class CheckSettings(Settings):
    """Causal checks on the held-out prompts."""

    latents: Draws = Field(
        default=10, description="number of latents at each end of the ranking that are named and checked"
    )
    counts: tuple[Count, ...] = Field(
        default=(1, 2, 3, 5, 10, 20, 50, 100, 200, 500),
        description="sizes of the sets of latents along the curve",
    )
    draws: Annotated[int, Field(ge=19, le=100_000)] = Field(
        default=200,
        description="random sets of latents, matched in frequency and norm, that the named latents together are compared with; a check "
        "for which these are too few is not made",
    )
    latent_draws: Annotated[int, Field(ge=19, le=100_000)] = Field(
        default=400,
        description="latents, those most like the named ones in frequency and norm, that each named latent is compared with",
    )
    answer_draws: int = Field(
        default=39,
        ge=0,
        le=100_000,
        description="random sets to generate answers with, for a metric of answers; two checks at a confidence of 0.95 need 39",
    )
    replicas: bool = Field(
        default=True,
        description="repeat the finding and the check of the named latents together on every dictionary that the run trained with "
        "another seed: on the same prompts, with up to 99 random sets each",
    )
    answer_counts: tuple[Count, ...] = Field(
        default=(50,),
        description="sizes of the sets of latents to generate answers with, in addition to the named latents",
    )
    doses: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] = Field(
        default=(0.5, 1.0, 2.0, 4.0), description="multiples of the steering direction"
    )


class Behavior(Settings):
    """A behavior, and how its shift is measured and attributed."""

    name: str = Field(
        description="short name of letters, digits, - and _", pattern=r"^[A-Za-z0-9_-]+$", max_length=100
    )
    description: str = Field(default="", description="one sentence that describes the behavior")
    unrelated: bool = Field(
        default=False,
        description="the intervention should not change this behavior; a shift is reported as a side effect",
    )
    prompts: Path | tuple[str | tuple[Message, ...], ...] = Field(
        description="file, folder or pattern of prompts (as path in text.sources), or a list of texts or chats"
    )
    limit: Count | None = Field(
        default=None, description="use at most this many prompts, spread evenly over the file"
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="share of the prompts held out to check claims on"
    )
    metric: Metric = Field(description="how the behavior is measured")
    find_with: LogitMetric | None = Field(
        default=None,
        description="differentiable metric used to find latents when `metric` scores generated answers",
    )
    shift: ShiftRule = Field(default=ShiftRule(), description="what counts as a shift")
    attribution: AttributionSettings = Field(
        default=AttributionSettings(), description="how the shift is attributed to latents"
    )
    checks: CheckSettings = Field(default=CheckSettings(), description="the causal checks")
    elsewhere: Path | tuple[str, ...] | None = Field(
        default=None,
        description="unrelated texts on which the cost of an edit is measured: a file (as path in text.sources), or names of text sources of the "
        "run, whose held-out documents are used; null: all sources in text.sources",
    )
    elsewhere_limit: Count = Field(
        default=16, description="largest number of texts that the cost is measured on"
    )
    seed: Seed = Field(
        default=0, description="seed of the split, the sampling, the random sets and the bootstrap"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.find_with is not None and self.gradient_metric is self.metric:
            raise ValueError(
                f"find_with replaces a metric of answers, but metric {self.metric.kind!r} is differentiable; remove find_with"
            )
        if not isinstance(self.prompts, Path) and len(self.prompts) < 4:
            raise ValueError(f"prompts: {len(self.prompts)} prompts are too few to split; give at least 4")
        return self

    @property
    def gradient_metric(self) -> LogOdds | Continuation | Perplexity | Divergence | None:
        """The differentiable metric that latents are found with; None if there is none."""
        if isinstance(self.metric, LogOdds | Continuation | Perplexity | Divergence):
            return self.metric
        return self.find_with
