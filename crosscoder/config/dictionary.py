"""`crosscoder`: the dictionary to train, and the configuration stored with its weights."""

import reprlib
from typing import Literal, Self

from pydantic import Field, model_validator

from .block import Count, Settings, Share, Weight
from .dictionary_source import DictionarySource
from .sparsity import BatchTopK, JumpReLU, ReLU, SparsityConfig, TopK, check_k


class CrosscoderConfig(Settings):
    """Configuration of a crosscoder, stored with its weights."""

    d_models: tuple[Count, ...] = Field(
        min_length=1, description="d_model of each model, in the order of the model axis"
    )
    model_names: tuple[str, ...] = Field(description="name of each model, e.g. reference, intervened")
    n_latents: Count = Field(description="number of latents")
    sparsity: SparsityConfig
    n_exclusive: int = Field(
        default=0, ge=0, description="latents per model that read and write only that model"
    )
    n_tied: int = Field(default=0, ge=0, description="latents with one decoder direction for all models")
    scores: Literal["decoder_norms", "stored"] = Field(
        default="decoder_norms",
        description="what weights a latent where latents compete: the sum of its decoder norms, or a number stored for each latent",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scores == "stored" and not isinstance(self.sparsity, BatchTopK | TopK):
            raise ValueError(f"scores are stored, but latents of {self.sparsity.kind} do not compete")
        if len(self.model_names) != len(self.d_models):
            raise ValueError(f"{len(self.model_names)} model_names for {len(self.d_models)} d_models")
        if isinstance(self.sparsity, BatchTopK | TopK) and self.sparsity.k is None:
            raise ValueError("sparsity.k is null; a dictionary needs a number")
        check_k(self.sparsity, self.n_latents)
        bound = self.n_exclusive * len(self.d_models) + self.n_tied
        if bound > self.n_latents:
            raise ValueError(f"{bound} exclusive and tied latents, but there are only {self.n_latents}")
        if self.n_tied and len(set(self.d_models)) > 1:
            raise ValueError(f"tied latents need models of equal width, found {self.d_models}")
        return self

    @property
    def width(self) -> int:
        """Sum of the d_model of all models."""
        return sum(self.d_models)


class DictionaryConfig(Settings):
    """The dictionary to train. The model widths follow from the activations."""

    reads: Literal["paired", "pooled", "difference"] = Field(
        default="paired",
        description="paired: a crosscoder on both models; pooled: a shared-dictionary SAE that encodes each model "
        "separately; difference: a diff-SAE on intervened - reference",
    )
    n_latents: Count | None = Field(
        default=None,
        description="number of latents; more latents split features more finely; null: chosen from the width of the models and the "
        "number of distinct training tokens",
    )
    sparsity: SparsityConfig = Field(default=BatchTopK(), description="sparsity of the latent activations")
    load: DictionarySource | None = Field(
        default=None,
        description="a dictionary that is already trained, of this toolkit or another: folder, file or Hub id. Nothing is trained; all other "
        "settings of the section follow from it",
    )
    decoder_norm: Weight = Field(
        default=1.0, description="norm of each decoder row per model at initialization"
    )
    exclusive: Share = Field(
        default=0.0,
        description="share of the latents reserved for each model, which read and write only that model (Jiralerspong & Bricken 2026)",
    )
    tied: Share = Field(
        default=0.0,
        description="share of the latents with one decoder direction for all models (designated shared features, Anthropic 2025)",
    )
    nested: tuple[Share, ...] = Field(
        default=(),
        description="shares of the latents that must also reconstruct the activations on their own, e.g. [0.06, 0.25] "
        "(Matryoshka SAE, Bussmann et al. 2025)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_k(self.sparsity, self.n_latents)
        if self.load is not None and (self.exclusive or self.tied or self.nested):
            raise ValueError(
                "exclusive, tied and nested shape a training, and load trains nothing; remove them"
            )
        if (
            self.load is None
            and isinstance(self.sparsity, ReLU | JumpReLU)
            and self.sparsity.target_l0 is None
        ):
            raise ValueError("sparsity.target_l0 is null; a training needs a number")
        if self.reads != "paired" and (self.exclusive or self.tied):
            raise ValueError(f"exclusive and tied latents need reads: paired, found {self.reads!r}")
        if 2 * self.exclusive + self.tied > 1:
            raise ValueError(
                f"exclusive {self.exclusive:g} for each of two models and tied {self.tied:g} add up to more than 1"
            )
        if list(self.nested) != sorted(set(self.nested)) or not all(0 < share < 1 for share in self.nested):
            raise ValueError(
                f"nested shares must rise between 0 and 1, found {reprlib.repr(list(self.nested))}"
            )
        return self
