"""A copy of a run folder at a URL, from which another machine can read the run or go on with it.

    URL/objects/DIGEST   the content of a file
    URL/run.json         last: name, digest and size of every file

A run works in its folder, which has locks, memory maps and files that grow; the copy is a snapshot of it. A file is found by its digest, so
a new snapshot leaves the files of the last one as they are until run.json is replaced: what is cut short never counts.
"""

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config.activations import CachedActivations
from ..config.load import load_config
from ..config.stores import StoreUrl
from ..errors import ConfigError, FormatError, ResourceError
from ..runtime.digests import content_digest, file_digest, known_digest
from ..runtime.files import make_folder
from ..runtime.json_text import json_of
from ..runtime.replacement import replace
from ..runtime.url_store import TRANSFERS, UrlStore

logger = logging.getLogger(__name__)

INDEX, OBJECTS = "run.json", "objects"
MARK = ".mirror"
"""File in a run folder: the digests of the run.json that its copy may have. Who finds another one there must not replace it."""

_LARGEST_INDEX = 1 << 26
_NOT_COPIED = ("wandb/", "activations/train/", "activations/held_out/", "activations/parts/")
"""What has a place of its own (shards: `activations.store`), or is never read."""


class CopiedFile(BaseModel):
    """A file of a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    n_bytes: Annotated[int, Field(ge=0, le=1 << 44)]

    @property
    def object(self) -> str:
        """Its name at the URL."""
        return f"{OBJECTS}/{self.digest}"


class Snapshot(BaseModel):
    """run.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    files: dict[str, CopiedFile]


class Mirror:
    """The copy of a run at a URL."""

    def __init__(self, url: StoreUrl, setting: str) -> None:
        """`setting` is what named the URL, for messages."""
        self.url = url
        self._files = UrlStore(url, setting)

    def put(self, run: Path) -> None:
        """Copy a run folder, in which no other process works. Files that are there already are not sent again.

        Raises:
            ConfigError: The URL holds another run, or this one as another machine went on with it.
            ResourceError: It cannot be reached.
        """
        paths = dict(files_of(run))
        files = {
            name: CopiedFile(digest=known_digest(path), n_bytes=path.stat().st_size)
            for name, path in paths.items()
        }
        index = Snapshot(files=files).model_dump_json(indent=1).encode()
        replaced = self._require_own(run, content_digest(index))
        before = [] if replaced is None else [content_digest(replaced)]
        there = self._files.sizes(OBJECTS)
        sent = {
            file.object: paths[name] for name, file in files.items() if there.get(file.object) != file.n_bytes
        }
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="copy") as executor:
            list(executor.map(self._files.upload, sent, sent.values()))
        for name, file in files.items():
            if known_digest(paths[name]) != file.digest:
                raise ResourceError(
                    f"{paths[name]}: changed while it was copied; copy the run once no process works in it"
                )
        self._mark(run, [*before, content_digest(index)])
        self._files.write(INDEX, index)
        self._mark(run, [content_digest(index)])
        # Nothing that this run did not copy there.
        gone = (there.keys() & self._listed(replaced)) - {file.object for file in files.values()}
        self._files.remove(sorted(gone))
        logger.info("mirror: %d of %d files sent to %s", len(sent), len(files), self.url)

    def fetch(self, folder: Path, *, checkpoints: bool = True) -> None:
        """Copy the run into a new folder; a copy that was interrupted goes on.

        Args:
            checkpoints: Also what only a training that goes on needs.

        Raises:
            ConfigError: The URL holds no run, or the folder is not empty.
            FormatError: A file at the URL is damaged or missing.
            ResourceError: It cannot be reached, or the disk is full.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: is there already; name a new folder")
        content = self._files.read(INDEX, _LARGEST_INDEX)
        if content is None:
            raise ConfigError(
                f"{self.url}: holds no copy of a run; make one with `crosscoder copy RUN {self.url}`"
            )
        files = self._parsed(content)
        wanted = {
            name: file
            for name, file in files.items()
            if checkpoints or "checkpoints" not in PurePosixPath(name).parts
        }
        partial = folder.with_name(f"{folder.name}.partial")
        make_folder(partial, "FOLDER")
        for name, path in files_of(partial, everything=True):
            if name not in wanted:
                path.unlink()  # of a snapshot that was replaced since
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="copy") as executor:
            list(executor.map(lambda name: self._fetch_file(partial / name, wanted[name]), wanted))
        self._mark(partial, [content_digest(content)])
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)

    def _fetch_file(self, path: Path, file: CopiedFile) -> None:
        if path.is_file() and file_digest(path) == file.digest:
            return
        where = self._files.where(file.object)
        try:
            is_the_file = self._files.fetch(file.object, path, file.digest, file.n_bytes)
        except FileNotFoundError:
            raise FormatError(
                f"{where}: missing, but {INDEX} lists it as {path.name}; if the run was copied meanwhile, run the same command again"
            ) from None
        if not is_the_file:
            raise FormatError(f"{where}: damaged (its digest is not its name); copy the run to another URL")

    def _parsed(self, content: bytes) -> dict[str, CopiedFile]:
        where = self._files.where(INDEX)
        try:
            files = Snapshot.model_validate_json(content).files
        except ValidationError as error:
            first = error.errors()[0]
            raise FormatError(
                f"{where}: not the list of files of a run ({'.'.join(map(str, first['loc']))}: {first['msg']}); copy the run to another URL"
            ) from None
        for name in files:
            if not _is_inside(name):
                raise FormatError(
                    f"{where}: lists {name!r}, which is no file of a run; copy the run to another URL"
                )
        if "config.yaml" not in files:
            raise FormatError(
                f"{where}: lists no config.yaml, so it is not that of a run; copy the run to another URL"
            )
        return files

    def require_own(self, run: Path) -> None:
        """Check that the URL can be reached, and holds no run or the copy of this one. Raises: See `put`."""
        self._require_own(run, "")

    def _require_own(self, run: Path, index: str) -> bytes | None:
        """Return what run.json holds, after a check that it is the copy of this run, or is to become `index`; None if it is not there."""
        own = _marks(run).get(self.url, [])
        there = self._files.read(INDEX, _LARGEST_INDEX)
        # One that was cut short, where a file is not written as a whole, is no list.
        if there is None or content_digest(there) in (*own, index) or (own and _snapshot(there) is None):
            return there
        raise ConfigError(
            f"{self.url}: holds another run, or this one as another machine went on with it; give another URL, or `crosscoder copy "
            f"{self.url} FOLDER` and go on in that folder"
        )

    @staticmethod
    def _listed(index: bytes | None) -> set[str]:
        """Return the names of the objects that a run.json lists."""
        snapshot = None if index is None else _snapshot(index)
        return set() if snapshot is None else {file.object for file in snapshot.files.values()}

    def _mark(self, run: Path, digests: list[str]) -> None:
        # Not noted in the record of the run, of which it is no part.
        replace(run / MARK, (json.dumps(_marks(run) | {self.url: digests}) + "\n").encode())


def files_of(run: Path, *, everything: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of each file of a run that belongs in its copy: without locks, half-written files, links and shards.

    Args:
        everything: Also shards, and what is not read back.
    """
    skipped = () if everything else _NOT_COPIED
    if not everything and not _has_store(run):
        # Without its shards, a manifest of activations would stand for a finished harvest.
        skipped = (*skipped, "activations/")
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if (
            _is_inside(name)
            and ".partial/" not in name
            and not name.startswith(skipped)
            and path.is_file()
            and not path.is_symlink()
        ):
            yield name, path


