"""Work of the analysis that the ranks of a command share (`crosscoder.runtime.process_group`).

Rank 0 leads: it goes through the stages as one process does, and announces a task where the others can help (`crosscoder.run.rank_tasks`).
All ranks take shares of a task by the same function:

    read         the held-out tokens: groups of blocks of documents (`latents.block_groups`) with the dictionary of the run, and each control
                 with its own dictionary, whichever rank is free (`labels.control_reading`)
    sum          one of the further passes (`latents.held_out_sums`), whose groups go to whichever rank is free; rank 0 sends what it begins from
    attribute    behaviors: of P ranks, rank r takes r, r + P, …, and writes their folders (`behaviors.attribute`)

Results are those of one process, bit for bit: it reads the same groups. What the training shares: `training.rank_work`.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from crosscoder.config import RunConfig, store_settings
from crosscoder.config.behavior import Behavior
from crosscoder.run.folder import RunFolder
from crosscoder.run.rank_tasks import Task, announce, ranks_work_apart, run_of
from crosscoder.runtime.process_group import ProcessGroup, process_group

from .change.change_elements import PASSES
from .labels.control_reading import ControlReading, controls_to_read, read_control, trained_folder
from .latents.block_groups import block_groups
from .latents.held_out_pass import Pass, PassAccumulator, batch_tokens_for
from .latents.held_out_sums import HeldOut, HeldOutSums, Inputs, Sums, groups_of, read_groups
from .latents.ordered_sums import under, with_prefixes
from .latents.trained_run import TrainedRun
from .latents.unselected_scaling import UnselectedSums

logger = logging.getLogger(__name__)

_PASSES: dict[str, type[HeldOutSums]] = {kind.__name__: kind for kind in (UnselectedSums, *PASSES)}
"""The further passes, by the name that rank 0 announces."""


class Helper:
    """A rank other than 0, which takes shares of what rank 0 announces."""

    TASKS = ("read", "sum", "attribute")
    """Names of the tasks that it carries out."""

    def carry_out(self, task: Task) -> None:
        """Take shares of a task, together with rank 0."""
        folder, config = run_of(task)
        run = open_run(folder, config)
        if task["name"] == "read":
            _read(run, process_group())
        elif task["name"] == "sum":
            _sum(_PASSES[task["pass"]], _held_out(run), process_group().spread(), process_group())
        else:
            _attribute(run, [Behavior.model_validate(one) for one in task["behaviors"]], process_group())


def open_run(folder: RunFolder, config: RunConfig) -> TrainedRun:
    """Open a trained run, in which every process uses as many threads."""
    set_threads(config)
    return TrainedRun(folder, config)


def set_threads(config: RunConfig) -> None:
    """Let torch use as many threads as the settings say, if they do."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


class HeldOutReading(NamedTuple):
    """What was read of the held-out tokens."""

    run: Pass
    """With the dictionary of the run."""
    controls: dict[str, ControlReading]
    """By name, each with its own dictionary."""


def read_held_out(run: TrainedRun) -> HeldOutReading:
    """Read the held-out tokens with the dictionary of a run and those of its controls, by all ranks if there are several.

    Raises:
        FormatError: A control was not trained, or the dictionary or a control is damaged.
    """
    group = process_group() if ranks_work_apart(run.config) else ProcessGroup()
    if group.size > 1:
        # So that a mistake is reported once, and before the others load the dictionaries.
        for control in controls_to_read(run.config, run.folder):
            trained_folder(control, run.folder)
        announce("read", run.folder, run.config)
    found = _read(run, group)
    assert found is not None, "rank 0 reads it"
    return found


