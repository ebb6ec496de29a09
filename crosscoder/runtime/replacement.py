"""Replaces a file atomically: its content goes to a temporary file beside it, is flushed to disk, then renamed over the old file.

A concurrent reader, or a crash at any moment, leaves the old content or the new.
"""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ResourceError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota and a file size limit that are used up."""


def no_space(error: BaseException) -> bool:
    """Whether an error says that the disk is full. Libraries written in Rust name the number of the error in their text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_FULL
    named = re.search(r"\(os error (\d+)\)", str(error))
    return named is not None and int(named[1]) in DISK_FULL


@contextmanager
def disk_full_is_an_error(path: Path) -> Iterator[None]:
    """Raise ResourceError, which names `path`, if the disk is full inside the block."""
    try:
        yield
    except Exception as error:
        if not no_space(error):
            raise
        raise ResourceError(
            f"{path}: the disk is full; free some space and run the same command again"
        ) from error


def is_partial(path: Path) -> bool:
    """Whether a file is the temporary file of one that is being replaced, or was when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(".partial")


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`; what the block writes there is flushed to disk, and removed unless the block moved it.

    Raises:
        ResourceError: The disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with disk_full_is_an_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
    finally:
        with suppress(FileNotFoundError):  # already renamed
            partial.unlink()


def flush(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_flushed(path: Path, content: bytes) -> None:
    """Write a new file, and flush it to disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Replace one file by this content."""
    with partial_file(path) as partial:
        write_flushed(partial, content)
        os.replace(partial, path)
