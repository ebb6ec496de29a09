"""Places for files that misbehave on purpose: uploads cut short, bytes that change, listings that come late."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Flaky(MemoryFileSystem):
    """A place in memory for `flaky://` URLs, which does what a test asks for. Tests change it with `flaky`."""

    protocol = "flaky"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]
    pseudo_dirs: ClassVar[list[str]] = [""]
    on_write: ClassVar[Callable[[str, bytes], bytes | BaseException]] = lambda path, content: content
    """Returns what arrives of a file; the exception that an upload ends with is raised after half of the file arrived."""
    hidden: ClassVar[set[str]] = set()
    """Paths that are not listed yet."""
    read: ClassVar[list[str]] = []
    """Paths that were read, in their order."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(str(path).replace("flaky://", "memory://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        arrives = type(self).on_write(path, value)
        if isinstance(arrives, BaseException):
            super().pipe_file(path, value[: len(value) // 2], mode)
            raise arrives
        super().pipe_file(path, arrives, mode)

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath: str, lpath: Any = None, *arguments: Any, **options: Any) -> None:
        self.read.append(self._strip_protocol(rpath))
        super().get_file(rpath, lpath, *arguments, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        found: list[Any] = super().ls(path, detail=True, **options)
        shown = [entry for entry in found if entry["name"] not in self.hidden]
        return shown if detail else [entry["name"] for entry in shown]


fsspec.register_implementation("flaky", Flaky, clobber=True)


@contextmanager
def flaky() -> Iterator[type[Flaky]]:
    """Yield an empty place that behaves, and empty it afterwards."""
    before = Flaky.on_write
    try:
        yield Flaky
    finally:
        Flaky.on_write = before
        Flaky.store.clear()
        Flaky.pseudo_dirs[:] = [""]
        Flaky.hidden.clear()
        Flaky.read.clear()


def damage(place: type[MemoryFileSystem], path: str) -> None:
    """Change one byte of a file."""
    content = bytearray(place.store[path].getvalue())
    content[len(content) // 2] ^= 1
    place().pipe_file(path, bytes(content))
