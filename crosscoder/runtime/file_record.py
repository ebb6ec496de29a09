"""The record of a run's files: RUN/files.json, which holds the digest of every file that a verb may read.

`runtime.files` notes each file there as it writes it; `RunFolder.open` and `RunFolder.create` compare. So a file that was altered, truncated,
removed or taken from another run is found, whatever reads it. A run inside a run (a control, a point of a sweep) has its own record,
which the outer one holds once the inner run is finished.

Not recorded, because nothing reads them back or because they have a check of their own (`_NOT_RECORDED`):

    config.yaml                                  people edit it; its settings are compared with those in manifest.json
    discovery/behaviors/*.yaml                   people edit them
    report/* but report.json, browser, plots, exports, wandb      written, never read
    replies.jsonl, judged.jsonl                  each line has a digest
    activations/parts/*                          each holds its own digest, since parts run on machines that may not share locks
    model.safetensors, shards, state.safetensors config.json, activations/manifest.json and state.json hold their digests, so that large
                                                 files are read once, by what uses them

A file is replaced in three steps: its new digest is added to the record, the file is renamed, the old digest is dropped. A process that is
killed in between leaves a record that accepts both.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import FormatError
from . import locks
from .digests import content_digest, known_digest
from .json_text import json_of
from .replacement import is_partial, replace

FILES = "files.json"
LOCK = ".files.lock"
VERSION = 1
"""Version of files.json."""

_NOT_RECORDED = (
    FILES, LOCK, ".lock", "config.yaml", "discovery/behaviors/*.yaml",
    "browser/*", "plots/*", "exports/*", "wandb/*", "report/*.html", "report/*.md", "report/*.schema.json",
    "*/replies.jsonl", "*/judged.jsonl",
    "crosscoder/model.safetensors", "activations/train/*", "activations/held_out/*", "activations/parts/*",
    "checkpoints/*",
)  # fmt: skip

_ONE_BY_ONE = ("behaviors", "controls", "sweep")
"""Folders whose folders are results of their own."""

_LISTED = ("analysis/*", "behaviors/*/*", "explanations/*", "discovery/*", "*.safetensors", "*.json")
"""Where verbs look for files: one that is there and not in the record came from elsewhere."""


class FileRecord:
    """The record in the folder `root` of a run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / FILES

    @classmethod
    def of(cls, path: Path) -> "FileRecord | None":
        """Return the record that holds the file at `path`; None if there is none, or if it does not hold this kind of file."""
        record = cls.enclosing(path)
        return record if record is not None and record.holds(record.name_of(path)) else None

    @classmethod
    def enclosing(cls, path: Path) -> "FileRecord | None":
        """Return the record of the innermost run that contains `path`; None if there is none."""
        roots = (root for root in Path(os.path.abspath(path)).parents if (root / FILES).exists())
        return next((cls(root) for root in roots), None)

    def name_of(self, path: Path) -> str:
        """Return the name of a file in the record: its path from the run folder, with `/`."""
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(self.root)).as_posix()

    @staticmethod
    def holds(name: str) -> bool:
        """Whether a file of this name belongs in a record."""
        return not any(fnmatchcase(name, pattern) for pattern in _NOT_RECORDED)

    def create(self) -> None:
        """Write an empty record, and the folder, if there is none."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self.locked():
            if not self.path.exists():
                self._write({})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the record inside the block."""
        with locks.hold(self.root / LOCK, wait=True):
            yield

    @contextmanager
    def replacing(self, digests: Mapping[Path, str]) -> Iterator[None]:
        """Note the digests of files which the block puts in place."""
        new = {self.name_of(path): digest for path, digest in digests.items()}
        with self.locked():
            files = self.read()
            both = {name: [*dict.fromkeys([*files.get(name, [""]), digest])] for name, digest in new.items()}
            self._write(files | both)
            yield
            self._write(self.read() | {name: [digest] for name, digest in new.items()})

    @contextmanager
    def removing(self, path: Path) -> Iterator[None]:
        """Drop a file, or all files of a folder, which the block removes."""
        removed = self.name_of(path)
        with self.locked():
            before = self.read()
            names = [name for name in before if name == removed or name.startswith(f"{removed}/")]
            if names:
                self._write(before | {name: [*dict.fromkeys(["", *before[name]])] for name in names})
            yield
            if names:
                self._write({name: held for name, held in self.read().items() if name not in names})

    def begin(self, path: Path) -> None:
        """Note that a file is being appended to: it is not checked until `finish`."""
        with self.locked():
            self._write(self.read() | {self.name_of(path): []})

    def finish(self, path: Path) -> None:
        """Note the digest of a file as it is now."""
        with self.locked():
            self._write(self.read() | {self.name_of(path): [known_digest(path)]})

    def seal(self) -> None:
        """Note the digest of this record in that of the run which this run is a part of, if any."""
        outer = self.enclosing(self.root)
        if outer is not None and outer.read().get(outer.name_of(self.path)) != [known_digest(self.path)]:
            outer.finish(self.path)

    def require(self, path: Path, remedy: str) -> None:
        """Check one file. Raises FormatError, which ends with `remedy`, if it is not the one that was recorded."""
        if (why := self._why_not(self.name_of(path), self.read())) is not None:
            raise FormatError(f"{path}: {why}; {remedy}")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each file that is not as it was recorded, and what it is: altered, missing, or of another run."""
        files = self.read()
        # Training alone reads checkpoints, and checks the one that it reads.
        recorded = [name for name in files if not name.startswith("checkpoints/")]
        for name in (*recorded, *self._unrecorded(files)):
            why = self._why_not(name, files)
            if why is not None and not (why is MISSING and self._was_withdrawn(name)):
                yield name, why
        for name in files:
            if Path(name).name == FILES and (self.root / name).exists():
                inner = FileRecord((self.root / name).parent)
                for found, why in inner.problems():
                    yield self.name_of(inner.root / found), why

    def read(self) -> dict[str, list[str]]:
        """Return the accepted digests of each file; "" stands for no file, and an empty list accepts any content.

        Raises:
            FormatError: The record is damaged.
        """
        remedy = "restore it from a copy, or make the run again in another output"
        try:
            content: Any = json_of(self.path)
            files = content["files"]
            intact = content["digest"] == _digest_of(files)
        except FileNotFoundError:
            raise FormatError(
                f"{self.path}: missing, so no file of this run can be checked (runs of earlier versions have none); {remedy}"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self.path}: altered or truncated ({error}); {remedy}") from None
        if not intact or content.get("schema_version") != VERSION:
            raise FormatError(f"{self.path}: altered (it does not match its own digest); {remedy}")
        return files

    def _unrecorded(self, files: Mapping[str, list[str]]) -> list[str]:
        """Return the names of files where verbs look for some that are not in the record."""
        found = [path for pattern in _LISTED for path in sorted(self.root.glob(pattern))]
        names = [self.name_of(path) for path in found if path.is_file() and not is_partial(path)]
        return [name for name in names if name not in files and self.holds(name)]

    def _why_not(self, name: str, files: Mapping[str, list[str]]) -> str | None:
        if (why := self._compare(name, files)) is not None:
            # Another process may have replaced the file since `files` was read.
            with self.locked():
                why = self._compare(name, self.read())
        return why

    def _compare(self, name: str, files: Mapping[str, list[str]]) -> str | None:
        accepted, path = files.get(name), self.root / name
        if accepted is None:
            return FOREIGN if path.exists() else None
        if not accepted:
            return None
        if not path.is_file():
            return None if "" in accepted else MISSING
        return None if known_digest(path) in accepted else ALTERED

    def _was_withdrawn(self, name: str) -> bool:
        """Whether the whole folder of a result is gone, which a person may remove: the run is then as before that result."""
        parts = Path(name).parts
        depth = 2 if parts[0] in _ONE_BY_ONE else 1
        return len(parts) > depth and not self.root.joinpath(*parts[:depth]).exists()

    def _write(self, files: dict[str, list[str]]) -> None:
        content = {"schema_version": VERSION, "files": dict(sorted(files.items()))}
        content["digest"] = _digest_of(content["files"])
        replace(self.path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


MISSING = "is missing, but the run wrote it"
FOREIGN = "is not a file that this run wrote"
ALTERED = "was altered since the run wrote it (its digest differs from the one in files.json)"


def _digest_of(files: Any) -> str:
    return content_digest(json.dumps(files, sort_keys=True).encode())
