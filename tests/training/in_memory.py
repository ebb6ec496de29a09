"""Training on activations in memory, with failures at chosen batches."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, ActivationReader
from crosscoder.config import FileActivations, RunConfig
from crosscoder.planted import PlantedPair
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun
from training.block_order import SourceState
from training.sources import CachedSource, TokenSource
from training.trainer import Trainer

BATCH = 64


class InMemoryReader:
    """An `ActivationReader` of one tensor, in documents of ten tokens."""

    def __init__(self, values: Tensor, d_models: tuple[int, ...]) -> None:
        assert values.shape[1] == sum(d_models)
        self.values, self.d_models, self.n_tokens = values, d_models, len(values)

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        return np.arange(self.n_tokens) // 10

    def gather(self, rows: Tensor) -> ActivationBatch:
        return ActivationBatch(self.values[rows], rows // 10, rows % 10)

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        for rows in torch.arange(self.n_tokens).split(size):
            yield self.gather(rows)


class DisturbedSource:
    """A source that calls a function at its n-th batch, counted from 0 since this object was created."""

    def __init__(self, source: TokenSource, n: int, disturb: Callable[[Tensor], Tensor]) -> None:
        self.source, self.n, self.disturb = source, n, disturb
        self.d_models, self.n_train_tokens = source.d_models, source.n_train_tokens

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Tensor, SourceState]]:
        for index, (values, after) in enumerate(self.source.batches(batch_tokens, state)):
            yield (self.disturb(values) if index == self.n else values), after

    def sample(self, n_tokens: int) -> Tensor:
        return self.source.sample(n_tokens)

    def held_out(self) -> ActivationReader:
        return self.source.held_out()

    def reordered(self, seed: int) -> "DisturbedSource":
        return DisturbedSource(self.source.reordered(seed), self.n, self.disturb)

    def half(self, number: int) -> "DisturbedSource":
        return DisturbedSource(self.source.half(number), self.n, self.disturb)


def source_of(values: Tensor, held_out: Tensor, d_models: tuple[int, ...], seed: int = 0) -> CachedSource:
    """A source of tensors."""
    return CachedSource(InMemoryReader(values, d_models), InMemoryReader(held_out, d_models), seed)


def planted_source(n_tokens: int = 1000, seed: int = 0, **pair: Any) -> CachedSource:
    """A source of a planted pair. A pass of 1000 tokens is not a multiple of the batch, so that some batches span two passes."""
    planted = PlantedPair(**pair)
    d_models = (planted.d_model, planted.d_model)
    return source_of(planted.sample(n_tokens, seed=1), planted.sample(1500, seed=2), d_models, seed)


def run_config(
    output: Path,
    *,
    steps: int = 12,
    sparsity: dict[str, Any] | None = None,
    reads: str = "paired",
    n_latents: int = 128,
    wandb: dict[str, Any] | None = None,
    seed: int = 0,
    batch: int = BATCH,
    **training: Any,
) -> RunConfig:
    """Settings of a small run of `steps` steps, by default on the CPU in float32."""
    files = FileActivations(reference=Path("reference.npy"), intervened=Path("intervened.npy"))
    settings = {
        "n_tokens": steps * batch,
        "batch_tokens": batch,
        "lr": 1e-3,
        "auxiliary": {"k": 256, "dead_after_tokens": 200_000},
        "precision": "float32",
        "device": "cpu",
        "log_every": 1,
        "evaluate_every": 4,
        "checkpoint_every": 4,
        "calibration_tokens": 1000,
    }
    return RunConfig.model_validate(
        {
            "output": output,
            "activations": files,
            "crosscoder": {
                "reads": reads,
                "n_latents": n_latents,
                "sparsity": sparsity or {"kind": "batch_topk", "k": 4},
            },
            "training": settings | training,
            "wandb": wandb or {},
            "seed": seed,
        }
    )


def make_trainer(
    config: RunConfig, source: TokenSource | None = None, wandb: WandbRun | None = None
) -> Trainer:
    """A trainer in the run folder of `config`, without wandb unless one is given."""
    folder = RunFolder.create(config.output, config)
    return Trainer(config, planted_source() if source is None else source, folder, wandb or WandbRun(None))
