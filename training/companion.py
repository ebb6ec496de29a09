"""Train another dictionary of a run, in a run folder of its own, on tokens that are there already."""

import logging
import shutil

from crosscoder.activations.linear_map import LinearMap
from crosscoder.config import RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun

from .sources import TokenSource
from .trainer import Trainer

logger = logging.getLogger(__name__)


def is_trained(folder: RunFolder) -> bool:
    """Whether its training is finished."""
    return bool(folder.read_manifest().get("stages", {}).get("train", {}).get("finished"))


def train_companion(
    config: RunConfig, source: TokenSource, made_as: dict[str, object], start: Crosscoder | None = None
) -> RunFolder:
    """The run folder at `config.output` with a trained dictionary and its evaluation; a finished one is left as it is.

    Args:
        made_as: What its provenance says besides how it reads a pair.
        start: See `Trainer`.
    """
    own = RunFolder.create(config.output, config)
    if is_trained(own):
        return own
    logger.info("%s: training", "/".join(config.output.parts[-2:]))
    with own.stage("train") as stage:
        trainer = Trainer(config, source, own, WandbRun(None), start)
        crosscoder = trainer.fit()
        fit_linear_map(own, config, source)
        own.update_manifest("evaluation", dict(trainer.held_out.measure(crosscoder)))
        save_crosscoder(crosscoder, own.crosscoder, {"reads": config.crosscoder.reads, **made_as})
        stage["tokens"] = trainer.state.n_tokens
    # A finished one is not trained on, and its checkpoints can be large.
    shutil.rmtree(own.checkpoints)
    return own


def fit_linear_map(folder: RunFolder, config: RunConfig, source: TokenSource) -> None:
    """Write the maps between two models that share no space, as far as there are any."""
    if config.crosscoder.reads != "paired":
        return
    linear_map = LinearMap.fit(source.sample(config.training.calibration_tokens), source.d_models)
    if linear_map is not None:
        linear_map.save(folder.linear_map)
