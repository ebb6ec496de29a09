"""`crosscoder.sparsity`: what keeps the code of a dictionary sparse."""

from typing import Annotated, Literal

from pydantic import Field

from .block import Count, PositiveFloat, Settings


class BatchTopK(Settings):
    """Keep the n·k largest scores of a batch of n tokens; at inference a calibrated threshold takes its place."""

    kind: Literal["batch_topk"] = "batch_topk"
    k: Count = Field(description="average number of latents that fire on a token")


class TopK(Settings):
    """Keep the k largest scores of every token."""

    kind: Literal["topk"] = "topk"
    k: Count = Field(description="number of latents that may fire on a token")


class ReLU(Settings):
    """ReLU latents with an L1 penalty weighted by the sum of the decoder norms, steered to a target L0."""

    kind: Literal["relu"] = "relu"
    target_l0: PositiveFloat = Field(description="L0 that the controller of the penalty steers to")
    coefficient: PositiveFloat = Field(default=0.5, description="penalty weight the controller starts from")


class JumpReLU(Settings):
    """JumpReLU latents with a tanh penalty (Anthropic, January 2025 update), steered to a target L0."""

    kind: Literal["jumprelu"] = "jumprelu"
    target_l0: PositiveFloat = Field(description="L0 that the controller of the penalty steers to")
    coefficient: PositiveFloat = Field(default=1.0, description="penalty weight the controller starts from")
    initial_threshold: PositiveFloat = Field(default=0.1, description="threshold every latent starts from")
    bandwidth: PositiveFloat = Field(default=2.0, description="width of the straight-through estimator")
    tanh_scale: PositiveFloat = Field(default=4.0, description="steepness of the tanh penalty")
    dead_coefficient: Annotated[float, Field(ge=0)] = Field(
        default=3e-6, description="weight of the term that pulls latents below their threshold up"
    )


SparsityConfig = Annotated[BatchTopK | TopK | ReLU | JumpReLU, Field(discriminator="kind")]


def check_k(sparsity: SparsityConfig, n_latents: int) -> None:
    """Refuse a k that a dictionary of this size cannot have.

    Raises:
        ValueError: k is larger than `n_latents`.
    """
    if isinstance(sparsity, BatchTopK | TopK) and sparsity.k > n_latents:
        raise ValueError(
            f"sparsity.k is {sparsity.k}, larger than n_latents {n_latents}; give a k of at most n_latents"
        )
