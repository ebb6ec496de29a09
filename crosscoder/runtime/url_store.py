"""Files in a folder at a URL that fsspec reaches: a bucket, another machine, a disk.

A file is there as a whole or not at all: buckets show an object once its upload is complete, and on a disk it is written beside its place
and renamed. Nothing that is read here is trusted: whoever reads it compares its digest, and says how long it may be.
"""

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.stores import scheme_of
from ..errors import ConfigError, CrosscoderError, FormatError, ResourceError, first_line
from .digests import file_digest
from .replacement import flush, partial_file, replace, write_flushed

TRANSFERS = 8
"""Files that are read or written at once."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra of this package that brings the backend of a scheme."""

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


class UrlStore:
    """Files by name, below a URL. Nothing is contacted before the first of them is used.

    Every method raises ResourceError if the place cannot be reached, with what its backend says, and ConfigError if there is no backend.
    """

    def __init__(self, url: str, setting: str) -> None:
        """`setting` is what named the URL, for messages."""
        self.url = url
        self._setting = setting

    def where(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str, most: int) -> bytes | None:
        """Return the content of a file; None if it is not there.

        Raises:
            FormatError: It has more than `most` bytes.
        """
        try:
            with self._told(name, "read"):
                self._require_size(name, most)
                return self._system.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def read_all(self, names: list[str], most: int) -> list[bytes | None]:
        """Return the contents of several files, in their order. See `read`."""
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="read") as executor:
            return list(executor.map(lambda name: self.read(name, most), names))

    def download(self, name: str, path: Path, most: int) -> None:
        """Copy a file to `path`, which is not replaced atomically.

        Raises:
            FileNotFoundError: It is not there.
            FormatError: It has more than `most` bytes.
        """
        with self._told(name, "read"):
            self._require_size(name, most)
            self._system.get_file(self._path(name), str(path))

    def fetch(self, name: str, path: Path, digest: str, most: int) -> bool:
        """Copy a file to `path`, at once as a whole, if it has this digest; return whether it has. Raises as `download`."""
        with partial_file(path) as partial:
            self.download(name, partial, most)
            if file_digest(partial) != digest:
                return False
            os.replace(partial, path)
        return True

    def write(self, name: str, content: bytes) -> None:
        """Write a file, and replace it if it is there."""
        with self._told(name, "written", missing=True):
            if (path := self._on_disk(name)) is not None:
                replace(path, content)
            else:
                self._make_parent(name)
                self._system.pipe_file(self._path(name), content)

    def upload(self, name: str, path: Path) -> None:
        """Write a file with the content of the one at `path`."""
        with self._told(name, "written", missing=True):
            if (target := self._on_disk(name)) is not None:
                with partial_file(target) as partial:
                    shutil.copyfile(path, partial)
                    flush(partial)
                    os.replace(partial, target)
            else:
                self._make_parent(name)
                self._system.put_file(str(path), self._path(name))

    def remove(self, names: list[str]) -> None:
        """Remove files."""
        for name in names:
            with self._told(name, "removed"):
                self._system.rm_file(self._path(name))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless it is there, and return whether it was written. Of several processes one writes it, where the place can tell."""
        with self._told(name, "written", missing=True):
            try:
                if (path := self._on_disk(name)) is not None:
                    with partial_file(path) as partial:
                        write_flushed(partial, content)
                        os.link(partial, path)
                else:
                    self._make_parent(name)
                    self._system.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
        return True

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None if it is not there."""
        try:
            with self._told(name, "looked up"):
                return self._system.info(self._path(name)).get("size")
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file in a folder, by its name `folder/name`; empty if there is no such folder. A place may list a new file
        late."""
        try:
            with self._told(folder, "listed"):
                # Others write, too: a listing that a backend remembers would hide their files.
                self._system.invalidate_cache()
                found = self._system.ls(self._path(folder), detail=True)
                self._system.invalidate_cache()
        except FileNotFoundError:
            return {}
        return {
            f"{folder}/{entry['name'].rstrip('/').rpartition('/')[2]}": entry["size"] or 0 for entry in found
        }

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        # On first use: importing fsspec and its backends takes long.
        from fsspec.core import url_to_fs

        scheme = scheme_of(self.url)
        try:
            return url_to_fs(self.url)
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            install = f"pip install 'crosscoder[{extra}]'" if extra else "install it"
            raise ResourceError(
                f"{self._setting}: {scheme}:// needs a package that is not installed ({first_line(error)}); {install}"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"{self._setting}: fsspec cannot open {scheme}:// ({first_line(error)}); give a URL such as s3://bucket/name, "
                "gs://bucket/name or file:///mnt/name"
            ) from error

    @property
    def _system(self) -> Any:
        return self._opened[0]

    def _path(self, name: str) -> str:
        return f"{self._opened[1].rstrip('/')}/{name}"

    def _on_disk(self, name: str) -> Path | None:
        """Return the path of a file on a disk, where fsspec would not write it atomically; None elsewhere."""
        return Path(self._path(name)) if scheme_of(self.url) in ("file", "local") else None

    def _make_parent(self, name: str) -> None:
        """Make the folder of a file, where a place has folders; a bucket, which may be none of ours to create, has not."""
        folder = self._path(name).rpartition("/")[0]
        if scheme_of(self.url) not in _EXTRAS:
            self._system.makedirs(folder, exist_ok=True)

    def _require_size(self, name: str, most: int) -> None:
        size = self._system.info(self._path(name)).get("size")
        if size is None or size > most:
            raise FormatError(
                f"{self.where(name)}: has {'an unknown number of' if size is None else f'{size:,}'} bytes, where at most {most:,} belong; "
                "it is not the file that was written there"
            )

    @contextmanager
    def _told(self, name: str, done: str, *, missing: bool = False) -> Iterator[None]:
        """Turn an error of a backend into one line. `missing`: a place that is not there is an error as well."""
        try:
            yield
        except CrosscoderError:
            raise
        except FileNotFoundError as error:
            if not missing:
                raise
            raise self._failure(name, done, error) from error
        # Backends raise what the libraries below them raise, which has no common base.
        except Exception as error:
            raise self._failure(name, done, error) from error

    def _failure(self, name: str, done: str, error: Exception) -> ResourceError:
        # Addresses in messages of backends may be signed.
        said = _ADDRESS.sub("…", first_line(error))
        return ResourceError(
            f"{self.where(name)}: cannot be {done} ({type(error).__name__}: {said}); see to the address, the network and the credentials of "
            f"{scheme_of(self.url)}://, and run the same command again"
        )
