"""Train further dictionaries of a run (controls, points of a sweep), each in its own run folder, on the tokens that the run
already harvested."""

import logging

from crosscoder.activations.linear_map import LinearMap
from crosscoder.config import RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun
from crosscoder.runtime.files import remove_folder

from .memory import require_memory
from .recipe import resolved
from .sources import TokenSource
from .trainer import Trainer

logger = logging.getLogger(__name__)


def is_trained(folder: RunFolder) -> bool:
    """Whether the dictionary of a run folder is fully trained."""
    return bool(folder.read_manifest().get("stages", {}).get("train", {}).get("finished"))


def train_companion(
    config: RunConfig, source: TokenSource, provenance: dict[str, object], start: Crosscoder | None = None
) -> RunFolder:
    """Train and evaluate a dictionary in the run folder at `config.output`, unless it is already finished. What the settings leave
    open is chosen as for a run, except k.

    Args:
        provenance: Entries of the dictionary's provenance, in addition to its view.
        start: See `Trainer`.
    """
    config = resolved(config, source.d_models, source.n_train_tokens)
    folder = RunFolder.create(config.output, config)
    if is_trained(folder):
        remove_folder(folder.checkpoints)  # still there if the process was killed after training
        folder.files.seal()
        return folder
    require_memory(config, source.d_models, source.n_train_tokens, source.held_out().n_tokens)
    logger.info("train: dictionary %s", "/".join(config.output.parts[-2:]))
    with folder.stage("train") as stage:
        trainer = Trainer(config, source, folder, WandbRun(None), start)
        crosscoder = trainer.fit()
        fit_linear_map(folder, config, source)
        folder.update_manifest("evaluation", dict(trainer.held_out.measure(crosscoder)))
        save_crosscoder(crosscoder, folder.crosscoder, {"reads": config.crosscoder.reads, **provenance})
        stage["tokens"] = trainer.state.n_tokens
    # Training is finished, and checkpoints can be large.
    remove_folder(folder.checkpoints)
    folder.files.seal()
    return folder


def fit_linear_map(folder: RunFolder, config: RunConfig, source: TokenSource) -> None:
    """Fit and save the linear map between two models that share no space; a paired dictionary alone needs one."""
    if config.crosscoder.reads != "paired":
        return
    linear_map = LinearMap.fit(source.sample(config.training.calibration_tokens), source.d_models)
    if linear_map is not None:
        linear_map.save(folder.linear_map)
