"""`pair`: the models that are compared, and their hookpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..errors import ConfigError
from .block import Device, Dtype, Settings

MIN_ALIGNMENT_RATE = 0.1
"""Smallest share of a model's tokens with a counterpart in the other model (`text.token_alignment`). Below it the pair is refused:
most of what the model computes would go unseen."""

MIN_MAP_EXPLAINED_VARIANCE = 0.25
"""Smallest share of a model's variance that a linear map explains on tokens it was not fitted on (`activations.linear_map`)."""

MIN_MAP_COSINE = 0.3
"""Smallest median cosine between mapped directions and the directions found in the other model. Below it, the absence of a mapped
direction is no evidence."""


class BitsAndBytes(Settings):
    """Weights are quantized with the package bitsandbytes while they are loaded."""

    kind: Literal["bitsandbytes"] = "bitsandbytes"
    bits: Literal[4, 8] = Field(default=8, description="bits of a weight")
    type: Literal["nf4", "fp4"] = Field(
        default="nf4", description="levels of 4-bit weights; 8 bits ignore it"
    )
    nested: bool = Field(default=False, description="quantize the scales of 4-bit weights, too")
    outlier_threshold: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=6.0,
        description="8 bits: a column of activations with a larger entry is multiplied in 16 bits, which makes an activation depend on the other "
        "tokens of its pass; 0: none is",
    )


class TorchAo(Settings):
    """Weights are quantized with the package torchao while they are loaded."""

    kind: Literal["torchao"] = "torchao"
    scheme: Literal[
        "int8_weight_only",
        "int4_weight_only",
        "float8_weight_only",
        "int8_dynamic_activation_int8_weight",
        "float8_dynamic_activation_float8_weight",
    ] = Field(
        default="int8_weight_only",
        description="what is quantized, as torchao names it. With a dynamic scheme the activations are, too, and no gradient passes a layer",
    )


Quantization = Annotated[BitsAndBytes | TorchAo, Field(discriminator="kind")]

DeviceMap = Literal["auto", "balanced", "sequential"] | dict[str, Annotated[int, Field(ge=0, le=1023)] | str]
"""Where the modules of a model lie: a rule of accelerate, or a device by module path."""


class ModelSource(Settings):
    """A checkpoint that transformers can load."""

    model: str = Field(description="folder or Hub id of the checkpoint")
    revision: str | None = Field(
        default=None, description="Hub revision; a commit hash makes the run reproducible"
    )
    dtype: Dtype | None = Field(
        default=None,
        description="precision of the forward passes; null: bfloat16 if the hardware has units for it, otherwise float32. A run records and "
        "keeps its choice",
    )
    subfolder: str | None = Field(
        default=None, description="folder inside the checkpoint that holds its files"
    )
    attn_implementation: str | None = Field(
        default=None,
        description="implementation of attention that transformers uses, e.g. eager, sdpa or flash_attention_2; null: its choice",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="run the Python code that the checkpoint brings along. It can do anything that you can do: read it first, and fix the "
        "revision. The manifest records it",
    )
    local_files_only: bool = Field(
        default=False, description="read the checkpoint from the disk or the cache of the Hub alone"
    )
    quantization: Quantization | None = Field(
        default=None,
        description="quantize the weights while they are loaded; null: the checkpoint as it is, which may be stored quantized",
    )
    device_map: DeviceMap | None = Field(
        default=None,
        description="where the modules lie, for a model that does not fit on one device: auto, balanced or sequential (rules of accelerate), or "
        'a device (0, cuda:1, cpu, disk) by module path, "" for the rest. Modules on cpu or disk are moved to a GPU while they run. null: all on '
        "`pair.device`",
    )
    offload_folder: Path | None = Field(
        default=None,
        description="folder for weights that device_map leaves on the disk, where they cannot be read from the checkpoint itself",
    )

    @model_validator(mode="after")
    def _check_placement(self) -> Self:
        if self.offload_folder is not None and self.device_map is None:
            raise ValueError(
                "offload_folder is given, but device_map is not; give both, or remove offload_folder"
            )
        if self.device_map == {}:
            raise ValueError("device_map is empty; give auto, a device by module path, or null")
        return self


