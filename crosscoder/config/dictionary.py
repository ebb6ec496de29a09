"""`crosscoder`: the dictionary to train, and what is stored beside the weights of one."""

from typing import Literal, Self

from pydantic import Field, model_validator

from .block import Count, PositiveFloat, Settings, Share
from .sparsity import BatchTopK, SparsityConfig, check_k


class CrosscoderConfig(Settings):
    """What a crosscoder is, apart from its weights. Stored beside them."""

    d_models: tuple[Count, ...] = Field(min_length=1, description="width of each model on the axis")
    model_names: tuple[str, ...] = Field(description="names on the model axis, e.g. reference, intervened")
    n_latents: Count = Field(description="size of the dictionary")
    sparsity: SparsityConfig
    n_exclusive: int = Field(default=0, ge=0, description="latents of each model that see and write it alone")
    n_tied: int = Field(default=0, ge=0, description="latents with one decoder direction for all models")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_names) != len(self.d_models):
            raise ValueError(f"{len(self.model_names)} model_names for {len(self.d_models)} d_models")
        check_k(self.sparsity, self.n_latents)
        bound = self.n_exclusive * len(self.d_models) + self.n_tied
        if bound > self.n_latents:
            raise ValueError(f"{bound} exclusive and tied latents, but there are only {self.n_latents}")
        if self.n_tied and len(set(self.d_models)) > 1:
            raise ValueError(f"tied latents need models of equal width, found {self.d_models}")
        return self

    @property
    def width(self) -> int:
        """Sum of the widths of all models."""
        return sum(self.d_models)


class DictionaryConfig(Settings):
    """The dictionary to train; the widths come from the activations."""

    reads: Literal["paired", "pooled", "difference"] = Field(
        default="paired",
        description="paired: a crosscoder on both models; pooled: a shared-dictionary SAE, each model's tokens encoded "
        "alone; difference: a diff-SAE on intervened - reference",
    )
    n_latents: Count = Field(default=4096, description="size of the dictionary")
    sparsity: SparsityConfig = Field(default=BatchTopK(k=32), description="what keeps the code sparse")
    decoder_norm: PositiveFloat = Field(default=1.0, description="norm of a fresh decoder row, per model")
    exclusive: Share = Field(
        default=0.0,
        description="share of the latents, for each model, that see and write it alone (Jiralerspong & Bricken 2026)",
    )
    tied: Share = Field(
        default=0.0,
        description="share of the latents with one decoder direction for both models (Anthropic 2025, designated shared)",
    )
    nested: tuple[Share, ...] = Field(
        default=(),
        description="shares of the latents that have to rebuild the activations alone as well, e.g. [0.06, 0.25] "
        "(Matryoshka: Bussmann et al. 2025)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_k(self.sparsity, self.n_latents)
        if self.reads != "paired" and (self.exclusive or self.tied):
            raise ValueError(f"exclusive and tied latents need reads: paired, found {self.reads!r}")
        if 2 * self.exclusive + self.tied > 1:
            raise ValueError(
                f"exclusive {self.exclusive:g} for each of two models and tied {self.tied:g} are more than all latents"
            )
        if list(self.nested) != sorted(set(self.nested)) or not all(0 < share < 1 for share in self.nested):
            raise ValueError(f"nested shares must rise between 0 and 1, found {list(self.nested)}")
        return self
