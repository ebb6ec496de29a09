"""How long a run will take, from a few real steps of its own settings.

Measured: training steps at the first and at the last k, an evaluation, a checkpoint, the batches of each control, one batch of the
splice. Each is multiplied by how often the run does it.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch
from crosscoder.config import CachedActivations, RunConfig, StreamedActivations, WandbConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.views import view_rows
from crosscoder.errors import DivergedError
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.controls import Control, controls_of
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun
from crosscoder.runtime.timing import StageTime, seconds_each
from crosscoder.text.documents import Documents

from .checkpoints import save_checkpoint
from .controls import control_source, n_workers
from .evaluation import EVALUATION_TOKENS, decoder_histograms
from .harvest import plan_shards
from .loaded_dictionary import load_dictionary
from .memory import lacks_memory, training_memory
from .rank_plan import config_of_rank, rank_lines
from .recipe import LEAST_STEPS, RATE_SCALE
from .schedules import n_steps
from .sources import CachedSource, TokenSource
from .splice import BATCH, DOCUMENTS, cross_entropy
from .trainer import QUICK_CALIBRATION, Trainer

_MEASURED_DOCUMENT = 32
"""Rows of measured tokens that count as a document."""

_LARGEST_CHECKPOINT = 1_000_000_000
"""Bytes of weights and moments up to which a checkpoint is written to be timed; a larger one is estimated from a part."""

LEAST_MOVEMENT = 1.6
"""Learning rate times steps, times √d of the narrowest model, below which a dictionary ends undertrained: Adam moves a weight by at most
about the rate at each step, and weights begin near 1/√d. On the toy pair (d = 64) a training at 0.4, 0.8, 1.6 and 3.2 times 1/√d
explains 39, 71, 87 and 93 % of the reference at a rate of 1e-3, and about as much at 1e-4 and 5e-3 from 1.6 on."""


COMPARED_DOCUMENTS = 16
"""Documents that layers are compared on."""

MEASURED_TOKENS = 2048
"""Tokens on which speed and activation statistics are measured."""

MeasureReading = Callable[
    [RunConfig, ModelPair | None, Crosscoder, tuple[int, ...], Tensor, int, Sequence[Behavior]],
    list[StageTime],
]
"""Measures the stages that read a dictionary: `analysis.stage_times.stage_times`, which training does not know."""


class MeasuredTokens:
    """An `ActivationReader` of tokens in memory."""

    def __init__(self, values: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> None:
        self.d_models, self.n_tokens, self._values = d_models, len(values), values

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        """See `ActivationReader.documents`."""
        return np.arange(self.n_tokens, dtype=np.int64) // _MEASURED_DOCUMENT

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """See `ActivationReader.gather`."""
        rows = rows.long()
        return ActivationBatch(self._values[rows], rows // _MEASURED_DOCUMENT, rows % _MEASURED_DOCUMENT)

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """See `ActivationReader.batches`."""
        for rows in torch.arange(self.n_tokens).split(size):
            yield self.gather(rows)


class Measured(NamedTuple):
    """What was measured of the training."""

    times: list[StageTime]
    crosscoder: Crosscoder
    """After the measured steps; calibrated, to measure on it what reads a dictionary."""


def measured_source(values: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> CachedSource:
    """Return a source of measured tokens, which are both trained on and held out."""
    reader = MeasuredTokens(values, d_models)
    return CachedSource(reader, reader, 0)


class Models(NamedTuple):
    """The models of a run, if it has any."""

    pair: ModelPair
    documents: Documents
    weight_bytes: int
    times: list[StageTime]
    """Of the stages before the training."""


def harvest_times(
    config: RunConfig,
    settings: CachedActivations | StreamedActivations,
    documents: Documents,
    speed: float,
    layer_seconds: float,
) -> list[StageTime]:
    """The harvest, the survey, and the forward passes of a training that streams."""
    plans = plan_shards(config, settings, documents)
    n_tokens = sum(
        int(documents.unmasked[batch].sum()) for plan in plans.values() for group in plan for batch in group
    )
    n_shards = sum(map(len, plans.values()))
    parts = f"; each of P parts (--part) takes 1/P of it, for P up to {n_shards:,}" if n_shards > 1 else ""
    times = [StageTime("harvest", n_tokens / speed, f"{n_tokens:,} tokens at {speed:,.0f} tokens/s{parts}")]
    if isinstance(settings, StreamedActivations) and config.crosscoder.load is None:
        streamed = chosen(config.training.n_tokens, "training.n_tokens")
        times.append(StageTime("stream", streamed / speed, f"{streamed:,} tokens at {speed:,.0f} tokens/s"))
    if n_surveyed := min(config.survey.documents, len(documents.split(held_out=True))):
        n_compared = min(COMPARED_DOCUMENTS, len(documents.split(held_out=True)))
        how = f"{n_surveyed} documents, of which {n_compared} took {layer_seconds:.2g} s"
        times.append(StageTime("survey", layer_seconds * n_surveyed / n_compared, how))
    return times


def time_section(
    config: RunConfig,
    sweep_share: float,
    source: TokenSource,
    n_train: int,
    n_held_out: int,
    models: Models | None,
    behaviors: Sequence[Behavior],
    reading: MeasureReading | None,
) -> dict[str, list[str]]:
    """The section with the time of each stage, and the sum. Nothing is measured where the memory does not suffice.

    Where ranks divide the latents, the share of one is measured, and a second section says what the division costs.
    """
    if config.training.latent_shards > 1 and config.crosscoder.load is None:
        return _divided_section(config, source, n_train, n_held_out)
    warnings: list[str] = []
    if config.crosscoder.load is None:
        warning = too_few_steps(config, source.d_models)
        warnings = [] if warning is None else [warning]
        weight_bytes = 0 if models is None else models.weight_bytes
        if lacks_memory(training_memory(config, source.d_models, weight_bytes, n_train, n_held_out)):
            return {"time": ["not measured, because the memory does not suffice", *warnings]}
        measured = training_times(config, source, n_held_out, sweep_share)
    else:
        measured = Measured([], load_dictionary(config, source).crosscoder.eval())
    times = [] if models is None else [*models.times]
    times += measured.times
    values = source.sample(MEASURED_TOKENS)
    if models is not None:
        mean = values.float().mean(dim=0)
        times.append(splice_time(models.pair, measured.crosscoder, models.documents, config, mean))
    if reading is not None:
        pair = None if models is None else models.pair
        times += reading(config, pair, measured.crosscoder, source.d_models, values, n_held_out, behaviors)
    total = sum((one.seconds for one in times), 0.0)
    lines = [
        f"{one.name:<8} {'up to' if one.at_most else 'about'} {duration(one.seconds)}, {one.seconds / max(total, 1e-9):.0%}: {one.how}"
        for one in times
    ]
    return {
        "time": [
            *lines,
            f"in all   about {duration(total)}, from a few measured steps of each stage; report and page take seconds",
            *warnings,
        ]
    }


def _divided_section(
    config: RunConfig, source: TokenSource, n_train: int, n_held_out: int
) -> dict[str, list[str]]:
    """The sections on a training whose latents are divided over ranks."""
    share, n_ranks, step_seconds = config_of_rank(config), config.training.latent_shards, None
    if not lacks_memory(training_memory(config, source.d_models, 0, n_train, n_held_out)):
        with _measured_trainer(share, source) as trainer:
            _, step_seconds = _step_seconds(trainer, trainer.config, source, n_steps(share.training))
    return {
        f"{n_ranks} ranks": rank_lines(config, source.d_models, step_seconds),
        "time": [
            "not estimated for the other stages: the training depends on the connection between the ranks, and the analysis on rank 0 alone, "
            "which reads the whole dictionary",
        ],
    }


@contextmanager
def _measured_trainer(config: RunConfig, source: TokenSource) -> Iterator[Trainer]:
    """Provide a trainer to measure, in a run folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        config = _in_folder(config, Path(folder) / "run")
        trainer = Trainer(config, source, RunFolder.create(config.output, config), WandbRun(None))
        sample = source.sample(config.training.calibration_tokens).to(trainer.device)
        trainer.state.crosscoder.set_normalization(view_rows(sample, source.d_models, trainer.reads).float())
        yield trainer


