"""Where the files of a source are: on this machine, or fetched from the Hub, a release of SAELens, or an artifact of wandb."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...config.dictionary_source import DictionarySource
from ...errors import ConfigError
from . import saelens_releases, wandb_artifacts
from .hub import download, is_hub_id


@dataclass(frozen=True)
class Place:
    """Files on this machine."""

    path: Path
    revision: str | None = None
    """The commit on the Hub, or the version of an artifact."""
    described: dict[str, Any] = field(default_factory=dict)
    """What is known of the source besides its files."""
    called: str | None = None
    """What messages call it; None if the path says it."""


@contextmanager
def located(source: DictionarySource) -> Iterator[Place]:
    """Yield where the files of a source are; what was fetched to be read once is removed afterwards.

    Raises:
        ConfigError: There is nothing of that name, or an option has no effect on it.
        FormatError: It cannot be fetched.
        ResourceError: An account is needed.
    """
    name = source.source
    if is_hub_id(name):
        yield Place(*download(name, source.revision, source.subfolder))
        return
    if source.revision is not None:
        raise ConfigError(f"revision: has no effect on {name}, which is no Hub id; remove it")
    if name.startswith(saelens_releases.SCHEME):
        if source.subfolder is not None:
            raise ConfigError(f"subfolder: has no effect on {name}, which names one SAE; remove it")
        with TemporaryDirectory() as folder:
            found = saelens_releases.fetch(name.removeprefix(saelens_releases.SCHEME), Path(folder))
            yield Place(Path(folder), *found, called=name)
        return
    if name.startswith(wandb_artifacts.SCHEME):
        path, version = wandb_artifacts.fetch(name.removeprefix(wandb_artifacts.SCHEME))
        yield Place(_inside(path, source.subfolder), version)
        return
    yield Place(_inside(Path(name).expanduser(), source.subfolder))


def _inside(path: Path, subfolder: str | None) -> Path:
    return path / subfolder if subfolder else path
