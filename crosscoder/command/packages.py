"""Functions that need both `training` and `analysis`. The two do not import each other, so both are loaded by name and on demand, and
`--help` works without them. Functions that run in other processes are defined here, because a new process cannot import the command's
module.
"""

import importlib.util
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..config import RunConfig
from ..errors import CrosscoderError
from ..run.folder import RunFolder


def module(name: str) -> ModuleType:
    """Import a module of this project, never one of the same name from the working directory."""
    package = name.partition(".")[0]
    ours = Path(__file__).resolve().parents[2] / package
    spec = importlib.util.find_spec(package)
    folders = (
        [] if spec is None else [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]
    )
    if ours not in folders[:1]:
        origin = spec.origin if spec is not None else None
        found = origin or (str(folders[0]) if folders else "nothing")
        raise CrosscoderError(
            f"{package}: Python finds {found}, expected {ours}; "
            "use the console command `crosscoder`, or run from another folder"
        )
    return import_module(name)


def train_and_analyze(config: RunConfig) -> RunFolder:
    """Train and analyze one run."""
    module("training.stages").train(config)
    folder = RunFolder.open(config.output)
    module("analysis.stages").analyze(folder, folder.read_config())
    return folder


def choose_k(config: RunConfig, ks: Sequence[int]) -> int:
    """Return the k that a sweep over `ks` chooses."""
    return int(module("training.stages").sweep(config, ks).chosen.k)
