"""The other dictionaries of a run (`crosscoder.run.controls`), trained by the same recipe.

Each is a run folder of its own without a harvest: it reads the tokens of the run that it belongs to.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self, assert_never

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.activations.batch import ActivationReader, have_difference
from crosscoder.activations.null_pair import NullPair
from crosscoder.activations.transforms import Coarser, Ends, Mixed, Shuffled, Transform, TransformedReader
from crosscoder.config import RunConfig, StreamedActivations
from crosscoder.dictionary.inputs import crosscoder_config
from crosscoder.errors import ConfigError
from crosscoder.run.controls import Control, controls_of
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.processes import side_by_side

from .companion import is_trained, train_companion
from .memory import memory_of_machine, training_memory
from .sources import SourceState, TokenSource, open_source

logger = logging.getLogger(__name__)

# Operations of the encoder's products of one training, from which on a process of its own is worth its start of some seconds.
_WORTH_A_PROCESS = 1e12


class TransformedSource:
    """The tokens of another source, seen as those of another pair."""

    def __init__(self, source: TokenSource, change: Transform) -> None:
        self.d_models, self.n_train_tokens = change.widths(source.d_models), source.n_train_tokens
        self._source, self._change = source, change

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """See `TokenSource.batches`."""
        for values, after in self._source.batches(batch_tokens, state):
            yield self._change.apply(values), after

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`."""
        return self._change.apply(self._source.sample(n_tokens))

    def held_out(self) -> ActivationReader:
        """See `TokenSource.held_out`."""
        return TransformedReader(self._source.held_out(), self._change)

    def reordered(self, seed: int) -> Self:
        """See `TokenSource.reordered`."""
        return type(self)(self._source.reordered(seed), self._change)


class Trained(NamedTuple):
    """A control and what its dictionary explains of held-out tokens."""

    name: str
    evaluation: dict[str, float | None]


def train_controls(folder: RunFolder, config: RunConfig, source: TokenSource) -> list[Trained]:
    """Train the controls that the settings ask for, side by side where that is faster; finished ones are left as they are."""
    controls = controls_of(config, folder.path)
    workers = n_side_by_side(config, source, len(controls))
    waiting = [control for control in controls if not is_trained(RunFolder(control.config.output))]
    if workers > 1 and waiting:
        # Of all controls, not of those that wait: a run that is continued gives each the threads that it had.
        threads = max(1, torch.get_num_threads() // workers)
        logger.info("controls: %s, %d side by side", ", ".join(one.name for one in waiting), workers)
        jobs = [(folder.path, config, control) for control in waiting]
        with tqdm(total=len(controls), initial=len(controls) - len(waiting), desc="controls") as bar:
            for _ in side_by_side(_train_alone, jobs, workers, threads):
                bar.update()
    return [_train(control, source) for control in controls]


def n_side_by_side(config: RunConfig, source: TokenSource, n_controls: int) -> int:
    """How many controls are trained at once: as configured, or as many as threads and half of the memory allow.

    One after the other on a GPU, which one training keeps busy; from a stream, whose models would have to be loaded again; and
    where a training is over before a process has begun.
    """
    if n_controls == 0 or isinstance(config.activations, StreamedActivations):
        return 1
    if config.controls.workers is not None:
        return min(config.controls.workers, n_controls)
    shape = crosscoder_config(config.crosscoder, source.d_models)
    product = 2 * shape.width * shape.n_latents * config.training.n_tokens
    if product < _WORTH_A_PROCESS or resolve_device("training.device", config.training.device).type != "cpu":
        return 1
    needed = training_memory(
        config, source.d_models, 0, source.n_train_tokens, source.held_out().n_tokens
    ).total
    memory = memory_of_machine()
    fitting = n_controls if memory is None else memory // (2 * needed)
    return max(1, min(n_controls, torch.get_num_threads(), fitting))


def _train_alone(folder: Path, config: RunConfig, control: Control) -> None:
    """Train one control in a process that has nothing but the run folder."""
    _train(control, open_source(RunFolder(folder), config))


def _train(control: Control, source: TokenSource) -> Trained:
    own = train_companion(control.config, _seen_by(control, source), {"control": control.name})
    return Trained(control.name, own.read_manifest()["evaluation"])


def _seen_by(control: Control, source: TokenSource) -> TokenSource:
    """What a control reads of the tokens of its run: seeds all models, the others the two ends."""
    if control.kind != "seed" and len(source.d_models) > 2:
        source = TransformedSource(source, Ends(source.d_models))
    d_models, own = source.d_models, RunFolder(control.config.output)
    match control.kind:
        case "seed":
            return source.reordered(control.config.seed)
        case "difference" | "difference_mixed":
            if not have_difference(d_models):
                raise ConfigError(
                    f"controls.difference: needs two models of equal width, found widths {d_models}; switch it off"
                )
            reordered = source.reordered(control.config.seed)
            return (
                reordered if control.kind == "difference" else TransformedSource(reordered, Mixed(d_models))
            )
        case "identity":
            return TransformedSource(source, Coarser(d_models))
        case "shuffled":
            return TransformedSource(source, Shuffled(d_models))
        case "drift":
            if own.drift.exists():
                return TransformedSource(source, NullPair.load(own.drift))
            drift = NullPair.fit(source.sample(control.config.training.calibration_tokens), d_models)
            drift.save(own.drift)
            return TransformedSource(source, drift)
        case _:
            assert_never(control.kind)
