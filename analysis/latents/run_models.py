"""The models and the dictionary of a finished run, for whatever has to run the models again."""

from typing import NamedTuple

from crosscoder.config import FileActivations, RunConfig
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.device import sparse_device

from .dictionary_view import DictionaryView, view_of


class RunModels(NamedTuple):
    """Both models of a run, and its dictionary."""

    pair: ModelPair
    view: DictionaryView


def require_models(folder: RunFolder, config: RunConfig, purpose: str) -> None:
    """Raise ConfigError where a run has no models, which `purpose` needs: its activations came from files."""
    if config.pair is None or isinstance(config.activations, FileActivations):
        raise ConfigError(
            f"{folder.path}: its activations came from files, but {purpose} needs the models themselves; make a run with a pair"
        )


def load_models(folder: RunFolder, config: RunConfig) -> RunModels:
    """Load the dictionary and both models.

    Raises:
        ConfigError, FormatError, PairError: Dictionary or models cannot be used.
    """
    assert config.pair is not None  # `require_models` sees to it
    crosscoder = load_crosscoder(folder.crosscoder, sparse_device("training.device", config.training.device))
    pair = load_pair(config.pair)
    return RunModels(pair, view_of(crosscoder, pair.d_models, config.crosscoder.reads))
