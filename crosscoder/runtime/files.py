"""Files written whole or not at all, and digests of them.

A file is written into a neighbor, flushed to disk, then renamed over the old one.
"""

import errno
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ResourceError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, making its folder where needed; text is stored as UTF-8.

    A reader, or a crash at any moment, meets the old content or the new. Raises ResourceError when the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{path}: the disk is full; make room and run the same command again"
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError):  # renamed, as it should be
            partial.unlink()


def file_digest(path: Path) -> str:
    """blake2b of a file's bytes as hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def content_digest(content: bytes) -> str:
    """What `file_digest` would say of a file with this content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=16)