def _has_store(run: Path) -> bool:
    activations = load_config(run / "config.yaml").activations
    return isinstance(activations, CachedActivations) and activations.store is not None


def _snapshot(content: bytes) -> Snapshot | None:
    """Return what a run.json lists; None if it is none."""
    try:
        return Snapshot.model_validate_json(content)
    except ValidationError:
        return None


def _is_inside(name: str) -> bool:
    """Whether a name is that of a visible file below the folder of a run."""
    parts = name.split("/")
    return all(
        part and not part.startswith(".") and not set(part) & set("\\:\0") and len(part) < 256
        for part in parts
    )


def _marks(run: Path) -> dict[str, Any]:
    try:
        return json_of(run / MARK)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FormatError(
            f"{run / MARK}: damaged ({error}); remove it, and copy the run to another URL"
        ) from None


# --- the copy that this process keeps up to date ------------------------------------------------------------------------

_kept: tuple[Path, Mirror] | None = None


@contextmanager
def mirrored(run: Path, url: StoreUrl | None, setting: str) -> Iterator[None]:
    """Keep a copy of a run folder at a URL up to date inside the block, by `copy_now`, and copy it at the end; None: no copy.

    Raises: See `Mirror.put`; before the block, if it would not be possible after it.
    """
    global _kept
    if url is None:
        yield
        return
    mirror = Mirror(url, setting)
    mirror.require_own(run)
    _kept = run, mirror
    try:
        yield
        mirror.put(run)
    finally:
        _kept = None


def copy_now(run: Path) -> None:
    """Copy a run folder if this process keeps a copy of it. What fails is told, and tried again at the next time; the last one must succeed."""
    if _kept is None or _kept[0] != run:
        return
    try:
        _kept[1].put(run)
    except ResourceError as error:
        logger.warning("mirror: %s", error)
