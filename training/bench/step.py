"""The training step beside the one product that it cannot do without, and beside a step of SAELens on the same batches.

encoder product        batch × encoder in the precision of the step, into memory that is there: the reference
sparse step            the step of `training.step: sparse`, from raw activations to updated weights, AuxK active
dense step             the same of `training.step: dense`

and the steps of other libraries, of equal size (`rivals`).
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
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
PRODUCT = "encoder product"

# No latent of a benchmark dies by itself, so that exactly those are dead that are said to be.
_NEVER = 2**60

# Tokens of a document, where planted tokens are read in documents.
_DOCUMENT_TOKENS = 256


class OwnStep:
    """A step of our trainer on the current batch, with a fixed set of `dead` latents."""

    def __init__(self, trainer: Trainer, batches: Batches, dead: float) -> None:
        self.trainer, self._batches, self._dead_share = trainer, batches, dead
        self.dead = torch.zeros_like(trainer.state.tokens_since_fired, dtype=torch.bool)

    def __call__(self) -> int:
        """One update; the number of tokens."""
        self.trainer.state.tokens_since_fired.masked_fill_(self.dead, _NEVER + 1)
        self.trainer.step(self._batches.current)
        return len(self._batches.current)

    def warm_up(self, steps: int) -> None:
        """Train without a dead latent, then declare those dead that have not fired for longest."""
        for _ in range(steps):
            self._batches.advance()
            self()
        since = self.trainer.state.tokens_since_fired
        self.dead[since.topk(round(self._dead_share * len(since))).indices] = True

    def on_path(self, path: StepPath) -> "OwnStep":
        """The same training, at the same point, on another path."""
        twin = Trainer(
            _with_path(self.trainer.config, path), self.trainer.source, self.trainer.folder, WandbRun(None)
        )
        twin.state = deepcopy(self.trainer.state)
        twin.forward = twin._forward()
        step = OwnStep(twin, self._batches, self._dead_share)
        step.dead = self.dead
        return step


class EncoderProduct:
    """The product of a batch and the encoder: both in the precision of the step already, the result in memory that is there."""

    def __init__(self, crosscoder: Crosscoder, batches: Batches, dtype: torch.dtype) -> None:
        self._crosscoder, self._batches = crosscoder, batches
        self._weights = crosscoder.W_enc.detach().to(dtype).clone()
        self._result = self._weights.new_empty(len(batches.current), crosscoder.config.n_latents)
        self._normalized = self._weights.new_empty(0)

    def prepare(self) -> None:
        """Lay out the batch, outside the measured time."""
        with torch.no_grad():
            values: Float[Tensor, "token width"] = self._crosscoder.normalize(self._batches.current.float())
            self._normalized = values.to(self._weights.dtype)

    def __call__(self) -> int:
        """One product; the number of tokens."""
        torch.mm(self._normalized, self._weights, out=self._result)
        return len(self._result)


def step_benchmark(config: BenchConfig) -> list[Comparison]:
    """All variants at the shape and at the larger dictionary, in each precision."""
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
    paths: tuple[StepPath, ...] = ("sparse", "dense"),
    *,
    rivals: bool = False,
) -> Comparison:
    """The encoder product, our step on some paths, and (`rivals`) SAELens's, taking turns.

    The loss of every one of our paths is that of the same weights: what is compared is the same work.
    """
    with warmed_step(config, shape, precision, device) as (step, batches):
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
def warmed_step(
    config: BenchConfig, shape: Shape, precision: Precision, device: torch.device
) -> Iterator[tuple[OwnStep, Batches]]:
    """A training on the sparse path some steps after its start, and its batches."""
    batches = Batches(shape, device, config.seed)
    with tempfile.TemporaryDirectory() as place:
        settings = _run_config(Path(place), shape, precision, device, config.seed)
        reader = PlantedReader(batches.sample, shape.d_models)
        source = CachedSource(reader, reader, config.seed)
        trainer = Trainer(settings, source, RunFolder(Path(place)), WandbRun(None))
        trainer.state.crosscoder.set_normalization(batches.sample.float().to(device))
        step = OwnStep(trainer, batches, shape.dead)
        step.warm_up(config.warmup)
        yield step, batches


def planted_reading(
    config: BenchConfig, device: torch.device, n_batches: int
) -> tuple[Crosscoder, list[ActivationBatch]]:
    """A dictionary of the shape, trained for a few steps and calibrated, and planted tokens to read with it."""
    with warmed_step(config, config.shape, precisions(config, device)[0], device) as (step, batches):
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
    """Those that were asked for; else all that the device has units for. float32 is what runs where there are none."""
    if config.precisions is not None:
        return config.precisions
    return ("bfloat16", "float32") if has_bfloat16_units(device) else ("float32",)


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """What torch calls it."""
    return compute_dtype(precision, device)


def _run_config(
    place: Path, shape: Shape, precision: Precision, device: torch.device, seed: int
) -> RunConfig:
    """Settings of a training of this shape that is past its annealing and never ends."""
    settings: dict[str, Any] = {
        "output": place,
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
            "auxiliary": {"dead_after_tokens": _NEVER},
            "precision": precision,
            "step": "sparse",
            "device": device.type,
        },
        "seed": seed,
    }
    return RunConfig.model_validate(settings)


def _with_path(config: RunConfig, path: StepPath) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"step": path})})
