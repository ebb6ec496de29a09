"""`crosscoder.sparsity`: the activation function and penalty that keep latents sparse."""

from typing import Annotated, Literal

from pydantic import Field

from .block import Count, PositiveFloat, Settings, Weight


class BatchTopK(Settings):
    """BatchTopK: keep the n·k largest scores of a batch of n tokens; at inference, a calibrated threshold."""

    kind: Literal["batch_topk"] = "batch_topk"
    k: Count | None = Field(
        default=None,
        description="average number of latents that fire on a token; null: chosen by a short sweep before the training",
    )


class TopK(Settings):
    """TopK: keep the k largest scores of each token."""

    kind: Literal["topk"] = "topk"
    k: Count | None = Field(
        default=None,
        description="largest number of latents that fire on a token; null: chosen by a short sweep before the training",
    )


class ReLU(Settings):
    """ReLU latents with an L1 penalty weighted by the sum of the decoder norms, controlled to a target L0."""

    kind: Literal["relu"] = "relu"
    # Null only in a dictionary that another tool trained.
    target_l0: PositiveFloat | None = Field(
        description="average number of latents that fire on a token; the penalty weight is controlled to reach it"
    )
    coefficient: Weight = Field(default=0.5, description="initial weight of the sparsity penalty")


class JumpReLU(Settings):
    """JumpReLU latents with a tanh penalty (Anthropic, January 2025 update), controlled to a target L0."""

    kind: Literal["jumprelu"] = "jumprelu"
    # Null only in a dictionary that another tool trained.
    target_l0: PositiveFloat | None = Field(
        description="average number of latents that fire on a token; the penalty weight is controlled to reach it"
    )
    coefficient: Weight = Field(default=1.0, description="initial weight of the sparsity penalty")
    initial_threshold: Weight = Field(default=0.1, description="initial threshold of every latent")
    bandwidth: Weight = Field(
        default=2.0,
        description="bandwidth of the straight-through estimator; at a wider one more tokens move the threshold",
    )
    tanh_scale: Weight = Field(
        default=4.0, description="scale inside the tanh penalty; larger is closer to an L0 penalty"
    )
    dead_coefficient: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=3e-6,
        description="weight of the pre-activation loss, which raises latents that are below their threshold",
    )


SparsityConfig = Annotated[BatchTopK | TopK | ReLU | JumpReLU, Field(discriminator="kind")]


def check_k(sparsity: SparsityConfig, n_latents: int | None) -> None:
    """Check that k, or the target L0, is not larger than the dictionary, where both are given.

    Raises:
        ValueError: It is larger than `n_latents`.
    """
    name = "k" if isinstance(sparsity, BatchTopK | TopK) else "target_l0"
    asked = getattr(sparsity, name)
    if asked is not None and n_latents is not None and asked > n_latents:
        raise ValueError(
            f"sparsity.{name} is {asked}, larger than n_latents {n_latents}; give a {name} of at most n_latents"
        )
