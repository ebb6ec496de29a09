"""Settings of `crosscoder bench`. This module does not import torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from crosscoder.config import Count, Device, PositiveFloat, Settings, Share
from crosscoder.errors import ConfigError, did_you_mean

Benchmark = Literal[
    "step", "growth", "harvest", "shards", "analysis", "page", "coverage", "stability", "ranks", "gpu-grid"
]
BENCHMARKS: tuple[Benchmark, ...] = (
    "step", "growth", "harvest", "shards", "analysis", "page", "coverage", "stability", "ranks", "gpu-grid",
)  # fmt: skip


class Shape(Settings):
    """Size of a training step."""

    batch_tokens: Count = Field(default=4096, description="tokens of one step")
    models: Count = Field(default=2, description="number of models")
    d_model: Count = Field(default=576, description="width of each model")
    n_latents: Count = Field(default=8192, description="number of latents of the dictionary")
    k: Count = Field(default=64, description="mean number of latents that fire on a token")
    dead: Share = Field(
        default=0.01, description="share of the latents that are dead, so that AuxK is active"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.k > self.n_latents:
            raise ValueError(
                f"k is {self.k}, which is larger than n_latents {self.n_latents}; give a k of at most n_latents"
            )
        return self

    @property
    def d_models(self) -> tuple[int, ...]:
        """Width of each model."""
        return (self.d_model,) * self.models

    def __str__(self) -> str:
        return f"batch {self.batch_tokens:,}, {self.models} × {self.d_model} wide, {self.n_latents:,} latents, k {self.k}"


class GrowthAxes(Settings):
    """Sizes that `growth` measures, varying one axis at a time around the shape."""

    n_latents: tuple[Count, ...] = Field(default=(4096, 8192, 16384, 32768, 65536), min_length=2)
    k: tuple[Count, ...] = Field(default=(16, 32, 64, 128, 256), min_length=2)
    batch_tokens: tuple[Count, ...] = Field(default=(1024, 2048, 4096, 8192, 16384), min_length=2)
    models: tuple[Count, ...] = Field(default=(1, 2, 4), min_length=2)


class StabilityConfig(Settings):
    """What `stability` trains."""

    run: Path | None = Field(
        default=None,
        description="run folder with activations on disk, whose settings the recipes change; null: a planted pair",
    )
    recipes: tuple[str, ...] = Field(
        default=("crosscoder.sparsity.k=6", "crosscoder.sparsity.k=12"),
        min_length=1,
        description="one recipe an entry: settings to override, separated by spaces; an empty one is the run's own",
    )
    planted_tokens: Count = Field(default=40_000, description="training tokens of the planted pair")


class RanksConfig(Settings):
    """What `ranks` measures and simulates."""

    measured: tuple[Count, ...] = Field(
        default=(1, 2), description="numbers of processes that the step is measured on; empty: none"
    )
    simulated: tuple[Count, ...] = Field(
        default=(8, 64), description="numbers of ranks that the step is simulated for; empty: none"
    )
    step_ms: PositiveFloat | None = Field(
        default=None,
        description="milliseconds of the step of one rank's share, which the simulation begins from; null: as measured here",
    )


class GridConfig(Settings):
    """Sizes that `gpu-grid` measures; batch, models and dead latents are those of the shape."""

    n_latents: tuple[Count, ...] = Field(
        default=(4096, 16384, 65536, 131072), min_length=1, description="numbers of latents"
    )
    d_model: tuple[Count, ...] = Field(
        default=(576, 2304, 4096), min_length=1, description="widths of each model"
    )
    k: tuple[Count, ...] = Field(
        default=(32, 256), min_length=1, description="mean numbers of latents that fire on a token"
    )
    minutes: PositiveFloat = Field(
        default=6.5, description="no further size is begun after so many minutes; those left out are named"
    )


class BenchConfig(Settings):
    """All settings of `crosscoder bench`."""

    shape: Shape = Field(default=Shape(), description="size of the measured step")
    large: Count | None = Field(
        default=32768, description="latents of a second dictionary that `step` measures; null omits it"
    )
    precisions: tuple[Literal["bfloat16", "float32"], ...] | None = Field(
        default=None,
        min_length=1,
        description="precisions of the matrix products; null: both if the hardware has units for bfloat16, else float32",
    )
    axes: GrowthAxes = Field(default=GrowthAxes(), description="sizes that `growth` measures")
    break_even_latents: tuple[Count, ...] = Field(
        default=(4096, 16384),
        min_length=1,
        description="numbers of latents in the comparison of sparse and dense steps",
    )
    break_even_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8),
        min_length=2,
        description="shares k / latents in that comparison, ascending",
    )
    warmup: Count = Field(default=20, description="training steps before a step is measured")
    repeats: Count = Field(default=7, description="measured rounds")
    shard_tokens: Count = Field(default=131072, description="tokens that `shards` writes and reads")
    documents: Count = Field(
        default=32,
        description="documents of each source that `harvest` and `analysis` read for the real pair",
    )
    page_latents: tuple[Count, ...] = Field(
        default=(16384, 65536),
        min_length=1,
        description="numbers of latents of the dictionaries that `page` builds a page for",
    )
    coverage_samples: Count = Field(
        default=1000, description="samples of prompts behind each coverage that `coverage` measures"
    )
    coverage_corpora: Count = Field(
        default=300, description="sets of held-out documents behind each coverage that `coverage` measures"
    )
    stability: StabilityConfig = Field(
        default=StabilityConfig(),
        description="recipes whose dictionaries `stability` compares over trainings",
    )
    ranks: RanksConfig = Field(
        default=RanksConfig(), description="processes that `ranks` divides the latents over"
    )
    grid: GridConfig = Field(default=GridConfig(), description="sizes that `gpu-grid` measures")
    device: Device = Field(default="auto", description="device to measure on")
    threads: Count | None = Field(default=None, description="CPU threads; null: torch's default")
    seed: int = Field(default=0, ge=0, description="seed of data and dictionaries")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for n_latents in (*self.axes.n_latents, *([] if self.large is None else [self.large])):
            if self.shape.k > n_latents:
                raise ValueError(
                    f"shape.k is {self.shape.k}, which is larger than {n_latents} latents; give a smaller k"
                )
        if max(self.axes.k) > self.shape.n_latents:
            raise ValueError(
                f"axes.k goes up to {max(self.axes.k)}, which is larger than shape.n_latents {self.shape.n_latents}; give smaller k"
            )
        if max(self.grid.k) > min(self.grid.n_latents):
            raise ValueError(
                f"grid.k goes up to {max(self.grid.k)}, which is larger than {min(self.grid.n_latents)} latents; give smaller k"
            )
        if list(self.break_even_shares) != sorted(set(self.break_even_shares)):
            raise ValueError("break_even_shares must be ascending and distinct")
        return self


def chosen_benchmarks(what: str) -> tuple[Benchmark, ...]:
    """The benchmarks of that name, or for `all` every one but `gpu-grid`, which is for a GPU and for a decision that is made once.

    Raises:
        ConfigError: No benchmark has that name.
    """
    chosen: tuple[Benchmark, ...] = tuple(
        [name for name in BENCHMARKS if what == name or (what == "all" and name != "gpu-grid")]
    )
    if not chosen:
        known = (*BENCHMARKS, "all")
        raise ConfigError(f"bench: {what!r} is not one of {', '.join(known)}{did_you_mean(what, known)}")
    return chosen
