"""`training`: how the dictionary is trained."""

from typing import Annotated, Literal

from pydantic import Field

from .block import Count, Device, PositiveFloat, Settings, Share
from .dictionary_source import DictionarySource


class AuxiliaryConfig(Settings):
    """AuxK loss: dead latents reconstruct the error that the others leave (Gao et al. 2024, section 2)."""

    coefficient: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=1 / 32, description="weight of the AuxK loss; 0 switches it off"
    )
    k: Count | None = Field(
        default=None,
        description="largest number of dead latents used per token; null: half the width of a model (Gao et al. 2024, appendix A.2)",
    )
    dead_after_tokens: Count | None = Field(
        default=None,
        description="a latent counts as dead after this many tokens without firing; null: 200 steps",
    )


class TrainingConfig(Settings):
    """How the dictionary is trained. Null: chosen by a rule from the data, which `doctor` prints and the run writes down."""

    n_tokens: Count | None = Field(
        default=None,
        description="training tokens in total, counting repeats; null: chosen from the batch and the number of distinct tokens",
    )
    batch_tokens: Count | None = Field(
        default=None, description="tokens per training step; null: chosen from the number of latents"
    )
    lr: PositiveFloat | None = Field(
        default=None, description="peak learning rate of Adam; null: chosen from the number of latents"
    )
    warmup: Share = Field(
        default=0.05, description="share of the steps, at the start, with a rising learning rate"
    )
    decay: Share = Field(
        default=0.3, description="share of the steps, at the end, with a falling learning rate"
    )
    k_anneal: Share = Field(
        default=0.2,
        description="share of the steps over which k (for JumpReLU, the target L0) falls from k_start_multiple times its value to its "
        "value",
    )
    k_start_multiple: Annotated[float, Field(ge=1, le=1e6)] = Field(
        default=4.0,
        description="k (for JumpReLU, the target L0) at the first step, as a multiple of its value",
    )
    gradient_clip: PositiveFloat = Field(default=1.0, description="gradients are clipped to this norm")
    auxiliary: AuxiliaryConfig = Field(
        default=AuxiliaryConfig(), description="AuxK loss that revives dead latents"
    )
    difference_weight: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None,
        description="weight of the reconstruction error of intervened - reference, relative to the errors of the models (Kassem et al. "
        "2026); null: 3 for a crosscoder on models of equal width, 0 for other dictionaries",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="precision of matrix products; weights stay float32. auto: bfloat16 if the hardware has units for it",
    )
    step: Literal["auto", "dense", "sparse", "compiled"] = Field(
        default="auto",
        description="dense: full matrix products; sparse: a full encoder product, then only the latents that fire; compiled: what dense does, "
        "through torch.compile, with CUDA graphs on a GPU (needs a C++ compiler, on a GPU Triton); auto: the faster of dense and sparse, by "
        "a rule measured with `crosscoder bench`",
    )
    device: Device = Field(
        default="auto", description="device that the dictionary is trained on; auto: a GPU if available"
    )
    latent_shards: Count = Field(
        default=1,
        description="processes that share one dictionary, each with an equal range of its latents, for dictionaries beyond the memory of one "
        "device: torchrun has to start as many. 1: each dictionary is trained by one process",
    )
    start_from: DictionarySource | None = Field(
        default=None,
        description="warm start: a trained dictionary, e.g. RUN/crosscoder or that of another tool, for stage-wise fine-tuning over "
        "checkpoints. It has the same shape or fewer models; added models are initialized from the reference. Set k_anneal to 0 to "
        "start at its loss. Controls are trained from scratch",
    )
    log_every: Count = Field(default=20, description="steps between lines of metrics.jsonl")
    evaluate_every: Count = Field(default=200, description="steps between evaluations on held-out tokens")
    checkpoint_every: Count = Field(default=200, description="steps between resumable checkpoints")
    calibration_tokens: Count = Field(
        default=32768,
        description="held-out tokens to calibrate the inference threshold on, and training tokens to estimate the normalization from",
    )
