"""Settings of a behavior: on which prompts it is measured, by which metric, and what counts as a shift of it.

One YAML file a behavior. Prompts are split in two: one part to find latents with, the other to claim anything with.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from . import Count, Message, Settings, Share
from .chat_model import EndpointModel, LocalModel

Words = Annotated[tuple[str, ...], Field(min_length=1)]


# --- metrics with a gradient ------------------------------------------------------------------------------------------


class LogOdds(Settings):
    """Log-odds of the next token being one of a set, in nats."""

    kind: Literal["log_odds"] = "log_odds"
    tokens: Words = Field(description="texts of one token each")
    against: tuple[str, ...] = Field(
        default=(), description="texts of one token each; left out: all other tokens"
    )


class Continuation(Settings):
    """Log-probability of given continuations of a prompt, in nats; of several, of any of them."""

    kind: Literal["continuation"] = "continuation"
    texts: Words = Field(description="what may follow the prompt, e.g. the opening of a refusal")
    against: tuple[str, ...] = Field(
        default=(), description="continuations whose log-probability is subtracted; left out: none"
    )


class Perplexity(Settings):
    """Mean cross-entropy of the next token of a text, in nats a token: the logarithm of its perplexity."""

    kind: Literal["perplexity"] = "perplexity"


class Divergence(Settings):
    """KL(model ‖ reference) of the next token after a prompt, in nats: 0 for the reference itself."""

    kind: Literal["divergence"] = "divergence"
    places: Literal["last", "all"] = Field(
        default="last", description="last: after the prompt; all: after each of its tokens, on average"
    )


LogitMetric = Annotated[LogOdds | Continuation | Perplexity | Divergence, Field(discriminator="kind")]


# --- metrics of generated answers -------------------------------------------------------------------------------------


class Sampling(Settings):
    """How answers are generated."""

    max_new_tokens: Count = Field(default=32, description="tokens of an answer, at most")
    samples: Count = Field(default=1, description="answers to each prompt")
    temperature: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="0: always the likeliest token; needs no more than one sample"
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples is {self.samples}, but at temperature 0 all of them are the same; give a temperature above 0"
            )
        return self


class Pattern(Settings):
    """Share of the generated answers in which a pattern is found."""

    kind: Literal["pattern"] = "pattern"
    pattern: str = Field(description="regular expression, searched in the answer")
    ignore_case: bool = Field(default=True, description="whether upper and lower case are the same")
    sampling: Sampling = Field(default=Sampling(), description="how answers are generated")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression ({error})") from None
        return value


class UserFunction(Settings):
    """A number for each generated answer, from a Python function of the user."""

    kind: Literal["callable"] = "callable"
    file: Path = Field(description="Python file; it is run")
    function: str = Field(
        description="name of a function in it; called with a list of prompts and a list of answers, returns a number for each"
    )
    bounds: tuple[float, float] | None = Field(
        default=None,
        description="the least and the most that it can return, e.g. [0, 1]; left out: not known, and intervals have no width where all "
        "prompts agree",
    )
    sampling: Sampling = Field(default=Sampling(), description="how answers are generated")

    @field_validator("bounds")
    @classmethod
    def _ascend(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(f"{list(value)} do not ascend; give the least number first")
        return value


class EndpointJudge(EndpointModel):
    """A chat model behind an OpenAI-compatible endpoint. Prompts and answers leave the machine."""

    max_requests: Count = Field(
        default=1000, description="most questions put to it for one behavior; more are refused beforehand"
    )


class Judged(Settings):
    """Share of the generated answers of which another model says yes to a question."""

    kind: Literal["judge"] = "judge"
    question: str = Field(
        description="asked with {prompt} and {answer} filled in; answered by yes or no",
    )
    judge: LocalModel | EndpointJudge = Field(description="who is asked", discriminator="kind")
    sampling: Sampling = Field(default=Sampling(), description="how answers are generated")

    @field_validator("question")
    @classmethod
    def _holds_the_answer(cls, value: str) -> str:
        if "{answer}" not in value:
            raise ValueError("has no {answer} in it, so the judge would not see what it judges")
        return value


AnswerMetric = Annotated[Pattern | UserFunction | Judged, Field(discriminator="kind")]
Metric = Annotated[
    LogOdds | Continuation | Perplexity | Divergence | Pattern | UserFunction | Judged,
    Field(discriminator="kind"),
]


# --- the behavior -----------------------------------------------------------------------------------------------------


class ShiftRule(Settings):
    """What counts as a shift. Below it nothing is explained."""

    at_least: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="smallest size of a shift that matters, in the unit of the metric"
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95, description="of intervals, and 1 - the largest p-value of the permutation test"
    )


class AttributionSettings(Settings):
    """How the shift is attributed to latents."""

    residual: Share = Field(
        default=0.01,
        description="integration steps are added until what attributions miss is below this share of the shift",
    )
    steps: Count | None = Field(
        default=None,
        description="a fixed number of steps instead; 1 is the cheap mode of one gradient a model",
    )
    max_steps: Count = Field(default=36, description="most steps that are taken for the residual")
    layers: bool = Field(default=True, description="also measure which layer carries how much of the shift")


class CheckSettings(Settings):
    """The causal checks, on prompts that nothing was found with."""

    latents: Count = Field(default=10, description="how many latents are named and checked")
    counts: tuple[Count, ...] = Field(
        default=(1, 2, 3, 5, 10, 20, 50, 100, 200, 500),
        description="how many are taken together along the curve",
    )
    draws: Annotated[int, Field(ge=19)] = Field(
        default=20,
        description="random sets of latents, matched in frequency and norm, that each claim has to beat",
    )
    answer_draws: int = Field(
        default=3,
        ge=0,
        description="random sets that answers are generated with, where the metric is of answers",
    )
    answer_counts: tuple[Count, ...] = Field(
        default=(50,),
        description="how many latents are taken together in generated answers, beside the named ones",
    )
    doses: tuple[float, ...] = Field(
        default=(0.5, 1.0, 2.0, 4.0), description="multiples of the steering direction"
    )


class Behavior(Settings):
    """A behavior, and how its shift is measured and explained."""

    name: str = Field(description="short name, of letters, digits, - and _", pattern=r"^[A-Za-z0-9_-]+$")
    description: str = Field(default="", description="a sentence on what it is")
    unrelated: bool = Field(
        default=False,
        description="whether the intervention should have left it alone: a shift is then reported as a side effect",
    )
    prompts: Path | tuple[str | tuple[Message, ...], ...] = Field(
        description="a file (.jsonl or .txt, as for text), or a list of texts or chats"
    )
    limit: Count | None = Field(default=None, description="use at most this many prompts, spread over all")
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="share of the prompts that claims are checked on"
    )
    metric: Metric = Field(description="what is measured")
    find_with: LogitMetric | None = Field(
        default=None,
        description="a metric with a gradient that stands in where latents are looked for, when `metric` is of answers",
    )
    shift: ShiftRule = Field(default=ShiftRule(), description="what counts as a shift")
    attribution: AttributionSettings = Field(
        default=AttributionSettings(), description="how it is attributed to latents"
    )
    checks: CheckSettings = Field(default=CheckSettings(), description="the causal checks")
    elsewhere: Path | tuple[str, ...] | None = Field(
        default=None,
        description="unrelated texts on which the cost of an edit is measured: a file (.jsonl or .txt), or a list of text sources of "
        "the run, of which the held-out documents are taken; none: of all sources",
    )
    elsewhere_limit: Count = Field(default=16, description="texts that cost is measured on, at most")
    seed: int = Field(
        default=0, ge=0, description="of the split, the sampling, the random sets and the intervals"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.find_with is not None and self.gradient_metric is self.metric:
            raise ValueError(
                f"find_with stands in for a metric of answers, but metric {self.metric.kind!r} has a gradient itself; remove it"
            )
        if not isinstance(self.prompts, Path) and len(self.prompts) < 4:
            raise ValueError(f"prompts: {len(self.prompts)} are too few to split; give at least 4")
        return self

    @property
    def gradient_metric(self) -> LogOdds | Continuation | Perplexity | Divergence | None:
        """The metric that latents are found with; none where answers have to be generated for it."""
        if isinstance(self.metric, LogOdds | Continuation | Perplexity | Divergence):
            return self.metric
        return self.find_with