def training_times(
    config: RunConfig, source: TokenSource, n_held_out: int, sweep_share: float = 0.0
) -> Measured:
    """Measure a few steps of the training and of each control, and return how long all of them will take.

    Raises:
        DivergedError: The weights are not finite after these steps.

    Args:
        config: With every setting chosen.
        source: Tokens to measure on; fewer than the run has are enough.
        sweep_share: Training tokens of the sweep over k, as a share of those of the training.
    """
    with _measured_trainer(config, source) as trainer:
        config, run = trainer.config, trainer.folder
        steps = n_steps(config.training)
        early, late = _step_seconds(trainer, config, source, steps)
        if not all(bool(weight.isfinite().all()) for weight in trainer.state.crosscoder.parameters()):
            raise DivergedError(
                f"training.lr: weights are no longer finite after a few measured steps (lr {config.training.lr}); give a lower training.lr, or "
                "leave it open"
            )
        each = late + (early - late) * config.training.k_anneal / 2
        evaluation = _evaluation_seconds(trainer, n_held_out)
        checkpoint = _checkpoint_seconds(trainer, run)

        def training(step: float, n: int) -> float:
            evaluations = n // config.training.evaluate_every + 1
            return (
                step * n + evaluation * evaluations + checkpoint * (n // config.training.checkpoint_every + 1)
            )

        train = training(each, steps)
        how = f"{steps:,} steps of {1000 * each:.3g} ms, with evaluations of {1000 * evaluation:.3g} and checkpoints of {1000 * checkpoint:.3g} ms"
        times = [StageTime("train", train, how)]
        if sweep_share:
            times.append(
                StageTime(
                    "sweep", sweep_share * train, f"k: {sweep_share:.1f} times the training", at_most=True
                )
            )
        controls = controls_of(config, run.path)
        plain = _batch_seconds(source, config)
        found = [
            (
                control,
                training(
                    each + max(0.0, _control_batch_seconds(control, source) - plain),
                    n_steps(control.config.training),
                ),
            )
            for control in controls
        ]
        if found:
            times.append(_of_controls(found, config, source))
        crosscoder = trainer.state.crosscoder
        trainer.held_out.calibrate(crosscoder)
        return Measured(times, crosscoder.eval())


def splice_time(
    pair: ModelPair,
    crosscoder: Crosscoder,
    documents: Documents,
    config: RunConfig,
    mean: Float[Tensor, " width"],
) -> StageTime:
    """Measure one batch of the splice."""
    n_documents = min(DOCUMENTS, len(documents.split(held_out=True)))
    begin = time.perf_counter()
    cross_entropy(pair, crosscoder, documents, config.crosscoder.reads, mean, n_documents=BATCH)
    seconds = time.perf_counter() - begin
    batches = math.ceil(n_documents / BATCH)
    return StageTime(
        "splice", batches * seconds, f"{batches} batches of {BATCH} documents of {seconds:.2g} s"
    )


def too_few_steps(config: RunConfig, d_models: tuple[int, ...]) -> str | None:
    """Return a warning if the training has too few steps for its learning rate; None if it has enough."""
    rate, steps = chosen(config.training.lr, "training.lr"), n_steps(config.training)
    if rate * steps * math.sqrt(min(d_models)) >= LEAST_MOVEMENT:
        return None
    n_latents = chosen(config.crosscoder.n_latents, "crosscoder.n_latents")
    batch = chosen(config.training.batch_tokens, "training.batch_tokens")
    usual = f"{RATE_SCALE / math.sqrt(n_latents):.2g}"
    return (
        f"TOO FEW STEPS: {steps:,} steps at training.lr {rate:g} move a weight by at most {rate * steps:.2g}; the dictionary will explain "
        f"little and no latent will be labeled. Give training.n_tokens {LEAST_STEPS * batch} ({LEAST_STEPS:,} steps) and training.lr {usual}, or "
        "leave both open"
    )


def _in_folder(config: RunConfig, folder: Path) -> RunConfig:
    """Return the settings for the measurement: in this folder, without a warm start and without wandb."""
    training = config.training.model_copy(update={"start_from": None})
    return config.model_copy(update={"output": folder, "training": training, "wandb": WandbConfig()})


def _step_seconds(
    trainer: Trainer, config: RunConfig, source: TokenSource, steps: int
) -> tuple[float, float]:
    """Seconds of a step at the first and at the last k, with its batch."""
    batches = source.batches(chosen(config.training.batch_tokens, "training.batch_tokens"))

    def step() -> None:
        values, _ = next(batches)
        trainer.step(values.to(trainer.device))

    early = seconds_each(step, trainer.device)
    trainer.state.step = max(trainer.state.step, steps - 1)
    late = seconds_each(step, trainer.device)
    return early, late


def _evaluation_seconds(trainer: Trainer, n_held_out: int) -> float:
    crosscoder, held_out = trainer.state.crosscoder, trainer.held_out

    def evaluate() -> None:
        held_out.calibrate(crosscoder, QUICK_CALIBRATION)
        held_out.measure(crosscoder)
        decoder_histograms(crosscoder)

    tokens = min(EVALUATION_TOKENS, max(1, n_held_out // 2))
    return seconds_each(evaluate, trainer.device, most=2) * max(1.0, tokens / max(1, len(held_out.values)))


def _checkpoint_seconds(trainer: Trainer, run: RunFolder) -> float:
    parameters = sum(weight.numel() for weight in trainer.state.crosscoder.parameters())
    if (n_bytes := 12 * parameters) <= _LARGEST_CHECKPOINT:
        return seconds_each(lambda: save_checkpoint(run.checkpoints, trainer.state), trainer.device, most=2)
    part = b"\0" * (_LARGEST_CHECKPOINT // 10)
    begin = time.perf_counter()
    (run.path / "part").write_bytes(part)
    return (time.perf_counter() - begin) * n_bytes / len(part)


def _batch_seconds(source: TokenSource, config: RunConfig) -> float:
    batches = source.batches(chosen(config.training.batch_tokens, "training.batch_tokens"))
    return seconds_each(lambda: next(batches), torch.device("cpu"), most=5, limit=1.0)


def _control_batch_seconds(control: Control, source: TokenSource) -> float:
    """Seconds of a batch as this control reads it."""
    RunFolder.create(control.config.output, control.config)
    return _batch_seconds(control_source(control, source), control.config)


def _of_controls(found: list[tuple[Control, float]], config: RunConfig, source: TokenSource) -> StageTime:
    names = ", ".join(f"{control.name} {duration(seconds)}" for control, seconds in found)
    workers = n_workers(config, source, len(found))
    together = f"; {workers} at a time" if workers > 1 else ""
    return StageTime("controls", sum(seconds for _, seconds in found) / workers, names + together)


def duration(seconds: float) -> str:
    """Return a duration in words, e.g. `2 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