class AdapterSource(Settings):
    """A PEFT adapter on the reference; both models share one set of base weights."""

    adapter: str = Field(description="folder or Hub id of a PEFT adapter for the reference model")


class Message(Settings):
    """One message of a chat."""

    role: str = Field(description="role of the speaker, e.g. system, user or assistant")
    content: str = Field(description="text of the message")


class ContextSource(Settings):
    """The reference itself with a context prepended: an in-context intervention."""

    context: str | tuple[Message, ...] = Field(
        description="text or chat messages (a system prompt, few-shot examples) prepended to every document in the intervened model; the "
        "weights and the compared tokens are the reference's"
    )

    @field_validator("context")
    @classmethod
    def _check_not_empty(cls, value: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        if not (value.strip() if isinstance(value, str) else value):
            raise ValueError("is empty; give text, or chat messages")
        return value


class PairConfig(Settings):
    """The two models, any snapshots between them, and the hookpoint."""

    reference: ModelSource = Field(description="the model before the intervention")
    intervened: ModelSource | AdapterSource | ContextSource = Field(
        description="the model after the intervention: a checkpoint, an adapter on the reference, or a context before the same tokens"
    )
    snapshots: tuple[ModelSource | AdapterSource, ...] = Field(
        default=(),
        description="checkpoints between the two models, earliest first, for one dictionary over the whole intervention; read at "
        "`hookpoint`. Where a width differs from the reference's, its cosine to the reference, its share of the change and the change "
        "alarm are undefined",
    )
    hookpoint: str | None = Field(
        default=None,
        description="path of the module whose output is read, e.g. model.layers.15, or a name of TransformerLens such as "
        "blocks.15.hook_resid_post, which is replaced by the path; null: chosen by `run`, the earliest decoder layer at "
        "which most of the first finding of `discover` stands, or two thirds of the depth if nothing is found",
    )
    intervened_hookpoint: str | None = Field(
        default=None, description="module path in the intervened model; null: the same as `hookpoint`"
    )
    align: Literal["none", "characters"] = Field(
        default="none",
        description="how tokens are aligned when the tokenizers differ. none: refuse the pair; characters: each model reads its own "
        "tokens, and the models are compared at tokens that end at the same character",
    )
    device: Device = Field(
        default="auto", description="device that the models run on; auto: a GPU if available"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hookpoint is None and self.intervened_hookpoint is not None:
            raise ValueError("intervened_hookpoint is given, but hookpoint is not; give both, or neither")
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
                f"{len(self.snapshots)} snapshots, but a context leaves the weights unchanged, so there are no checkpoints in between; "
                "remove snapshots"
            )
        return self

    @property
    def sources(self) -> tuple[ModelSource | AdapterSource | ContextSource, ...]:
        """The source of each model: reference, intervened, then the snapshots."""
        return self.reference, self.intervened, *self.snapshots

    @property
    def checkpoints(self) -> tuple[ModelSource, ...]:
        """The checkpoint of each model; with an adapter or a context it is the reference's."""
        return tuple(source if isinstance(source, ModelSource) else self.reference for source in self.sources)

    @property
    def dtypes(self) -> tuple[Dtype | None, ...]:
        """The dtype of each model; None where it is left open."""
        return tuple(source.dtype for source in self.checkpoints)

    def with_dtypes(self, dtypes: Sequence[Dtype | None]) -> Self:
        """Return the settings with these dtypes, in the order of `sources`, of the checkpoints that leave theirs open."""
        reference, intervened, *snapshots = (
            source.model_copy(update={"dtype": dtype})
            if isinstance(source, ModelSource) and source.dtype is None
            else source
            for source, dtype in zip(self.sources, dtypes, strict=True)
        )
        return self.model_copy(
            update={"reference": reference, "intervened": intervened, "snapshots": tuple(snapshots)}
        )

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """The hookpoint of each model.

        Raises:
            ConfigError: It is left open and not chosen yet.
        """
        if self.hookpoint is None:
            raise ConfigError(
                "pair.hookpoint: left open (null) and not chosen yet; `crosscoder run` chooses it, or name a module such as model.layers.15"
            )
        other = self.intervened_hookpoint or self.hookpoint
        return self.hookpoint, other, *(self.hookpoint for _ in self.snapshots)
