"""A dictionary that is loaded instead of trained (`crosscoder.load`): what it reads has to fit the run, and its shape becomes the run's."""

import logging
from dataclasses import dataclass
from typing import Any

from crosscoder.activations.batch import have_difference
from crosscoder.config import CrosscoderConfig, DictionaryConfig, RunConfig
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects.import_dictionary import import_dictionary
from crosscoder.dictionary.sparsity import BatchTopKSparsity
from crosscoder.dictionary.views import View
from crosscoder.errors import ConfigError
from crosscoder.run.controls import not_available
from crosscoder.runtime.device import resolve_device

from .evaluation import HeldOutMeter
from .sources import TokenSource

logger = logging.getLogger(__name__)

_SETTING = "crosscoder.load"


@dataclass(frozen=True)
class LoadedDictionary:
    """A dictionary, ready to be analyzed, and the settings of the run with its shape."""

    crosscoder: Crosscoder
    config: RunConfig
    held_out: HeldOutMeter
    provenance: dict[str, Any]
    record: dict[str, Any]
    """What the manifest says of it: its source, its threshold, and the controls that it cannot have."""


def load_dictionary(config: RunConfig, source: TokenSource) -> LoadedDictionary:
    """Load the dictionary of `crosscoder.load`; one without a threshold is calibrated on held-out tokens.

    Raises:
        ConfigError: Its files leave something open that was not given, or it does not fit the activations or other settings of the run.
        FormatError: Its files are missing, damaged, in no known dialect, or not representable.
    """
    wanted = config.crosscoder.load
    assert wanted is not None
    imported = import_dictionary(wanted)
    for note in imported.notes:
        logger.info("%s: %s", _SETTING, note)
    section = _section(config.crosscoder, imported.crosscoder.config, source.d_models)
    crosscoder = imported.crosscoder.to(resolve_device("training.device", config.training.device))
    held_out = HeldOutMeter(source, section.reads, config.training.calibration_tokens)
    calibrated = None
    if isinstance(crosscoder.sparsity, BatchTopKSparsity) and crosscoder.sparsity.threshold.isnan():
        held_out.calibrate(crosscoder)
        calibrated = len(held_out.calibration)
        logger.info(
            "%s: threshold %g, calibrated on %d held-out tokens",
            _SETTING,
            float(crosscoder.sparsity.threshold),
            calibrated,
        )
    missing = not_available(config)
    if missing:
        logger.info(
            "%s: controls %s are not available, because each needs a training like that of the dictionary",
            _SETTING,
            ", ".join(missing),
        )
    record = {
        **imported.origin,
        "calibrated_tokens": calibrated,
        "controls_not_available": missing,
    }
    return LoadedDictionary(
        crosscoder,
        config.model_copy(update={"crosscoder": section}),
        held_out,
        {"imported": record},
        record,
    )


def with_shape(config: RunConfig, d_models: tuple[int, ...]) -> RunConfig:
    """Return the settings with the shape of the dictionary of `crosscoder.load`. Raises as `load_dictionary` does."""
    assert config.crosscoder.load is not None
    found = import_dictionary(config.crosscoder.load).crosscoder.config
    return config.model_copy(update={"crosscoder": _section(config.crosscoder, found, d_models)})


def _section(asked: DictionaryConfig, found: CrosscoderConfig, d_models: tuple[int, ...]) -> DictionaryConfig:
    """Return the section `crosscoder` with the shape of the dictionary, which has to fit the models and the settings that are given."""
    assert asked.load is not None
    reads = _fitting_view(asked.load.source, found, d_models)
    section = DictionaryConfig(
        load=asked.load, reads=reads, n_latents=found.n_latents, sparsity=found.sparsity
    )
    _require_same(asked, section, asked.load.source)
    return section


def _fitting_view(source: str, found: CrosscoderConfig, d_models: tuple[int, ...]) -> View:
    """Return how the dictionary reads the models of the run. Raises ConfigError if it does not fit them."""
    width = found.d_models[0]
    match found.model_names:
        case ("pooled",) | ("difference",):
            reads: View = "pooled" if found.model_names == ("pooled",) else "difference"
            fits = len(d_models) == 2 and have_difference(d_models) and d_models[0] == width
        case _:
            reads = "paired"
            fits = found.d_models == d_models and found.model_names == model_names(len(d_models))
    if not fits:
        axis = ", ".join(
            f"{name} {size}" for name, size in zip(found.model_names, found.d_models, strict=True)
        )
        models = ", ".join(
            f"{name} {size}" for name, size in zip(model_names(len(d_models)), d_models, strict=True)
        )
        raise ConfigError(
            f"{_SETTING}: {source} reads {axis} wide, but the models of this run are {models} wide; give the models and the hookpoint that "
            "the dictionary was trained on"
        )
    return reads


def _require_same(asked: DictionaryConfig, found: DictionaryConfig, source: str) -> None:
    """Refuse settings of the section that differ from the dictionary; those left at their defaults follow from it."""
    defaults = DictionaryConfig()
    for name in ("reads", "n_latents", "sparsity"):
        value = getattr(asked, name)
        if value not in (getattr(defaults, name), getattr(found, name)):
            raise ConfigError(
                f"crosscoder.{name}: {value} is given, but {source} has {getattr(found, name)}; remove the setting"
            )
