"""A harvest in parts: processes that do not talk to each other, on machines that share the run folder (`activations.part_records`)."""

import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from crosscoder.activations import part_records
from crosscoder.activations.part_records import PartRecord
from crosscoder.activations.shards import MANIFEST, Manifest, ShardWriter, Split
from crosscoder.config import FileActivations, RunConfig
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import (
    ANALYSIS_SETTINGS,
    DICTIONARY_SETTINGS,
    RESULT_NEUTRAL_SETTINGS,
    InUseError,
    RunFolder,
)
from crosscoder.run.process_record import command_line, versions
from crosscoder.runtime.files import make_folder
from crosscoder.runtime.parts import Part
from crosscoder.runtime.process_group import process_group
from crosscoder.text.documents import Documents

from .extraction import Batch
from .harvest import check_disk, describe_inputs, prepare, summary, write_shards

logger = logging.getLogger(__name__)


@contextmanager
def folder_of_part(config: RunConfig, part: Part) -> Iterator[RunFolder]:
    """Yield the run folder, in which other parts may work meanwhile, but no process on the run as a whole or on this part.

    The first part to arrive creates it; the others check that they have the same settings.

    Raises:
        ConfigError: A setting differs from that of the run.
        FormatError: A file of the run was altered.
        ResourceError: Another process works on this part or in the run.
    """
    folder = RunFolder(config.output)
    make_folder(folder.path, "output")
    with ExitStack() as stack:
        # One part at a time creates or checks the folder.
        with folder.files.locked():
            try:
                RunFolder.create(folder.path, config)
                others_work = False
            except InUseError:
                others_work = True
            # Refused, too, unless the others share the folder, as parts do.
            stack.enter_context(folder.locked_part(part))
            if others_work:
                free = (*RESULT_NEUTRAL_SETTINGS, *ANALYSIS_SETTINGS, *DICTIONARY_SETTINGS)
                folder.require_same(config, free)
                folder.check_files(missing="")
                folder.use_date()
        yield folder


def harvest_part(
    folder: RunFolder,
    config: RunConfig,
    pair: ModelPair,
    documents: Documents,
    part: Part,
    *,
    by_group: bool = False,
) -> None:
    """Write the shards of one part; a part that was interrupted resumes after its last finished shard. Call it inside `folder_of_part`.

    Args:
        by_group: The ranks of one command divided the harvest.

    Raises:
        ConfigError: The harvest is done in another number of parts, or as `harvest`.
        FormatError, DataError, ResourceError: See `harvest`.
    """
    settings, target, run = config.activations, folder.activations, _word(folder)
    assert not isinstance(settings, FileActivations)
    pair.identity()  # which reads the weights: not while other parts wait
    # One part measures the limits on norms and writes them for all.
    with folder.files.locked():
        plans, manifest = prepare(folder, config, pair, documents)
        if manifest.complete:
            logger.info("harvest: reusing the finished harvest in %s", target)
            return
        _compare_versions(folder)
        describe_inputs(folder, config, pair, documents)
        records = part_records.read_records(target, manifest, run)
        part_records.require_division(target, records, part, run)
        begun = records.get(part) or PartRecord.begin(manifest, part, command_line(), by_group=by_group)
        begun.save(target)
    planned = part_records.shards_of(manifest, part)
    if not any(planned.values()) and by_group:
        return
    if not any(planned.values()):
        n_left = sum(side.n_planned - len(side.shards) for side in manifest.sides.values())
        logger.warning(
            "harvest: no shard is left for part %s; there are %d to write, so at most %d parts have work",
            part, n_left, n_left,
        )  # fmt: skip
        return
    if begun.complete:
        logger.info("harvest: part %s is finished already", part)
        return
    # All parts write to one disk.
    done = manifest.rows + sum(record.rows for record in records.values())
    check_disk(folder, settings, pair, documents, plans, done)
    groups: dict[Split, list[list[Batch]]] = {
        split: plans[split][numbers.start : numbers.stop] for split, numbers in planned.items()
    }
    writer = ShardWriter(target, begun.model_copy(update={"command": command_line()}))
    begin = time.monotonic()
    try:
        write_shards(writer, groups, manifest, pair, documents, f"harvest {part}")
    finally:
        seconds = round(begun.wall_seconds + time.monotonic() - begin, 3)
        writer.record.model_copy(update={"wall_seconds": seconds}).save(target)


def share_harvest(
    folder: RunFolder, config: RunConfig, pair: ModelPair, documents: Documents, of: int
) -> None:
    """Harvest in `of` parts, each by one of the ranks, and wait until all are finished. Called on every rank; rank 0 works in the run."""
    group = process_group()
    for number in group.claims(of):
        part = Part(number + 1, of)
        with folder.locked_part(part, led=True):
            harvest_part(folder, config, pair, documents, part, by_group=True)
    group.barrier()


def parts_of_group(folder: RunFolder) -> int:
    """Return the number of parts into which ranks of a command divided the harvest; 0 if none did, or if it is joined."""
    target = folder.activations
    if harvested(folder) or not (target / MANIFEST).exists():
        return 0
    records = part_records.read_records(target, Manifest.load(target), _word(folder))
    return next((part.of for part, record in records.items() if record.by_group), 0)


def harvested(folder: RunFolder) -> bool:
    """Whether the harvest of a run is whole."""
    manifest = folder.activations / MANIFEST
    return manifest.exists() and Manifest.load(folder.activations).complete


def _word(folder: RunFolder) -> str:
    """Return the run folder as a word of a command."""
    return shlex.quote(str(folder.path))


def _compare_versions(folder: RunFolder) -> None:
    """Warn if the part that began the harvest had other versions of the libraries that compute activations."""
    began, here = folder.read_manifest().get("versions"), versions()
    if began is None:
        folder.update_manifest("versions", here)
        return
    for library in ("torch", "transformers", "peft"):
        if began.get(library) != here.get(library):
            logger.warning(
                "harvest: this part runs with %s %s, but the harvest began with %s: its activations may differ by rounding",
                library, here.get(library, "missing"), began.get(library, "none"),
            )  # fmt: skip


def join_parts(folder: RunFolder) -> bool:
    """Join the parts of a harvest if any began, and return whether there were any. It needs no models.

    Raises:
        FormatError: A part is not finished, or its record or a shard is damaged or missing. The message names it, and the command that makes it.
        ResourceError: Another process works in the run.
    """
    target, run = folder.activations, _word(folder)
    if not (target / MANIFEST).exists():
        return False
    with folder.locked():
        manifest = Manifest.load(target)
        records = {} if manifest.complete else part_records.read_records(target, manifest, run)
        if records:
            whole = part_records.joined(target, manifest, records, run)
            with folder.stage("harvest") as stage:
                whole.save(target)
                stage.update(summary(whole))
                stage["wall_seconds"] = round(sum(record.wall_seconds for record in records.values()), 3)
            logger.info("harvest: joined %d parts", next(iter(records)).of)
        if records or manifest.complete:
            # Also what a process left that was killed in between.
            part_records.forget_records(target)
            folder.forget_parts()
    return bool(records)


def require_joined(folder: RunFolder) -> None:
    """Join the parts of a harvest, for a command that does nothing else. Raises ConfigError if there is nothing to join; see `join_parts`."""
    if join_parts(folder):
        return
    if harvested(folder):
        logger.info("harvest: the harvest in %s is whole", folder.activations)
        return
    run = _word(folder)
    raise ConfigError(
        f"--join: no part of a harvest is in {folder.path}; run `crosscoder harvest {run} --part 1/P` to P/P first, for P parts of your choice"
    )
