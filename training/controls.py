"""Train the controls of a run (`crosscoder.run.controls`) with the settings of its dictionary.

Each control has its own run folder, without a harvest: it reads the tokens of its run.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self, assert_never

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.activations.batch import ActivationReader, have_difference
from crosscoder.activations.control_transforms import (
    MixedDifference,
    ReducedPrecision,
    ShuffledTokens,
    Transform,
    TransformedReader,
    WithoutSnapshots,
)
from crosscoder.activations.null_pair import NullPair
from crosscoder.config import RunConfig, StreamedActivations
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.views import crosscoder_config
from crosscoder.errors import ConfigError
from crosscoder.run.controls import Control, controls_of
from crosscoder.run.folder import RunFolder
from crosscoder.run.mirror import copy_now
from crosscoder.run.rank_tasks import ranks_work_apart
from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.process_group import process_group
from crosscoder.runtime.processes import run_in_processes

from .block_order import SourceState
from .companion_dictionaries import is_trained, train_companion
from .memory import machine_memory, training_memory
from .shared_stream import SharedBlocks
from .sources import StreamedSource, TokenSource, open_source

logger = logging.getLogger(__name__)

# A training whose encoder products take fewer operations is over before a separate process, which needs some seconds, has started.
_MIN_OPERATIONS_PER_PROCESS = 1e12


class TransformedSource:
    """A source whose tokens pass through the transform of a control."""

    def __init__(self, source: TokenSource, transform: Transform) -> None:
        self.d_models, self.n_train_tokens = transform.widths(source.d_models), source.n_train_tokens
        self._source, self._transform = source, transform

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """See `TokenSource.batches`."""
        for values, after in self._source.batches(batch_tokens, state):
            yield self._transform.apply(values), after

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`."""
        return self._transform.apply(self._source.sample(n_tokens))

    def held_out(self) -> ActivationReader:
        """See `TokenSource.held_out`."""
        return TransformedReader(self._source.held_out(), self._transform)

    def reordered(self, seed: int) -> Self:
        """See `TokenSource.reordered`."""
        return type(self)(self._source.reordered(seed), self._transform)

    def half(self, number: int) -> Self:
        """See `TokenSource.half`."""
        return type(self)(self._source.half(number), self._transform)


class TrainedControl(NamedTuple):
    """A control and the evaluation of its dictionary on held-out tokens."""

    name: str
    evaluation: dict[str, float | None]


