"""Copies of runs at URLs: the verb that makes and fetches them, and the option that keeps one up to date."""

from pathlib import Path
from typing import Annotated

import typer

from ..config.stores import is_url, usable_url
from ..errors import ConfigError
from ..run.folder import RunFolder
from ..run.mirror import Mirror
from .arguments import print_result

MirrorOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="copy the run to this URL after each stage and with each checkpoint, e.g. s3://bucket/name; `crosscoder copy URL FOLDER` fetches it",
    ),
]


def mirror_url(url: str | None) -> str | None:
    """Return the URL of the option `--mirror`. Raises ConfigError if it is none, or may hold credentials."""
    return None if url is None else _usable("--mirror", url)


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="run folder, or the URL of a copy")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL, e.g. s3://bucket/name, or a new folder")],
    checkpoints: Annotated[
        bool,
        typer.Option(help="of a URL: also fetch what only a training that goes on needs"),
    ] = True,
) -> None:
    """Copy a run to a URL, or from there into a folder."""
    if is_url(source) == is_url(target):
        raise ConfigError(
            f"copy: {'both' if is_url(source) else 'none'} of FROM and TO is a URL; give a run folder and a URL such as s3://bucket/name"
        )
    if is_url(source):
        Mirror(_usable("FROM", source), "FROM").fetch(Path(target), checkpoints=checkpoints)
        print_result("run", Path(target))
        return
    url = _usable("TO", target)
    folder = RunFolder.find(Path(source))
    with folder.locked():
        folder.check_files()
        Mirror(url, "TO").put(folder.path)
    print_result("copy", url)


def _usable(name: str, url: str) -> str:
    try:
        return usable_url(url)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
