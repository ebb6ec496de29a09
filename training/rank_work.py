"""Work that the ranks of a command share (`crosscoder.runtime.process_group`).

Rank 0 leads: it goes through the stages as one process does, and announces a task where the others can help. They wait for tasks, and all
ranks take shares of one by the same function:

    harvest        parts of the harvest, each to one rank (`harvest_parts`)
    dictionaries   the main dictionary on rank 0, and each control to one rank (`controls`)
    latents        one dictionary after another, of whose latents each rank holds a range (`latent_work`), if `training.latent_shards` says so

Everything else is done by rank 0 alone. A task names the settings and the folder; weights and activations are read from disk.
"""

import logging
from pathlib import Path
from typing import Literal

from crosscoder.activations.shard_store import store_of
from crosscoder.config import RunConfig, StreamedActivations
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder
from crosscoder.run.settings_record import plain_settings, read_settings
from crosscoder.runtime.process_group import process_group
from crosscoder.text.documents import Documents

from .controls import ranks_share_dictionaries, share_controls
from .harvest import prepare
from .harvest_parts import harvest_alone, harvested, join_parts, parts_of_group, share_harvest
from .inputs import read_inputs, set_threads
from .latent_work import LatentHelper
from .sources import StreamedSource, TokenSource, open_source

logger = logging.getLogger(__name__)

Task = Literal["harvest", "dictionaries"]

_PARTS_OF_A_RANK = 4
"""Parts of the harvest for each rank: several, so that a rank that is slow, or has shards that exist already, does not keep the others waiting."""


def assist() -> None:
    """Take shares of the tasks that rank 0 announces, until it announces the end. Called on every other rank."""
    group, latents = process_group(), LatentHelper()
    pair: ModelPair | None = None
    while (task := group.broadcast()) is not None:
        if task["name"] in latents.TASKS:
            latents.carry_out(task)
            continue
        folder = RunFolder(Path(task["output"]))
        config = read_settings(task["settings"], folder.manifest, folder.path)
        set_threads(config)
        folder.use_date()
        if task["name"] == "harvest":
            pair, documents = read_inputs(folder, config)
            share_harvest(folder, config, pair, documents, task["parts"])
            if not isinstance(config.activations, StreamedActivations):
                pair = None  # which frees its memory: training reads the disk
        else:
            share_controls(folder, config, _shared(open_source(folder, config, pair)))


def announce_end() -> None:
    """Send the other ranks home."""
    process_group().broadcast(None)


def _announce(name: Task, folder: RunFolder, config: RunConfig, parts: int = 0) -> None:
    process_group().broadcast(
        {"name": name, "output": str(folder.path), "settings": plain_settings(config), "parts": parts}
    )


def harvest_over_ranks(folder: RunFolder, config: RunConfig, pair: ModelPair, documents: Documents) -> None:
    """Harvest, by all ranks if there are several; rank 0 alone to a URL. A harvest that ranks began is continued by however many there are now,
    one included.

    Raises: See `harvest_alone`.
    """
    group, begun = process_group(), parts_of_group(folder)
    to_url = store_of(config.activations, folder.activations) is not None
    if to_url or harvested(folder) or (group.size == 1 and not begun):
        harvest_alone(folder, config, pair, documents)
        return
    # So that a mistake is reported once, and before the others load the models.
    prepare(folder, config, pair, documents)
    parts = begun or _PARTS_OF_A_RANK * group.size
    logger.info("harvest: %d parts, by %d ranks", parts, group.size)
    _announce("harvest", folder, config, parts)
    share_harvest(folder, config, pair, documents, parts)
    join_parts(folder)


def train_over_ranks(folder: RunFolder, config: RunConfig, source: TokenSource) -> TokenSource:
    """Let the other ranks begin with the controls, if there are any, and return the source for the main dictionary, which rank 0 trains.

    How the training of a run is divided is decided by `ranks_share_dictionaries`. `train_controls` has to follow, once the main dictionary is trained.
    """
    if not ranks_share_dictionaries(config):
        return source
    _announce("dictionaries", folder, config)
    return _shared(source)


def _shared(source: TokenSource) -> TokenSource:
    """Return the source of all ranks: a stream is computed by all together."""
    return source.share(process_group()) if isinstance(source, StreamedSource) else source
