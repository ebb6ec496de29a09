"""Digests of files and of their content."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

_RACE_NS = 100_000_000
"""A file that changed so shortly before it was read may change again within the resolution of its time stamp."""

_known: dict[str, tuple[tuple[int, int, int], str]] = {}


def file_digest(path: Path) -> str:
    """Return the blake2b digest of a file as hex; the file is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def content_digest(content: bytes) -> str:
    """Return the `file_digest` of a file with this content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of_parts(first: bytes = b"") -> Any:
    """Return a hash object that gives the `content_digest` of the parts it is updated with."""
    found = _blake2b()
    found.update(first)
    return found


def known_digest(path: Path) -> str:
    """Return the `file_digest` of a file, which this process reads only once while its size and times stay the same."""
    status = os.stat(path)
    state, key = (status.st_size, status.st_mtime_ns, status.st_ino), os.path.abspath(path)
    if key in _known and _known[key][0] == state:
        return _known[key][1]
    digest = file_digest(path)
    if time.time_ns() - status.st_mtime_ns > _RACE_NS:
        _known[key] = state, digest
    return digest


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=16)
