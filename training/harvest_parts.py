"""A harvest in parts: processes that do not talk to each other, on machines that share the run folder (`activations.part_records`)."""

import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crosscoder.activations import part_records
from crosscoder.activations.part_records import PartRecord
from crosscoder.activations.shard_store import ShardStore, StoreWriter, place_of, store_of
from crosscoder.activations.shards import MANIFEST, Manifest, ShardWriter, Split
from crosscoder.config import FileActivations, RunConfig
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import InUseError, RunFolder
from crosscoder.run.process_record import command_line, versions
from crosscoder.run.settings_record import DICTIONARY_SETTINGS, RESULT_NEUTRAL_SETTINGS, analysis_settings
from crosscoder.runtime.files import make_folder
from crosscoder.runtime.parts import Part
from crosscoder.runtime.process_group import process_group
from crosscoder.text.documents import Documents

from .extraction import Batch
from .harvest import (
    check_disk,
    describe_inputs,
    harvest,
    prepare,
    reuse,
    summary,
    take_over,
    write_shards,
)
from .harvest_identity import harvest_settings
from .outside_activations import OutsideActivations

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
                later = analysis_settings(config, harvested=folder.harvest_began)
                free = (*RESULT_NEUTRAL_SETTINGS, *later, *DICTIONARY_SETTINGS)
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
    outside: OutsideActivations | None = None,
    *,
    by_group: bool = False,
) -> None:
    """Write the shards of one part; a part that was interrupted resumes after its last finished shard. Call it inside `folder_of_part`.

    Args:
        outside: See `harvest`.
        by_group: The ranks of one command divided the harvest.

    Raises:
        ConfigError: The harvest is done in another number of parts, or as `harvest`.
        FormatError, DataError, ResourceError: See `harvest`.
    """
    settings, target = config.activations, folder.activations
    assert not isinstance(settings, FileActivations)
    store = store_of(settings, target)
    run = _word(folder, store)
    place = place_of(store, target)
    pair.identity()  # which reads the weights: not while other parts wait
    # One part measures the limits on norms and writes them for all.
    with folder.files.locked():
        plans, manifest = prepare(folder, config, pair, documents, outside)
        if manifest.complete:
            reuse(folder, config, pair, documents, manifest)
            return
        _compare_versions(folder)
        describe_inputs(folder, config, pair, documents)
        records = part_records.read_records(target, manifest, run, place)
        part_records.require_division(place, records, part, run)
        begun = records.get(part) or PartRecord.begin(manifest, part, command_line(), by_group=by_group)
        _save(begun, target, store)
    planned = part_records.shards_of(manifest, part)
    if not any(planned.values()):
        if not by_group:
            _warn_of_no_shard(manifest, part)
        return
    if begun.complete:
        logger.info("harvest: part %s is finished already", part)
        return
    # All parts write to one place.
    done = manifest.rows + sum(record.rows for record in records.values())
    check_disk(folder, settings, pair, documents, plans, done)
    groups: dict[Split, list[list[Batch]]] = {
        split: plans[split][numbers.start : numbers.stop] for split, numbers in planned.items()
    }
    begun, begin = begun.model_copy(update={"command": command_line()}), time.monotonic()
    writer = ShardWriter(target, begun) if store is None else StoreWriter(store, begun)
    try:
        with writer:
            write_shards(
                writer, groups, manifest, pair, documents, f"harvest {part}", outside and outside.read
            )
    finally:
        seconds = round(begun.wall_seconds + time.monotonic() - begin, 3)
        writer.save_record(writer.record.model_copy(update={"wall_seconds": seconds}))


def _warn_of_no_shard(manifest: Manifest, part: Part) -> None:
    n_left = sum(side.n_planned - len(side.shards) for side in manifest.sides.values())
    logger.warning(
        "harvest: no shard is left for part %s; there are %d to write, so at most %d parts have work",
        part, n_left, n_left,
    )  # fmt: skip


def harvest_alone(
    folder: RunFolder,
    config: RunConfig,
    pair: ModelPair,
    documents: Documents,
    outside: OutsideActivations | None = None,
) -> None:
    """Harvest as one process, to the run folder or to the URL that the settings name, where one process is part 1 of 1. `outside`: see
    `harvest`.

    Raises:
        ConfigError, FormatError, DataError, ResourceError: See `harvest` and `harvest_part`.
    """
    if store_of(config.activations, folder.activations) is None:
        harvest(folder, config, pair, documents, outside)
        return
    harvest_part(folder, config, pair, documents, Part(1, 1), outside)
    join_parts(folder, config)


def _save(record: PartRecord, target: Path, store: ShardStore | None) -> None:
    if store is None:
        record.save(target)
    else:
        store.put_record(record)


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


def _word(folder: RunFolder, store: ShardStore | None = None) -> str:
    """Return the run folder as a word of a command, and, because that alone is not trusted with it, the URL that the harvest goes to."""
    words = [str(folder.path)] if store is None else [str(folder.path), f"activations.store.url={store.url}"]
    return shlex.join(words)


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


def join_parts(folder: RunFolder, config: RunConfig | None = None, *, alone: bool = False) -> bool:
    """Join the parts of a harvest if any began, and return whether there were any. It needs no models.

    Args:
        config: The settings; None: those of the run folder.
        alone: Leave a harvest to a URL that one process began and did not finish as it is: the caller goes on with it.

    Raises:
        FormatError: A part is not finished, or its record or a shard is damaged or missing. The message names it, and the command that makes it.
        ResourceError: Another process works in the run, or a URL cannot be reached.
    """
    target, config = folder.activations, config or folder.read_config()
    store = store_of(config.activations, target)
    run = _word(folder, store)
    if store is not None:
        take_over(store, {"settings": harvest_settings(config)})
    if not (target / MANIFEST).exists():
        return False
    with folder.locked():
        manifest = Manifest.load(target)
        place = place_of(store, target)
        records = {} if manifest.complete else part_records.read_records(target, manifest, run, place)
        if (
            alone
            and store is not None
            and any(part.of == 1 and not record.complete for part, record in records.items())
        ):
            return False
        if records:
            lacks = _absent_from(target) if store is None else store.lacks
            whole = part_records.joined(manifest, records, run, place, lacks)
            with folder.stage("harvest") as stage:
                if store is not None:
                    store.finish(whole)
                whole.save(target)
                stage.update(summary(whole, store))
                stage["wall_seconds"] = round(sum(record.wall_seconds for record in records.values()), 3)
            logger.info("harvest: joined %d parts", next(iter(records)).of)
        if records or manifest.complete:
            # Also what a process left that was killed in between.
            part_records.forget_records(target)
            folder.forget_parts()
    return bool(records)


def _absent_from(folder: Path) -> Callable[[list[str]], list[str]]:
    return lambda names: [name for name in names if not (folder / name).is_file()]


def require_joined(folder: RunFolder, config: RunConfig | None = None) -> None:
    """Join the parts of a harvest, for a command that does nothing else. Raises ConfigError if there is nothing to join; see `join_parts`."""
    if join_parts(folder, config):
        return
    if harvested(folder):
        logger.info("harvest: the harvest in %s is whole", folder.activations)
        return
    run = _word(folder)
    raise ConfigError(
        f"--join: no part of a harvest is in {folder.path}; run `crosscoder harvest {run} --part 1/P` to P/P first, for P parts of your choice"
    )
