"""Local copies of shards that lie at a URL."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import FormatError, ResourceError
from ..runtime.digests import known_digest
from ..runtime.files import write_atomic
from ..runtime.url_store import UrlStore
from .shards import MANIFEST, SPLITS, Manifest, Shard, ShardRecord, open_shard

logger = logging.getLogger(__name__)

_HEADER = 512
"""Bytes of a shard besides its rows, at most."""

_ATTEMPTS = 5
"""Times that a copy may vanish between its check and its use, because other processes make room."""


def shard_bytes(record: ShardRecord, manifest: Manifest) -> int:
    """Return the largest size of a shard with this number of rows, in bytes."""
    itemsize = getattr(torch, manifest.dtype).itemsize
    return record.rows * (sum(manifest.d_models) * itemsize + 8) + _HEADER


class ShardCache:
    """Local copies of the shards at a URL: checked, bounded, and removed in the order of their last use. For several threads."""

    def __init__(self, store: UrlStore, folder: Path, most_bytes: int) -> None:
        """`folder`: the folder of activations, which holds the copies."""
        self.store, self.folder, self.most_bytes = store, folder, most_bytes
        self._changed = threading.Condition()
        self._held: dict[str, int] = {}
        """Bytes of the copies that threads of this process read or write."""

    @contextmanager
    def open(self, record: ShardRecord, manifest: Manifest) -> Iterator[Shard]:
        """Hold a shard open inside the block; it is downloaded if there is no copy with its digest.

        Raises:
            FormatError: The URL has another shard in its place, or none.
            ResourceError: The URL cannot be reached, or the disk is full.
        """
        with self._reserved(record.file, shard_bytes(record, manifest)):
            yield self._opened(record, manifest)

    def keep(self, name: str, content: bytes) -> None:
        """Keep a copy of a shard that was uploaded, if it fits."""
        if len(content) <= self.most_bytes:
            with self._reserved(name, len(content)):
                write_atomic(self.folder / name, content)

    def _opened(self, record: ShardRecord, manifest: Manifest) -> Shard:
        for _ in range(_ATTEMPTS):
            path = self._copy(record, manifest)
            try:
                return open_shard(path, record, manifest, verify=False)
            except FormatError:
                if path.exists():
                    raise
        raise ResourceError(
            f"{self.folder / record.file}: other processes remove local copies as fast as they arrive; raise activations.store.cache_gb"
        )

    def _copy(self, record: ShardRecord, manifest: Manifest) -> Path:
        path = self.folder / record.file
        try:
            if known_digest(path) == record.digest:
                # The time of last use; the time of the last change stays, by which a known digest is found.
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
                return path
            logger.warning("%s: the local copy was damaged; downloading it again", path)
        except FileNotFoundError:
            pass
        where = self.store.where(record.file)
        try:
            is_the_shard = self.store.fetch(record.file, path, record.digest, shard_bytes(record, manifest))
        except FileNotFoundError:
            raise FormatError(
                f"{where}: missing, but listed in {self.folder / MANIFEST}; restore it, or harvest to another URL"
            ) from None
        if not is_the_shard:
            raise FormatError(
                f"{where}: altered since the harvest (its digest differs from the one in {self.folder / MANIFEST}); restore it, or "
                "harvest to another URL"
            )
        return path

    @contextmanager
    def _reserved(self, name: str, n_bytes: int) -> Iterator[None]:
        """Make room for a copy, and keep it from being removed inside the block. A thread holds one at a time, so that none waits for ever."""
        with self._changed:
            while name in self._held or not self._make_room(name, n_bytes):
                self._changed.wait()
            self._held[name] = n_bytes
        try:
            yield
        finally:
            with self._changed:
                del self._held[name]
                self._changed.notify_all()

    def _make_room(self, name: str, n_bytes: int) -> bool:
        """Remove copies until there is room for another, and return whether there is."""
        needed = n_bytes + sum(self._held.values())
        if needed > self.most_bytes and self._held:
            return False
        free: list[tuple[int, int, Path]] = []
        for split in SPLITS:
            for path in (self.folder / split).glob("*.safetensors"):
                if f"{split}/{path.name}" in (name, *self._held):
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue  # another process removed it
                free.append((status.st_atime_ns, status.st_size, path))
        needed += sum(size for _, size, _ in free)
        for _, size, path in sorted(free):
            if needed <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            needed -= size
        return True
