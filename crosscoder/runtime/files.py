"""Atomic file writes, and digests of files.

The content is written to a temporary file in the same folder, flushed to disk, then renamed over the old file.
"""

import errno
import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FormatError, ResourceError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically and create its folder if missing; text is stored as UTF-8.

    A concurrent reader, or a crash at any moment, leaves the old content or the new.

    Raises:
        ResourceError: The disk is full.
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
                f"{path}: the disk is full; free some space and run the same command again"
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError):  # already renamed
            partial.unlink()


def make_folder(path: Path, setting: str) -> None:
    """Create a folder and its parents if missing.

    Args:
        setting: What named it, for messages.

    Raises:
        ConfigError: The path is a file, lies under one, is too long, or may not be created.
    """
    try:
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
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: not valid JSON ({error}); {what_to_do}") from None
    except RecursionError:
        raise FormatError(f"{path}: nested too deeply; {what_to_do}") from None


def file_digest(path: Path) -> str:
    """Return the blake2b digest of a file as hex; the file is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def content_digest(content: bytes) -> str:
    """Return the `file_digest` of a file with this content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=16)
