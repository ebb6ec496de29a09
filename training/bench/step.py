"""The training step, compared with the encoder product that every step needs, and with a step of SAELens on the same batches.

encoder product        batch × encoder in the precision of the step, into preallocated memory: the reference
sparse step            the step with `training.step: sparse`, from raw activations to updated weights, AuxK active
dense step             the same with `training.step: dense`

Steps of other libraries at equal size are in `rivals`.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch
from crosscoder.config import BatchTopK, RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun
from crosscoder.runtime.device import compute_dtype, has_bfloat16_units, resolve_device
from crosscoder.runtime.timing import Comparison, compare

from ..forward import Path as StepPath
from ..forward import choose_path
from ..sources import CachedSource
from ..trainer import Trainer
from .planted_activations import Batches, PlantedReader
from .rivals import rival_steps
from .settings import BenchConfig, Shape

Precision = Literal["bfloat16", "float32"]
StepSetting = StepPath | Literal["compiled"]
PRODUCT = "encoder product"

# No latent dies during a benchmark, so that exactly the designated ones are dead.
_NEVER = 2**60

# Neither the rate nor the largest number of dead latents per token changes the time of a step noticeably.
_RATE, _AUXILIARY = 1e-3, 256

# Tokens of a document, when planted tokens are read in documents.
_DOCUMENT_TOKENS = 256


class TrainerStep:
    """A step of our trainer on the current batch, with a fixed set of dead latents (`dead`: their share)."""

    def __init__(self, trainer: Trainer, batches: Batches, dead: float) -> None:
        self.trainer, self._batches, self._dead_share = trainer, batches, dead
        self.dead = torch.zeros_like(trainer.state.tokens_since_fired, dtype=torch.bool)

    def __call__(self) -> int:
        """Make one update; return its number of tokens."""
        self.trainer.state.tokens_since_fired.masked_fill_(self.dead, _NEVER + 1)
        self.trainer.step(self._batches.current)
        return len(self._batches.current)

    def warm_up(self, steps: int) -> None:
        """Train without dead latents, then designate as dead those that have not fired for longest."""
        for _ in range(steps):
            self._batches.advance()
            self()
        since = self.trainer.state.tokens_since_fired
        self.dead[since.topk(round(self._dead_share * len(since))).indices] = True

    def sharing_state(self, path: StepSetting) -> "TrainerStep":
        """Return this step on another path and of the same training state, which both then change."""
        trainer = copy(self.trainer)
        trainer.config = _with_path(trainer.config, path)
        trainer.training = trainer.config.training
        return self._by(trainer)

    def keep(self, k: int) -> None:
        """Train with another k from now on."""
        dictionary = self.trainer.config.crosscoder
        changed = dictionary.model_copy(update={"sparsity": BatchTopK(k=k)})
        self.trainer.config = self.trainer.config.model_copy(update={"crosscoder": changed})

    def on_path(self, path: StepSetting) -> "TrainerStep":
        """Return a copy of this step, in the same training state, on another path."""
        trainer = Trainer(
            _with_path(self.trainer.config, path), self.trainer.source, self.trainer.folder, WandbRun(None)
        )
        trainer.state = deepcopy(self.trainer.state)
        return self._by(trainer)

    def _by(self, trainer: Trainer) -> "TrainerStep":
        """Return the step of another trainer on the same batches and dead latents."""
        trainer.prepare_step()
        step = TrainerStep(trainer, self._batches, self._dead_share)
        step.dead = self.dead
        return step


class EncoderProduct:
    """The product of a batch and the encoder, both already in the precision of the step, into preallocated memory."""

    def __init__(self, crosscoder: Crosscoder, batches: Batches, dtype: torch.dtype) -> None:
        self._crosscoder, self._batches = crosscoder, batches
        self._weights = crosscoder.W_enc.detach().to(dtype).clone()
        self._result = self._weights.new_empty(len(batches.current), crosscoder.config.n_latents)
        self._normalized = self._weights.new_empty(0)

    def prepare(self) -> None:
        """Normalize and cast the batch, outside the measured time."""
        with torch.no_grad():
            values: Float[Tensor, "token width"] = self._crosscoder.normalize(self._batches.current.float())
            self._normalized = values.to(self._weights.dtype)

    def __call__(self) -> int:
        """Compute one product; return its number of tokens."""
        torch.mm(self._normalized, self._weights, out=self._result)
        return len(self._result)


def step_benchmark(config: BenchConfig) -> list[Comparison]:
    """Compare all variants at the shape and with the larger dictionary, in each precision."""
    device = resolve_device("device", config.device)
    shapes = [config.shape]
    if config.large is not None:
        shapes.append(config.shape.model_copy(update={"n_latents": config.large}))
    return [
        compare_steps(config, shape, precision, device, rivals=True)
        for precision in precisions(config, device)
        for shape in shapes
    ]


def compare_steps(
    config: BenchConfig,
    shape: Shape,
    precision: Precision,
    device: torch.device,
    paths: tuple[StepSetting, ...] = ("sparse", "dense"),
    *,
    rivals: bool = False,
) -> Comparison:
    """Time the encoder product, our step on some paths, and with `rivals` the steps of other libraries, in turn.

    All of our paths compute the same loss from the same weights, so the same work is compared.
    """
    with warmed_up_step(config, shape, precision, device) as (step, batches):
        crosscoder, dtype = step.trainer.state.crosscoder, step.trainer.forward.dtype
        product = EncoderProduct(crosscoder, batches, dtype)
        variants: dict[str, Callable[[], int]] = {PRODUCT: product}
        variants |= {f"{path} step": step if path == "sparse" else step.on_path(path) for path in paths}
        if rivals:
            variants |= rival_steps(crosscoder, step.dead, batches, shape, precision)

        def next_batch() -> None:
            batches.advance()
            product.prepare()

        chosen = choose_path(BatchTopK(k=shape.k), None, shape.n_latents, dtype, device)
        return compare(
            f"Step: {shape}, {precision}",
            variants,
            reference=PRODUCT,
            repeats=config.repeats,
            device=device,
            before_round=next_batch,
            settings=shape.model_dump() | {"precision": precision, "auto": chosen, "warmup": config.warmup},
            notes=(f"Dead latents: {shape.dead:.0%}. `training.step: auto` takes the {chosen} path here.",),
        )


@contextmanager
def warmed_up_step(
    config: BenchConfig, shape: Shape, precision: Precision, device: torch.device, n_ranks: int = 1
) -> Iterator[tuple[TrainerStep, Batches]]:
    """Provide a sparse training step after some warm-up steps, and its batches. If `n_ranks` divide the latents, each of them calls this."""
    batches = Batches(shape, device, config.seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = bench_run_config(Path(folder), shape, precision, device, config.seed, n_ranks)
        reader = PlantedReader(batches.sample, shape.d_models)
        source = CachedSource(reader, reader, config.seed)
        trainer = Trainer(settings, source, RunFolder(Path(folder)), WandbRun(None))
        trainer.state.crosscoder.set_normalization(batches.sample.float().to(device))
        step = TrainerStep(trainer, batches, shape.dead)
        step.warm_up(config.warmup)
        yield step, batches


def planted_reading(
    config: BenchConfig, device: torch.device, n_batches: int
) -> tuple[Crosscoder, list[ActivationBatch]]:
    """A dictionary of the configured shape, trained for a few steps and calibrated, and planted batches to encode with it."""
    with warmed_up_step(config, config.shape, precisions(config, device)[0], device) as (step, batches):
        crosscoder = step.trainer.state.crosscoder
        step.trainer.held_out.calibrate(crosscoder)
        read = []
        for index in range(n_batches):
            batches.advance()
            row = torch.arange(len(batches.current))
            document = (index * len(row) + row) // _DOCUMENT_TOKENS
            read.append(ActivationBatch(batches.current, document, row % _DOCUMENT_TOKENS))
        return crosscoder.eval(), read


def precisions(config: BenchConfig, device: torch.device) -> tuple[Precision, ...]:
    """The configured precisions; by default float32, and bfloat16 too if the device has units for it."""
    if config.precisions is not None:
        return config.precisions
    return ("bfloat16", "float32") if has_bfloat16_units(device) else ("float32",)


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """The torch dtype of a precision."""
    return compute_dtype(precision, device)


def bench_run_config(
    folder: Path, shape: Shape, precision: Precision, device: torch.device, seed: int, n_ranks: int = 1
) -> RunConfig:
    """Settings of a training of this shape without annealing and without end."""
    settings: dict[str, Any] = {
        "output": folder,
        "activations": {"kind": "files", "reference": "planted", "intervened": "planted"},
        "crosscoder": {
            "n_latents": shape.n_latents,
            "sparsity": {"kind": "batch_topk", "k": shape.k},
        },
        "training": {
            "n_tokens": _NEVER,
            "batch_tokens": shape.batch_tokens,
            "warmup": 0.0,
            "k_anneal": 0.0,
            "lr": _RATE,
            "auxiliary": {"k": _AUXILIARY, "dead_after_tokens": _NEVER},
            "precision": precision,
            "step": "sparse",
            "device": device.type,
            "latent_shards": n_ranks,
        },
        "seed": seed,
    }
    return RunConfig.model_validate(settings)


def _with_path(config: RunConfig, path: StepSetting) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"step": path})})
