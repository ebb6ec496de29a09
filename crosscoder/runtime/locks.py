"""Locks on files, which end with the process that holds them.

They are `flock` locks: the operating system drops one when its process ends, by any signal and by a crash. Linux turns them into byte-range
locks on NFS, so they also hold between machines if the server keeps locks. A file system without locks (some Lustre mounts, Windows)
gets a warning, and then nothing stops a second process.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

_LOOKS, _SECONDS_BETWEEN_LOOKS = 10, 0.02

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class HeldElsewhere(Exception):
    """Another process holds the lock. `holder` is what it wrote about itself, possibly nothing."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@dataclass
class _Held:
    """A lock of this process, and how many blocks are inside it."""

    file: int
    shared: bool
    depth: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.RLock()


def is_held(path: Path) -> bool:
    """Whether this process holds the lock file `path`."""
    with _guard:
        return Path(os.path.abspath(path)) in _held


@contextmanager
def hold(path: Path, *, shared: bool = False, wait: bool = False, about: str = "") -> Iterator[None]:
    """Hold the lock file `path` inside the block. A process may hold a lock several times; it counts as one.

    Args:
        shared: Several processes may hold a shared lock, but none beside an exclusive one.
        wait: Wait for other processes instead of raising.
        about: What other processes are told about the holder of an exclusive lock.

    Raises:
        HeldElsewhere: Another process holds the lock.
    """
    key = Path(os.path.abspath(path))
    with _guard:
        if (ours := _held.get(key)) is not None:
            if ours.shared and not shared:
                _lock(ours.file, path, shared=False, wait=wait)
                ours.shared = False
            ours.depth += 1
        elif (file := _open(path, shared)) is not None:
            try:
                _lock(file, path, shared=shared, wait=wait)
            except BaseException:
                os.close(file)
                raise
            # Replaces what a killed holder left there.
            os.ftruncate(file, 0)
            os.pwrite(file, b"" if shared else about.encode(), 0)
            _held[key] = _Held(file, shared)
        else:
            _held[key] = _Held(-1, shared)
    try:
        yield
    finally:
        with _guard:
            ours = _held[key]
            ours.depth -= 1
            if not ours.depth:
                del _held[key]
                if ours.file >= 0:
                    os.close(ours.file)  # also drops the lock


def _open(path: Path, shared: bool) -> int | None:
    """Open a lock file; None for a reader of a folder that it cannot write to, where nobody else of its rights writes."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if shared and error.errno in _READ_ONLY:
            return None
        raise


def _holder(file: int) -> str:
    """Return what the holder of a lock wrote about itself; it does so a moment after it took the lock. A reader writes nothing."""
    for _ in range(_LOOKS):
        if told := os.pread(file, 2000, 0).decode(errors="replace").strip():
            return told
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return ""


def _lock(file: int, path: Path, *, shared: bool, wait: bool) -> None:
    if fcntl is None:
        logger.warning(
            "%s: this system has no file locks; start only one process in a run folder", path.parent
        )
        return
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise HeldElsewhere(_holder(file)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "%s: this file system has no locks; start only one process in a run folder", path.parent
        )
