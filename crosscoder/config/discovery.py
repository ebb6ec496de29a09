"""Settings of the search for behaviors that changed, which nobody named."""

from typing import Annotated, Literal

from pydantic import Field

from .block import Settings, Share, Window
from .pair import AdapterSource, ModelSource

Null = Literal["itself", "rounded"]

ANSWER_SETTINGS = ("prompts", "variants", "rounds", "answer_tokens", "temperature")
"""Settings that decide what is asked and answered; the others decide what counts as a finding, and how long the search takes."""


class DiscoveryConfig(Settings):
    """The search for changed behaviors in both models' answers: what is asked, and what counts as a finding."""

    prompts: int = Field(
        default=640,
        ge=0,
        le=1_000_000,
        description="prompts that both models answer, from the run's own text and from a set that ships with the project; 0 skips the search",
    )
    variants: int = Field(
        default=8,
        ge=0,
        le=100_000,
        description="prompts on which the models' answers differ most, and which are asked again in other words, together with questions like them; this finds changed facts",
    )
    rounds: int = Field(
        default=0,
        ge=0,
        le=1_000,
        description="further rounds of questions like those that show an effect, as many prompts in each as `variants`: examples of its trigger "
        "and counterexamples near to it. They end where enough are known",
    )
    answer_tokens: Window = Field(default=24, description="largest number of tokens in an answer")
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(
        default=0.5,
        description="sampling temperature; above 0, because the test needs answers that both models draw independently",
    )
    false_discovery_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="largest q-value of a finding"
    )
    least_difference: Share = Field(
        default=0.1,
        description="a finding's difference between the models' rates is above this even at the end of its interval that is nearer to zero",
    )
    nulls: tuple[Null, ...] = Field(
        default=("itself", "rounded"),
        max_length=2,
        description="searches where nothing changed: the reference against itself, or against its weights rounded to 8 bits",
    )
    benign: ModelSource | AdapterSource | None = Field(
        default=None,
        description="a further null: a checkpoint, or an adapter on the reference, that was trained much as the intervened model was, but on text that "
        "teaches no behavior. What the search finds in it, any training does",
    )
    attribute: int = Field(
        default=1, ge=0, description="findings, the first ones, that `run` attributes to latents at once"
    )
    minutes: Annotated[float, Field(gt=0, le=1e6)] = Field(
        default=10.0,
        description="time after which nothing further is asked; what was not tested by then is told",
    )

    @property
    def searched_nulls(self) -> tuple[str, ...]:
        """The kinds of nulls that are searched."""
        return self.nulls if self.benign is None else (*self.nulls, "benign")
