"""`training`: how the dictionary is trained."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .block import Count, Device, PositiveFloat, Settings, Share


class AuxiliaryConfig(Settings):
    """AuxK: dead latents are asked to explain what the others leave over (Gao et al. 2024, section 2)."""

    coefficient: Annotated[float, Field(ge=0)] = Field(
        default=1 / 32, description="weight of the term; 0 switches it off"
    )
    k: Count = Field(default=256, description="dead latents used for one token, at most")
    dead_after_tokens: Count = Field(
        default=200_000, description="a latent is dead after this many tokens without firing"
    )


class TrainingConfig(Settings):
    """How the dictionary is trained."""

    n_tokens: Count = Field(
        default=2_000_000, description="token presentations in all; data is passed over repeatedly"
    )
    batch_tokens: Count = Field(default=2048, description="tokens of one step")
    lr: PositiveFloat = Field(default=1e-3, description="peak learning rate of Adam")
    warmup: Share = Field(default=0.05, description="share of the steps with a rising learning rate")
    decay: Share = Field(
        default=0.3, description="share of the steps, at the end, with a falling learning rate"
    )
    k_anneal: Share = Field(
        default=0.2,
        description="share of the steps over which k, or the L0 that JumpReLU is steered to, falls from k_start_multiple times its "
        "value",
    )
    k_start_multiple: Annotated[float, Field(ge=1)] = Field(
        default=4.0, description="k, or that L0, at the first step, as a multiple"
    )
    gradient_clip: PositiveFloat = Field(default=1.0, description="largest norm of the gradient")
    auxiliary: AuxiliaryConfig = Field(default=AuxiliaryConfig(), description="revival of dead latents")
    difference_weight: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="weight of the error of intervened - reference beside those of the models (Kassem et al. 2026); none: 3 for a "
        "crosscoder on models of equal width, otherwise 0",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the matrix products; weights stay float32. auto: bfloat16 where the hardware has units for it",
    )
    step: Literal["auto", "dense", "sparse"] = Field(
        default="auto",
        description="dense: matrix products of the whole code; sparse: the encoder's product, then only the latents that "
        "fire; auto: the faster one, by a rule that `crosscoder bench` measured",
    )
    device: Device = Field(default="auto", description="where the dictionary is trained")
    start_from: Path | None = Field(
        default=None,
        description="folder of a dictionary to begin from, e.g. RUN/crosscoder, for stage-wise fine-tuning over checkpoints; of the "
        "same shape, or of fewer models, whose new neighbors then begin as the reference. Set k_anneal to 0 to begin at its "
        "loss. Controls begin afresh",
    )
    log_every: Count = Field(default=20, description="steps between two lines of metrics")
    evaluate_every: Count = Field(default=200, description="steps between two looks at held-out tokens")
    checkpoint_every: Count = Field(default=200, description="steps between two resumable checkpoints")
    calibration_tokens: Count = Field(
        default=32768,
        description="held-out tokens the inference threshold is set on, and training tokens the normalization is",
    )
