"""Work of the training that the ranks of a command share (`crosscoder.runtime.process_group`).

Rank 0 leads: it goes through the stages as one process does, and announces a task where the others can help (`crosscoder.run.rank_tasks`).
All ranks take shares of a task by the same function:

    harvest        parts of the harvest, each to one rank (`harvest_parts`)
    dictionaries   the main dictionary on rank 0, and each control to one rank (`controls`)
    latents        one dictionary after another, of whose latents each rank holds a range (`latent_work`), if `training.latent_shards` says so

What the analysis shares: `analysis.rank_work`. Everything else is done by rank 0 alone.
"""

import logging

from crosscoder.activations.shard_store import store_of
from crosscoder.config import RunConfig, StreamedActivations
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder
from crosscoder.run.rank_tasks import Task, announce, ranks_work_apart, run_of
from crosscoder.runtime.process_group import process_group
from crosscoder.text.documents import Documents

from .controls import share_controls
from .harvest import prepare
from .harvest_parts import harvest_alone, harvested, join_parts, parts_of_group, share_harvest
from .inputs import read_inputs, set_threads
from .latent_work import LatentHelper
from .sources import StreamedSource, TokenSource, open_source

logger = logging.getLogger(__name__)

_PARTS_OF_A_RANK = 4
"""Parts of the harvest for each rank: several, so that a rank that is slow, or has shards that exist already, does not keep the others waiting."""


class Helper:
    """A rank other than 0, which takes shares of what rank 0 announces."""

    TASKS = ("harvest", "dictionaries", *LatentHelper.TASKS)
    """Names of the tasks that it carries out."""

    def __init__(self) -> None:
        self._latents = LatentHelper()
        self._pair: ModelPair | None = None

    def carry_out(self, task: Task) -> None:
        """Take shares of a task, together with rank 0."""
        if task["name"] in self._latents.TASKS:
            self._latents.carry_out(task)
            return
        folder, config = run_of(task)
        set_threads(config)
        folder.use_date()
        if task["name"] == "harvest":
            self._pair, documents = read_inputs(folder, config)
            share_harvest(folder, config, self._pair, documents, task["parts"])
            if not isinstance(config.activations, StreamedActivations):
                self._pair = None  # which frees its memory: training reads the disk
        else:
            share_controls(folder, config, _shared(open_source(folder, config, self._pair)))


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
    announce("harvest", folder, config, parts=parts)
    share_harvest(folder, config, pair, documents, parts)
    join_parts(folder)


def train_over_ranks(folder: RunFolder, config: RunConfig, source: TokenSource) -> TokenSource:
    """Let the other ranks begin with the controls, if there are any, and return the source for the main dictionary, which rank 0 trains.

    How the training of a run is divided is decided by `ranks_work_apart`. `train_controls` has to follow, once the main dictionary is trained.
    """
    if not ranks_work_apart(config):
        return source
    announce("dictionaries", folder, config)
    return _shared(source)


def _shared(source: TokenSource) -> TokenSource:
    """Return the source of all ranks: a stream is computed by all together."""
    return source.share(process_group()) if isinstance(source, StreamedSource) else source