def _read(run: TrainedRun, group: ProcessGroup) -> HeldOutReading | None:
    """Read what the other ranks leave; return what all read on rank 0, None on the others."""
    view, reader, settings, seed = run.view, run.reader, run.config.analysis, run.config.seed
    controls = controls_to_read(run.config, run.folder)
    # At a URL, the documents of any block are in all shards.
    in_order = store_settings(run.config.activations) is not None
    groups = block_groups(reader, settings.bootstrap_blocks, seed, batch_tokens_for(view), in_order=in_order)
    accumulator = PassAccumulator(view, run.context, settings, seed)
    readings: dict[str, ControlReading] = {}
    whole = reader.n_tokens if group.size == 1 else None
    with tqdm(total=whole, desc="analyze", unit=" tokens", unit_scale=True) as bar:
        # The controls first, because each takes as long as all groups together.
        for number in group.claims(len(controls) + len(groups)):
            if number >= len(controls):
                accumulator.read(reader, groups[number - len(controls)], bar.update)
                continue
            control = controls[number]
            readings[control.name] = read_control(control, run.folder, reader, run.context, view.device)
    if group.size == 1:
        return HeldOutReading(accumulator.result(), readings)
    if group.rank:
        parts = {f"control {name}": reading.tensors() for name, reading in readings.items()}
        group.collect(with_prefixes(parts | {"run": accumulator.tensors()}))
        return None

    def take(tensors: Mapping[str, Tensor]) -> None:
        accumulator.join(under(tensors, "run"))
        for control in controls:
            if found := under(tensors, f"control {control.name}"):
                readings[control.name] = ControlReading.of_tensors(found)

    group.collect({}, take)
    return HeldOutReading(accumulator.result(), readings)


class SharedPasses:
    """Makes the further passes over the held-out tokens of a run (`ReadSums`), by all ranks if there are several."""

    def __init__(self, run: TrainedRun) -> None:
        self._run = run
        self._group = process_group() if ranks_work_apart(run.config) else ProcessGroup()

    def __call__(self, kind: type[Sums], held_out: HeldOut, inputs: Inputs) -> Sums:
        """See `ReadSums`. `held_out` has to be that of the run."""
        if self._group.size > 1:
            announce("sum", self._run.folder, self._run.config, **{"pass": kind.__name__})
            inputs = self._group.spread(inputs)
        return _sum(kind, held_out, inputs, self._group)

    def held_out(self) -> HeldOut:
        """Return the held-out tokens of the run."""
        return _held_out(self._run)


def _held_out(run: TrainedRun) -> HeldOut:
    return HeldOut(run.view, run.reader, run.context, run.config)


def _sum(kind: type[Sums], held_out: HeldOut, inputs: Inputs, group: ProcessGroup) -> Sums:
    """Sum over the groups that the other ranks leave; return the sums of all on rank 0, the own ones on the others."""
    groups = groups_of(kind, held_out)
    sums = read_groups(kind, held_out, inputs, groups, group.claims(len(groups)))
    if group.rank:
        group.collect(sums.tensors())
    elif group.size > 1:
        group.collect({}, sums.join)
    return sums


class Attributed(NamedTuple):
    """What rank 0 records of an attributed behavior, whichever rank attributed it."""

    n_prompts: int
    established: bool
    verdict: str
    summary: dict[str, Any]
    """Entries of the wandb summary."""
    seconds: float


def attribute_over_ranks(run: TrainedRun, behaviors: Sequence[Behavior]) -> list[Attributed]:
    """Write RUN/behaviors/NAME for each behavior, by all ranks if there are several; names must differ.

    Raises: See `behaviors.attribute.attribute_behavior`.
    """
    group = process_group() if attributed_apart(run.config, behaviors) else ProcessGroup()
    if group.size > 1:
        announce(
            "attribute", run.folder, run.config, behaviors=[one.model_dump(mode="json") for one in behaviors]
        )
    return _attribute(run, behaviors, group)


def attributed_apart(config: RunConfig, behaviors: Sequence[Behavior]) -> bool:
    """Whether each of several behaviors is attributed by one of the ranks. Two of one name have the same folder."""
    return ranks_work_apart(config) and 1 < len(behaviors) == len({one.name for one in behaviors})


def _attribute(run: TrainedRun, behaviors: Sequence[Behavior], group: ProcessGroup) -> list[Attributed]:
    """Attribute the own share of the behaviors, and return what is recorded of all, in their order."""
    from .behaviors.attribute import attribute_behavior

    own = []
    for number in range(group.rank, len(behaviors), group.size):
        begin = time.monotonic()
        logger.info("attribute: behavior %s", behaviors[number].name)
        found = attribute_behavior(run, behaviors[number])
        seconds = round(time.monotonic() - begin, 3)
        shift = found.shift
        own.append((number, [found.n_prompts, shift.established, shift.verdict, found.summary, seconds]))
    gathered = dict(pair for of_rank in group.gather(own) for pair in of_rank)
    return [Attributed(*gathered[number]) for number in range(len(behaviors))]
