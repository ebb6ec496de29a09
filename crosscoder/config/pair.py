"""`pair`: the models that are compared, and where they are read."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from .block import Device, Dtype, Settings

LOWEST_RATE = 0.1
"""Where fewer of a model's tokens have a counterpart, most of what it computes would go unseen, so the pair is refused (`alignment`)."""

LEAST_CARRIED = 0.25
"""Share of a model's variance that a map has to carry, on tokens that it was not fitted on, to be one (`frame`)."""

LEAST_AGREEMENT = 0.3
"""Median cosine with which a map has to carry directions to where they are: below it, that nothing is found along one says nothing."""


class ModelSource(Settings):
    """A checkpoint that transformers can load."""

    model: str = Field(description="folder or hub id of the checkpoint")
    revision: str | None = Field(
        default=None, description="hub revision; a commit hash makes the run repeatable"
    )
    dtype: Dtype = Field(default="bfloat16", description="precision the model runs in")


class AdapterSource(Settings):
    """A PEFT adapter on the reference: one set of base weights, adapter off and on."""

    adapter: str = Field(description="folder or hub id of a PEFT adapter for the reference model")


class Message(Settings):
    """One message of a chat."""

    role: str = Field(description="who speaks, e.g. system, user or assistant")
    content: str = Field(description="what is said")


class ContextSource(Settings):
    """The reference itself, after a context: the in-context intervention."""

    context: str | tuple[Message, ...] = Field(
        description="text, or chat messages (a system prompt, examples), that stand before every document in the intervened model; "
        "the weights and the tokens that are compared are the reference's"
    )

    @field_validator("context")
    @classmethod
    def _says_something(cls, value: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        if not (value.strip() if isinstance(value, str) else value):
            raise ValueError("is empty; give text, or chat messages")
        return value


class PairConfig(Settings):
    """The two models, what lies between them, and where all are read."""

    reference: ModelSource = Field(description="the model before the intervention")
    intervened: ModelSource | AdapterSource | ContextSource = Field(
        description="the model after it: a checkpoint, an adapter, or a context before the same tokens"
    )
    snapshots: tuple[ModelSource | AdapterSource, ...] = Field(
        default=(),
        description="checkpoints between the two, in their order in time, for one dictionary over the whole course of the "
        "intervention; read at `hookpoint`. They may differ in width, but then the cosine to the reference, the share of the "
        "change and the alarm are undefined for them",
    )
    hookpoint: str = Field(description="module path whose output is read, e.g. model.layers.15")
    intervened_hookpoint: str | None = Field(
        default=None, description="module path in the intervened model, where it differs"
    )
    align: Literal["none", "characters"] = Field(
        default="none",
        description="what to do where the tokenizers differ. none: refuse the pair; characters: each model reads the text in its own "
        "tokens, and they are compared at the tokens that end at the same character",
    )
    device: Device = Field(
        default="auto", description="where the models run; auto takes a GPU when there is one"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.align != "none" and not isinstance(self.intervened, ModelSource):
            kind = "an adapter" if isinstance(self.intervened, AdapterSource) else "a context"
            raise ValueError(
                f"align is {self.align!r}, but a model with {kind} has the reference's tokenizer; remove align"
            )
        if self.align != "none" and self.snapshots:
            raise ValueError(
                f"align is {self.align!r}, which aligns two models, but there are {len(self.snapshots)} snapshots between them; "
                "remove snapshots, or give checkpoints with one tokenizer and remove align"
            )
        if self.snapshots and isinstance(self.intervened, ContextSource):
            raise ValueError(
                f"{len(self.snapshots)} snapshots between a model and itself after a context, where there is nothing in between; "
                "remove snapshots"
            )
        return self

    @property
    def sources(self) -> tuple[ModelSource | AdapterSource | ContextSource, ...]:
        """What is said of each model: the reference, the intervened one, then the snapshots."""
        return self.reference, self.intervened, *self.snapshots

    @property
    def checkpoints(self) -> tuple[ModelSource, ...]:
        """The weights of each model; with an adapter or after a context they are the reference's."""
        return tuple(source if isinstance(source, ModelSource) else self.reference for source in self.sources)

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """Where each model is read."""
        other = self.intervened_hookpoint or self.hookpoint
        return self.hookpoint, other, *(self.hookpoint for _ in self.snapshots)