def train_controls(folder: RunFolder, config: RunConfig, source: TokenSource) -> list[TrainedControl]:
    """Train the configured controls, in parallel if that is faster, and over all ranks if there are several (they have to call
    `share_controls` meanwhile). Finished controls are not trained again."""
    controls = controls_of(config, folder.path)
    if ranks_work_apart(config):
        share_controls(folder, config, source)
    workers = n_workers(config, source, len(controls))
    waiting = [control for control in controls if not is_trained(RunFolder(control.config.output))]
    if workers > 1 and waiting:
        # From all controls, not the unfinished ones: a resumed run then gives each control the same threads.
        threads = max(1, torch.get_num_threads() // workers)
        logger.info(
            "controls: training %s (up to %d in parallel)", ", ".join(one.name for one in waiting), workers
        )
        jobs = [(folder.path, config, control) for control in waiting]
        with tqdm(total=len(controls), initial=len(controls) - len(waiting), desc="controls") as bar:
            for _ in run_in_processes(_train_in_process, jobs, workers, threads):
                bar.update()
    trained = []
    for control in controls:
        trained.append(_train(control, source))
        copy_now(folder.path)
    return trained


def share_controls(folder: RunFolder, config: RunConfig, source: TokenSource) -> None:
    """Train the controls of the run, each on one of the ranks, and wait until all are trained. Called on every rank; on rank 0 once the main
    dictionary is trained."""
    group = process_group()
    # The longest first, so that the ranks end at about the same time.
    controls = sorted(
        controls_of(config, folder.path),
        key=lambda control: -chosen(control.config.training.n_tokens, "training.n_tokens"),
    )
    if isinstance(source, StreamedSource) and source.shared is not None:
        _train_in_rounds([control for control in controls if control.kind != "seed"], source, source.shared)
        controls = [control for control in controls if control.kind == "seed"]
    for number in group.claims(len(controls)):
        _train(controls[number], source)
    group.barrier()


def _train_in_rounds(controls: Sequence[Control], source: TokenSource, blocks: SharedBlocks) -> None:
    """Train controls that read the same blocks as the main dictionary, as many at a time as there are ranks."""
    group = process_group()
    # The first place is that of the main dictionary, which rank 0 trains.
    places: list[Control | None] = [None, *controls]
    for first in range(0, len(places), group.size):
        own = places[first : first + group.size][group.rank : group.rank + 1]
        if own and own[0] is not None:
            _train(own[0], source)
        blocks.finish()


def n_workers(config: RunConfig, source: TokenSource, n_controls: int) -> int:
    """How many controls are trained in parallel: as configured, or as many as the threads and half of the memory allow.

    By default controls are trained one after the other on a GPU, which one training keeps busy, and if training takes less time
    than starting a process. They always are when streaming, since each process would have to load the models again, and when ranks divide
    the latents of each.
    """
    if (
        n_controls == 0
        or config.training.latent_shards > 1
        or isinstance(config.activations, StreamedActivations)
    ):
        return 1
    if config.controls.workers is not None:
        return min(config.controls.workers, n_controls)
    shape = crosscoder_config(config.crosscoder, source.d_models)
    product = 2 * shape.width * shape.n_latents * chosen(config.training.n_tokens, "training.n_tokens")
    if (
        product < _MIN_OPERATIONS_PER_PROCESS
        or resolve_device("training.device", config.training.device).type != "cpu"
    ):
        return 1
    needed = training_memory(
        config, source.d_models, 0, source.n_train_tokens, source.held_out().n_tokens
    ).total
    memory = machine_memory()
    fitting = n_controls if memory is None else memory // (2 * needed)
    return max(1, min(n_controls, torch.get_num_threads(), fitting))


def _train_in_process(folder: Path, config: RunConfig, control: Control) -> None:
    """Train one control in a worker process, which opens the source from the run folder."""
    _train(control, open_source(RunFolder(folder), config))


def _train(control: Control, source: TokenSource) -> TrainedControl:
    folder = train_companion(control.config, control_source(control, source), {"control": control.name})
    return TrainedControl(control.name, folder.read_manifest()["evaluation"])


def control_source(control: Control, source: TokenSource) -> TokenSource:
    """The source that a control trains on. Seeds read all models, other controls reference and intervened model alone."""
    if control.kind != "seed" and len(source.d_models) > 2:
        source = TransformedSource(source, WithoutSnapshots(source.d_models))
    d_models, folder = source.d_models, RunFolder(control.config.output)
    match control.kind:
        case "seed":
            reordered = source.reordered(control.config.seed)
            return reordered if control.half is None else reordered.half(control.half)
        case "difference" | "difference_mixed":
            if not have_difference(d_models):
                raise ConfigError(
                    f"controls.difference: needs two models of equal width, found widths {d_models}; set it to false"
                )
            reordered = source.reordered(control.config.seed)
            return (
                reordered
                if control.kind == "difference"
                else TransformedSource(reordered, MixedDifference(d_models))
            )
        case "identity":
            return TransformedSource(source, ReducedPrecision(d_models))
        case "shuffled":
            return TransformedSource(source, ShuffledTokens(d_models))
        case "drift" | "intermittent":
            if folder.drift.exists():
                return TransformedSource(source, NullPair.load(folder.drift))
            sample = source.sample(control.config.training.calibration_tokens)
            null_pair = NullPair.fit(sample, d_models, keeps_sizes=control.kind == "intermittent")
            folder.files.create()  # before training creates the run: the file is recorded in the control
            null_pair.save(folder.drift)
            return TransformedSource(source, null_pair)
        case _:
            assert_never(control.kind)
