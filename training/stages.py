"""The stages that make a dictionary, as the command calls them: `doctor`, `harvest`, `train` and `sweep`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crosscoder.config import CachedActivations, FileActivations, RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.open_settings import with_choices
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import wandb_run
from crosscoder.runtime.device import take_gpu
from crosscoder.runtime.files import read_json, remove_file, write_atomic
from crosscoder.runtime.parts import Part
from crosscoder.text.documents import Documents
from crosscoder.text.text_files import check_sources, read_file

from .companion_dictionaries import fit_linear_map, is_trained
from .controls import train_controls
from .evaluation import HeldOutMeter
from .harvest import describe_data
from .harvest_parts import (
    folder_of_part,
    harvest_alone,
    harvest_part,
    join_parts,
    parts_of_group,
    require_joined,
)
from .inputs import pinned_text, read_inputs, set_threads
from .latent_division import latent_ranks
from .loaded_dictionary import load_dictionary
from .memory import require_memory
from .outside_activations import FilesRequest, check_folders, open_outside, read_texts, write_token_ids
from .rank_work import harvest_over_ranks, train_over_ranks
from .recipe import candidate_ks, choices, k_is_open, resolved, with_chosen, with_k
from .sources import TokenSource, open_source
from .splice import cross_entropy
from .store_source import StoreSource
from .survey import survey
from .sweep import Sweep, brief_sweep, default_ks
from .sweep import sweep as sweep_over
from .trainer import Trainer

if TYPE_CHECKING:
    from .doctor import MeasureReading

logger = logging.getLogger(__name__)


def doctor(
    config: RunConfig, behaviors: Sequence[Behavior] = (), reading: "MeasureReading | None" = None
) -> str:
    """Check the pair, the texts and the machine before any long work; return the text to print. Arguments as for `doctor.doctor`."""
    from .doctor import doctor as check

    set_threads(config)
    check_texts(config, behaviors)
    return check(config, behaviors, reading)


def harvest(config: RunConfig, request: FilesRequest | None = None) -> None:
    """Write the activations of all models to disk: those of all tokens, or of held-out tokens alone if training streams.

    Args:
        request: Files of another program, which computed the activations; None: the models compute them.
    """
    set_threads(config)
    check_texts(config)
    _check_request(config, request)
    folder, config = _open(config)
    if _comes_from_files(config):
        return
    if request is None:
        _harvest(folder, config)
        return
    join_parts(folder, config, alone=True)
    harvest_alone(folder, config, *open_outside(folder, config, request))


def harvest_one_part(
    config: RunConfig, part: Part, local_rank: int = 0, request: FilesRequest | None = None
) -> None:
    """Write the activations of one part of the documents; parts may run at once, and elsewhere.

    Args:
        local_rank: Number of this process among those that a launcher started on this machine: each takes a GPU of its own, if there are several.
        request: As for `harvest`.
    """
    set_threads(config)
    check_texts(config)
    _check_request(config, request)
    if _comes_from_files(config):
        return
    if local_rank:
        take_gpu(local_rank)
    with folder_of_part(config, part) as folder:
        config = _with_dtypes_of(folder, config)
        if request is None:
            harvest_part(folder, config, *read_inputs(folder, config), part)
            return
        pair, documents, outside = open_outside(folder, config, request)
        harvest_part(folder, config, pair, documents, part, outside)


def export_token_ids(config: RunConfig, target: Path) -> dict[tuple[str, ...], Path]:
    """Write the token ids of the documents for another program that computes activations; see `write_token_ids`. No weights are loaded."""
    check_texts(config)
    _require_harvest(config, "--token-ids")
    folder, config = _open(config)
    documents, texts = read_texts(folder, config)
    describe_data(folder, config, documents)
    assert config.pair is not None
    return write_token_ids(target, documents, texts, len(config.pair.sources))


def join(config: RunConfig) -> None:
    """Join the finished parts of a harvest. Raises FormatError, which names it, if one is missing."""
    require_joined(RunFolder.create(config.output, config), config)


def check_processes(config: RunConfig) -> None:
    """Check, before any long work, that as many processes are at work as share a dictionary. Raises ConfigError otherwise."""
    if config.crosscoder.load is None:
        latent_ranks(config)


def train(config: RunConfig) -> None:
    """Train the dictionary, resuming an interrupted run of the same folder. Harvests first if needed."""
    check_processes(config)
    set_threads(config)
    check_texts(config)
    folder, config = _open(config)
    pair, documents = None, None
    if not isinstance(config.activations, FileActivations):
        pair, documents = _harvest(folder, config)
        _survey(folder, config, pair, documents)
    source = open_source(folder, config, pair)
    if config.crosscoder.load is not None:
        _load(folder, config, source, pair, documents)
        return
    folder, config = settle(folder, config, source)
    require_memory(config, source.d_models, source.n_train_tokens, source.held_out().n_tokens)
    with wandb_run(folder, config) as wandb, folder.stage("train") as stage:
        wandb.settings(config)
        if isinstance(source, StoreSource):
            stage["order"] = source.describe_order()
        source = train_over_ranks(folder, config, source)
        trainer = Trainer(config, source, folder, wandb)
        crosscoder = trainer.fit()
        stage["tokens"] = trainer.state.n_tokens
        stage["steps"] = trainer.state.step
        stage["data_wait_share"] = round(trainer.waiting.share(), 4)
        save_crosscoder(crosscoder, folder.crosscoder, provenance(folder, config))
        fit_linear_map(folder, config, source)
        wandb.summary(evaluate(folder, config, crosscoder, trainer.held_out, source, pair, documents))
        # Frees its optimizer state and gradients before the controls allocate theirs.
        del trainer, crosscoder
        stage["controls"] = dict(train_controls(folder, config, source))
        if config.wandb.log_weights:
            address = wandb.artifact(
                f"crosscoder-{wandb.id}",
                "model",
                folder.crosscoder,
                config.crosscoder.model_dump(mode="json"),
            )
            if address is not None:
                logger.info("train: the dictionary can be loaded as %s", address)
                folder.update_manifest("wandb", {"dictionary": address})


def sweep(config: RunConfig, ks: Sequence[int], widths: Sequence[int] = ()) -> Sweep:
    """Train at several k and widths, and choose the smallest at which the explained difference levels off."""
    check_processes(config)
    set_threads(config)
    check_texts(config)
    if config.crosscoder.load is not None:
        raise ConfigError(
            "crosscoder.load: the dictionary is trained already, so there is nothing to sweep; remove it"
        )
    folder, config = _open(config)
    pair = None
    if not isinstance(config.activations, FileActivations):
        pair, _ = _harvest(folder, config)
    source = open_source(folder, config, pair)
    k = getattr(config.crosscoder.sparsity, "k", None)
    if not ks:
        settled = resolved(config, source.d_models, source.n_train_tokens)
        ks = candidate_ks(settled, source.d_models) if k is None else default_ks(k)
    return sweep_over(folder, config, source, ks, widths)


def check_texts(config: RunConfig, behaviors: Sequence[Behavior] = ()) -> None:
    """Check that the texts exist and begin as they should, before models are loaded.

    Args:
        behaviors: Behaviors whose prompts are checked too.

    Raises:
        ConfigError, DataError: A text is missing, or does not begin as it should.
    """
    folder = RunFolder(config.output)
    if config.text is not None:
        check_sources(pinned_text(config.text, folder) if folder.manifest.is_file() else config.text)
    for behavior in behaviors:
        for name, place in (("prompts", behavior.prompts), ("elsewhere", behavior.elsewhere)):
            if isinstance(place, Path):
                read_file(place, f"{name} of the behavior {behavior.name!r}", limit=1)


def settle(folder: RunFolder, config: RunConfig, source: TokenSource) -> tuple[RunFolder, RunConfig]:
    """Choose every setting that the run leaves open, log it, and write all settings to config.yaml.

    A run whose training started keeps what it chose then: its stored settings.
    """
    if folder.training_started():
        return folder, with_choices(config, folder.read_config())
    found = choices(config, source.d_models, source.n_train_tokens)
    for choice in found:
        logger.info("train: %s", choice)
    config = with_chosen(config, found)
    if k_is_open(config):
        k, why = brief_sweep(folder, config, source)
        logger.info("train: crosscoder.sparsity.k %d (%s)", k, why)
        config = with_k(config, k)
    return RunFolder.create(folder.path, config), config


def _open(config: RunConfig) -> tuple[RunFolder, RunConfig]:
    """Create the run folder or continue its run; return the settings with the dtypes that the run has."""
    folder = RunFolder.create(config.output, config)
    return folder, _with_dtypes_of(folder, config)


def _with_dtypes_of(folder: RunFolder, config: RunConfig) -> RunConfig:
    """Return the settings with the dtypes of the run, which may have begun on a machine where others are fast."""
    return with_choices(config, folder.read_config(), ())


def _check_request(config: RunConfig, request: FilesRequest | None) -> None:
    """Check, before any long work, that activations can be taken from files."""
    if request is not None:
        _require_harvest(config, "--from-files")
        check_folders(config, request)


def _require_harvest(config: RunConfig, option: str) -> None:
    """Refuse an option that belongs to a harvest of all tokens to the disk. Raises ConfigError."""
    if not isinstance(config.activations, CachedActivations):
        raise ConfigError(
            f"activations.kind: {option} makes a harvest of all tokens, which this run does not have: it is {config.activations.kind}; set it "
            "to cache"
        )


def _comes_from_files(config: RunConfig) -> bool:
    """Whether there is nothing to harvest, which is told."""
    if not isinstance(config.activations, FileActivations):
        return False
    logger.info("harvest: nothing to do, because the activations come from files")
    return True


def _harvest(folder: RunFolder, config: RunConfig) -> tuple[ModelPair, Documents]:
    """Load the pair and its documents, and harvest whatever the settings ask for and the disk lacks."""
    if not parts_of_group(folder):
        # First, so that a part that is not finished is named before any long work.
        join_parts(folder, config, alone=True)
    pair, documents = read_inputs(folder, config)
    harvest_over_ranks(folder, config, pair, documents)
    return pair, documents


def _survey(folder: RunFolder, config: RunConfig, pair: ModelPair, documents: Documents) -> None:
    """Write survey.json, unless the file already covers the number of documents that the settings ask for."""
    wanted = config.survey.documents
    if wanted == 0:
        remove_file(folder.survey)
        return
    if (
        folder.survey.is_file()
        and read_json(folder.survey, "remove it and run crosscoder run again")["asked"] == wanted
    ):
        return
    with folder.stage("survey") as stage:
        found = {"asked": wanted, **survey(pair, documents, wanted)}
        stage["tokens"] = found["n_tokens"]
        write_atomic(folder.survey, json.dumps(found, indent=1, allow_nan=False))


def _load(
    folder: RunFolder,
    config: RunConfig,
    source: TokenSource,
    pair: ModelPair | None,
    documents: Documents | None,
) -> None:
    """Take the dictionary that the settings name, in place of a training: calibrate it if it has no threshold, save and evaluate it."""
    if is_trained(folder):
        return
    loaded = load_dictionary(config, source)
    config = loaded.config
    folder = RunFolder.create(folder.path, config)
    with wandb_run(folder, config) as wandb, folder.stage("train") as stage:
        wandb.settings(config)
        folder.update_manifest("loaded", loaded.record)
        save_crosscoder(
            loaded.crosscoder,
            folder.crosscoder,
            provenance(folder, config) | loaded.provenance | {"training": None},
        )
        fit_linear_map(folder, config, source)
        wandb.summary(evaluate(folder, config, loaded.crosscoder, loaded.held_out, source, pair, documents))
        stage["tokens"] = 0


def evaluate(
    folder: RunFolder,
    config: RunConfig,
    crosscoder: Crosscoder,
    held_out: HeldOutMeter,
    source: TokenSource,
    pair: ModelPair | None,
    documents: Documents | None,
) -> dict[str, object]:
    """Evaluate the finished dictionary on held-out tokens, write the result to the manifest and return it.

    Cross-entropy needs the models and their texts, so it is missing for activations from files.
    """
    values: dict[str, object] = dict(held_out.measure(crosscoder))
    if pair is not None and documents is not None:
        mean = source.sample(config.training.calibration_tokens).float().mean(dim=0)
        values["ce"] = cross_entropy(pair, crosscoder, documents, config.crosscoder.reads, mean)
    folder.update_manifest("evaluation", values)
    return values


def provenance(folder: RunFolder, config: RunConfig) -> dict[str, object]:
    """What produced a dictionary: stored with its weights, so that the folder can be used without the run."""
    manifest = folder.read_manifest()
    started = {name: manifest[name] for name in ("started_from",) if name in manifest}
    return {
        **started,
        "reads": config.crosscoder.reads,
        "pair": manifest.get("pair"),
        "data": manifest.get("data"),
        "tokens": config.tokens.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json"),
        "seed": config.seed,
        "versions": manifest.get("versions"),
    }
