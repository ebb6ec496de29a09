"""Reads datasets with the `datasets` library: from the Hugging Face Hub, or from a folder.

Records come in the order of the dataset, so the same revision gives the same documents. The library runs no code of a dataset (it dropped
dataset scripts in version 4).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..config import TextSource
from ..errors import ConfigError, DataError, did_you_mean, first_line
from ..runtime.files import content_digest
from .file_records import Record
from .stream_copies import StreamCopy

_COMMIT = re.compile(r"@([0-9a-f]{40})/")


class SourceDataset:
    """The dataset that a text source names."""

    def __init__(self, source: TextSource, setting: str, wanted: Callable[[str], bool]) -> None:
        """
        Args:
            setting: What names the source, for messages.
            wanted: Whether a field of this name is used; other columns are not read.

        Raises:
            ConfigError: The folder does not exist.
        """
        assert source.dataset is not None
        self._source, self._setting, self._wanted = source, setting, wanted
        name = str(source.dataset)
        folder = source.dataset.expanduser()
        is_path = name.startswith(("/", "~", "..")) or name.count("/") > 1
        if is_path and not folder.is_dir():
            found = "is a file; give it as path:" if folder.is_file() else "does not exist"
            raise ConfigError(
                f"{setting}: the folder {name} of a dataset {found}; give a folder, or an id on the Hub"
            )
        self._name = str(folder) if folder.is_dir() else name
        self._is_local = folder.is_dir()
        self._is_saved = any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))
        self._split = source.split or "train"
        if self._is_saved and (source.config or source.revision):
            raise ConfigError(
                f"{setting}: {name} was saved with save_to_disk, so it has no config and no revision; remove them"
            )

    def records(self) -> Iterator[Record]:
        """Yield the records in order.

        Raises:
            ConfigError: The dataset, its configuration or its split does not exist or cannot be reached.
            DataError: It is damaged.
        """
        if self._source.streaming and not self._is_saved:
            copy = StreamCopy(self._guarded(self._key), self._open_stream)
            with closing(copy.records()) as rows:
                yield from self._numbered(rows)
            return
        rows = self._guarded(self._load)
        columns = [name for name in rows.column_names if self._wanted(name)]
        yield from self._numbered(rows.select_columns(columns) if columns else rows)

    def describe(self) -> dict[str, Any]:
        """Return the record for the manifest: what was read, so that the same can be read again."""
        described = {
            "dataset": str(self._source.dataset),
            "config": self._source.config,
            "split": self._split,
            "revision": self._commit,
        }
        return described if self._commit is not None else described | {"fingerprint": self._fingerprint}

    def _numbered(self, rows: Iterable[Any]) -> Iterator[Record]:
        iterator = iter(rows)
        number = 0
        while True:
            row = self._guarded(lambda: next(iterator, None))
            if row is None:
                return
            number += 1
            yield Record(row, f"{self._source.dataset}, {self._split}, record {number}")

    def _load(self) -> Any:
        if self._is_saved:
            return self._saved
        self._check_split()
        self._builder.download_and_prepare()
        return self._builder.as_dataset(split=self._split)

    def _open_stream(self) -> Any:
        """Return the dataset as a stream, with the columns that are used."""
        self._guarded(self._check_split)
        stream = self._guarded(lambda: self._builder.as_streaming_dataset(split=self._split))
        names = self._guarded(lambda: stream.column_names or list(next(iter(stream), {})))
        columns = [name for name in names if self._wanted(name)]
        return stream.select_columns(columns) if columns else stream

    def _check_split(self) -> None:
        files = self._builder.config.data_files
        splits = list(files or self._builder.info.splits or ())
        base = re.split(r"[\[+]", self._split)[0]
        if splits and base not in splits:
            raise ConfigError(
                f"{self._setting}: {self._source.dataset} has no split {base!r}{did_you_mean(base, splits)}; give one of "
                f"{', '.join(map(str, splits))}"
            )

    @cached_property
    def _saved(self) -> Any:
        import datasets

        found = datasets.load_from_disk(self._name)
        if isinstance(found, datasets.DatasetDict):
            if self._split not in found:
                raise ConfigError(
                    f"{self._setting}: {self._source.dataset} has no split {self._split!r}; give one of {', '.join(map(str, found))}"
                )
            return found[self._split]
        if self._source.split not in (None, str(found.split)):
            raise ConfigError(
                f"{self._setting}: {self._source.dataset} was saved without splits, so it has no split {self._split!r}; remove split"
            )
        return found

    @cached_property
    def _builder(self) -> Any:
        import datasets

        return datasets.load_dataset_builder(
            self._name, self._source.config, revision=None if self._is_local else self._source.revision
        )

    @cached_property
    def _commit(self) -> str | None:
        """The commit on the Hub; None of a folder, or of a dataset that the library found in its cache alone."""
        if self._is_local:
            return None
        revision = self._source.revision or ""
        if re.fullmatch("[0-9a-f]{40}", revision):
            return revision
        files = self._builder.config.data_files or {}
        found = {
            match[1] for paths in files.values() for path in paths if (match := _COMMIT.search(str(path)))
        }
        return found.pop() if len(found) == 1 else None

    @cached_property
    def _fingerprint(self) -> str:
        """What identifies the content where there is no commit."""
        if self._is_saved:
            return str(self._saved._fingerprint)
        if not self._is_local:
            return str(self._builder.hash)
        files = sorted(path for path in Path(self._name).rglob("*") if path.is_file())
        stats = [
            (str(path.relative_to(self._name)), path.stat().st_size, path.stat().st_mtime_ns)
            for path in files
        ]
        return content_digest(repr(stats).encode())

    def _key(self) -> dict[str, Any]:
        """What decides the records of a stream."""
        return {
            **self.describe(),
            "dataset": self._name,
            "fields": {name: value for name, value in self._source if name.endswith("_field")},
        }

    def _guarded(self, do: Callable[[], Any]) -> Any:
        """Return the result of a call of the library, with one line for what a user can mend."""
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        name = self._source.dataset
        try:
            return do()
        except DatasetNotFoundError as error:
            raise ConfigError(
                f"{self._setting}: the dataset {name} does not exist or is not public ({first_line(error)[:200]}); give its id or a folder"
            ) from error
        except (DatasetsError, pa.ArrowException, UnicodeDecodeError) as error:
            cause = error.__cause__ or error
            raise DataError(
                f"{self._setting}: the dataset {name} cannot be read: {first_line(cause)[:200]}"
            ) from error
        except (OSError, ValueError, RuntimeError, KeyError, NotImplementedError) as error:
            raise ConfigError(
                f"{self._setting}: the dataset {name} cannot be opened: {first_line(error)[:200]}"
            ) from error
