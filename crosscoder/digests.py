"""Fingerprints of files."""

import hashlib
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """blake2b of a file's bytes as hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def content_digest(content: bytes) -> str:
    """What `file_digest` would say of a file with this content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=16)
