"""Writes and removes files of runs: atomically, and noted in the record of the run (`runtime.file_record`)."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FormatError
from .digests import content_digest, file_digest
from .file_record import FileRecord
from .json_text import NestedTooDeeplyError, json_of
from .replacement import disk_full_is_an_error, flush, partial_file, write_flushed


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically and create its folder if missing; text is stored as UTF-8.

    A concurrent reader, or a crash at any moment, leaves the old content or the new.

    Raises:
        ResourceError: The disk is full.
        FormatError: The file belongs to a run whose record is damaged.
    """
    path, encoded = Path(path), content.encode() if isinstance(content, str) else content
    with partial_file(path) as partial:
        write_flushed(partial, encoded)
        _install(partial, path, content_digest(encoded))


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file, which replaces `path` once the block has written it; for libraries that write files themselves.

    Raises:
        ResourceError, FormatError: See `write_atomic`.
    """
    path = Path(path)
    with partial_file(path) as partial:
        yield partial
        flush(partial)
        _install(partial, path, None)


def partial_folder(path: Path) -> Path:
    """Return the folder that `atomic_folder` fills before it becomes `path`."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def atomic_folder(path: Path, recorded: Sequence[str]) -> Iterator[Path]:
    """Yield a new folder, which replaces the folder `path` once the block has filled it.

    Args:
        recorded: Files of the folder to note in the record of the run.

    Raises:
        ResourceError, FormatError: See `write_atomic`.
    """
    partial = partial_folder(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with disk_full_is_an_error(path):
            partial.mkdir(parents=True)
            yield partial
            for written in partial.iterdir():
                flush(written)
            record = FileRecord.enclosing(path)
            digests = {path / name: file_digest(partial / name) for name in recorded}
            with nullcontext() if record is None else record.replacing(digests):
                shutil.rmtree(path, ignore_errors=True)
                partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file. Raises ResourceError if the disk is full."""
    with disk_full_is_an_error(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def remove_file(path: Path) -> None:
    """Remove a file, if it exists, and drop it from the record of its run."""
    record = FileRecord.of(path)
    with nullcontext() if record is None else record.removing(path):
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it exists, and drop its files from the record of its run."""
    record = FileRecord.enclosing(path)
    with nullcontext() if record is None else record.removing(path):
        shutil.rmtree(path, ignore_errors=True)


def make_folder(path: Path, setting: str) -> None:
    """Create a folder and its parents if missing.

    Args:
        setting: What named it, for messages.

    Raises:
        ConfigError: The path is a file, lies under one, is too long, or may not be created.
        ResourceError: The disk is full.
    """
    try:
        with disk_full_is_an_error(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{setting}: {str(path)!r} is a file or lies under one; name a folder") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"{setting}: {str(path)!r} cannot be created ({reason}); name another folder"
        ) from None


def read_json(path: Path, what_to_do: str) -> Any:
    """Read a JSON file. Raises FormatError, which ends with `what_to_do`, if it is damaged."""
    try:
        return json_of(path)
    except NestedTooDeeplyError as error:
        raise FormatError(f"{path}: {error}; {what_to_do}") from None
    except ValueError as error:
        raise FormatError(f"{path}: not valid JSON ({error}); {what_to_do}") from None


def _install(partial: Path, path: Path, digest: str | None) -> None:
    """Move a finished temporary file to its place."""
    record = FileRecord.of(path)
    noted = nullcontext() if record is None else record.replacing({path: digest or file_digest(partial)})
    with noted:
        os.replace(partial, path)
