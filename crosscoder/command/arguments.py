"""What the verbs share: their arguments, read into settings and run folders, and the line that reports a result."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..config import RunConfig, store_settings
from ..config.behavior import Behavior, Judged, UserFunction
from ..config.chat_model import EndpointModel
from ..config.hook_names import hook_names
from ..config.load import load_config
from ..config.stores import OF_A_PROVIDER, OF_THIS_MACHINE, scheme_of
from ..config.usable_values import is_folder
from ..errors import ConfigError
from ..run.folder import RunFolder
from ..run.settings_record import RESULT_NEUTRAL_SETTINGS
from .packages import module

Target = Annotated[
    Path, typer.Argument(metavar="CONFIG_OR_RUN", help="YAML file of settings, or a run folder")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="settings to override, e.g. training.lr=3e-4")
]


_NAME_THE_STORE = ("activations.store.url=", "activations.store=", "activations=")
"""How a command line begins a word that names the URL of the activations."""


def load_settings(target: Path, overrides: list[str] | None, *, uploads: bool = False) -> RunConfig:
    """Load the settings of a file or of a run folder; `output` is then the current path of that folder. Hookpoints are module paths
    afterwards, so that a run is the same run by whichever name.

    Args:
        uploads: The verb writes activations to the URL that the settings name.

    Raises:
        PairError: A hookpoint by a name of TransformerLens is not in a model, or the model cannot be loaded.
        ConfigError: As `load_config`, or a run folder, which may come from someone else, asks to run Python of a checkpoint, to send
            activations to a URL, or to ask a host that it names.
    """
    words = overrides or []
    if not is_folder(target, str(target)):
        return _with_module_paths(load_config(target, words))
    config = load_config(RunFolder.find(target).config, words)
    if config.pair is not None:
        for source in config.pair.checkpoints:
            if source.trust_remote_code:
                raise ConfigError(
                    f"{target}: trust_remote_code of {source.model!r} runs the Python that the checkpoint brings along, and a run folder may come "
                    "from someone else; if you trust it, give the YAML file of your settings in place of the run folder"
                )
    if not any(word.startswith(_NAME_THE_STORE) for word in words):
        _require_own_store(target, config, uploads)
    config = _with_module_paths(config)
    if any(word.startswith("output=") for word in words):
        return config
    return config.model_copy(update={"output": target})


def _require_own_store(target: Path, config: RunConfig, uploads: bool) -> None:
    """Refuse a URL for activations that a run folder alone names, if activations would be written there or if it names the host to ask."""
    store = store_settings(config.activations)
    if store is None:
        return
    if uploads:
        does = f"activations of your models and your texts would be written to {store.url}"
    elif scheme_of(store.url) not in (*OF_A_PROVIDER, *OF_THIS_MACHINE):
        does = f"they would be read from a host that the folder chose, {store.url}"
    else:
        return
    raise ConfigError(
        f"{target}: {does}, and a run folder may come from someone else; if you trust that place, give activations.store.url={store.url} "
        "on the command line, or the YAML file of your settings in place of the run folder"
    )


def _with_module_paths(config: RunConfig) -> RunConfig:
    if config.pair is None or not hook_names(config.pair):
        return config
    settled = module("crosscoder.language_models.hook_places").settle_hook_names(config.pair)
    return config.model_copy(update={"pair": settled})


@contextmanager
def reading(target: Path, overrides: list[str] | None, remakes: str | None = None) -> Iterator[RunFolder]:
    """Open a finished run to read; others may read it too, but not write results meanwhile. Overrides of its settings are refused,
    since reading cannot apply them. `remakes`: see `RunFolder.open`.
    """
    config = load_settings(target, overrides)
    folder = RunFolder.find(config.output)
    with folder.locked(shared=True):
        folder = RunFolder.open(config.output, remakes)
        folder.require_same(config, RESULT_NEUTRAL_SETTINGS)
        folder.require_finished()
        yield folder


@contextmanager
def working(target: Path, verb: str) -> Iterator[RunFolder]:
    """Open a run for a verb that adds results to it; no other process may work in it meanwhile."""
    folder = RunFolder.find(target)
    with folder.locked():
        yield RunFolder.open(target, remakes=verb)


def load_behaviors(
    paths: Iterable[Path], overrides: Sequence[str] = (), *, named_by: Path | None = None
) -> list[Behavior]:
    """Load the settings of behaviors from their files.

    Args:
        named_by: The run folder whose files name these, or None if the user named them: on the command line, or in a file of settings that is
            given there. A run folder may come from someone else, so what it names runs no Python and sends nothing away.

    Raises:
        ConfigError: As `load_config`, or a behavior that a run folder names has a metric of kind callable or a judge at an endpoint.
    """
    found = []
    for path in paths:
        behavior = load_config(path, overrides, Behavior)
        if named_by is not None and (does := _needs_trust(behavior)) is not None:
            raise ConfigError(
                f"{path}: the metric {does}, and this file is named by the run folder {named_by}, which may come from someone else; if you "
                f"trust it, name it yourself: crosscoder attribute {named_by} {path}"
            )
        found.append(behavior)
    return found


def _needs_trust(behavior: Behavior) -> str | None:
    """What a behavior does that only its user may ask for; None if nothing."""
    match behavior.metric:
        case UserFunction(file=file):
            return f"runs the Python file {file}"
        case Judged(judge=EndpointModel(url=url)):
            return f"sends answers to {url}"
        case _:
            return None


def activations_of(folder: RunFolder, config: RunConfig) -> Path | str:
    """Return where the activations of a run lie: a folder, or a URL."""
    store = store_settings(config.activations)
    return folder.activations if store is None else store.url


def run_folder_of(target: Path) -> Path | None:
    """Return the target if it is a run folder, whose settings may come from someone else; None if it is a file of settings."""
    return target if is_folder(target, str(target)) else None


def first_word(words: list[str] | None, default: str) -> tuple[str, list[str]]:
    """Split words into the leading word that is not an override (or the default) and the overrides."""
    first, *others = words or [default]
    return (default, [first, *others]) if "=" in first else (first, others)


def whole_numbers(name: str, words: str | None, example: str) -> list[int]:
    """Parse whole numbers above 0, separated by commas; empty if nothing is given."""
    try:
        numbers = [int(word) for word in words.split(",")] if words else []
    except ValueError:
        raise ConfigError(f"{name}: {words!r} is not a list of numbers; give e.g. {example}") from None
    if any(number < 1 for number in numbers):
        raise ConfigError(f"{name}: {words!r} contains a number below 1; give e.g. {example}")
    return numbers


def print_result(name: str, value: Path | str) -> None:
    """Print one line of results."""
    print(f"{name:<12} {value}", flush=True)
