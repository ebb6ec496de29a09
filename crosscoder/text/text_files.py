"""Reads the documents of text sources, and of files of prompts."""

import logging
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..config import TextConfig, TextSource
from ..errors import ConfigError, DataError
from .chat_messages import UnusableTextError
from .file_records import Record, read_records
from .readings import Reading
from .record_shapes import Fields, Text, read_record
from .source_datasets import SourceDataset
from .source_files import find_files

logger = logging.getLogger(__name__)


ReadSource = tuple[list[Text], Reading]
"""The documents of a source, and what was read of it."""


def read_sources(config: TextConfig) -> list[ReadSource]:
    """Read all sources. Raises as `read_source`, and ConfigError if two have the same name."""
    _check_names(config)
    return [read_source(source) for source in config.sources]


def read_texts(source: TextSource) -> list[Text]:
    """Read the documents of one source, at most `source.limit`. Raises as `read_source`."""
    return read_source(source)[0]


def read_source(source: TextSource) -> ReadSource:
    """Read the documents of one source, at most `source.limit`, and say what was left out.

    A document that is empty or has parts that are not text is left out and counted.

    Raises:
        ConfigError: A file or a dataset is missing, cannot be read, or is of no known kind.
        DataError: A record is damaged or of no known shape; there is no document; or half of them or more cannot be used.
    """
    setting, fields = _setting(source), Fields.of(source)
    reading = Reading(source.name)
    texts: list[Text] = []
    records = _records(source, setting, fields, reading)
    try:
        for record in records:
            try:
                text = read_record(record.value, record.origin, fields)
            except UnusableTextError as error:
                reading.leave_out(error)
                continue
            reading.n_documents += 1
            reading.altered.update(text.altered)
            texts.append(text)
            if len(texts) == source.limit:
                break
    finally:
        records.close()
    reading.check()
    if not texts:
        raise _no_text(source)
    return texts, reading


def read_file(path: Path, setting: str, limit: int | None = None) -> list[Text]:
    """Read all documents of files of prompts, at most `limit`.

    Args:
        setting: What names the path, for messages.

    Raises:
        ConfigError: A file is missing or of no known kind.
        DataError: A record is damaged, empty, or of no known shape.
    """
    fields = Fields()
    texts = (
        read_record(record.value, record.origin, fields)
        for file in find_files(path, setting)
        for record in read_records(file, setting, fields.wanted)
    )
    return list(islice(texts, limit))


def check_sources(config: TextConfig) -> None:
    """Check, before anything is loaded, that every source exists and that its first document can be read.

    Raises:
        ConfigError: Two sources have the same name, or a file or a dataset is missing, cannot be read, or is of no known kind.
        DataError: A file is empty, is not what its name says, or its first record is of no known shape.
    """
    _check_names(config)
    for source in config.sources:
        setting, fields = _setting(source), Fields.of(source)
        found = [record for begun in _beginnings(source, setting, fields) for record in islice(begun, 1)]
        for record in found:
            try:
                read_record(record.value, record.origin, fields)
            except UnusableTextError:
                logger.debug("%s: the first document cannot be used", record.origin)
        if not found:
            raise _no_text(source)


def _beginnings(source: TextSource, setting: str, fields: Fields) -> Iterator[Iterator[Record]]:
    """Yield the records of each file of a source, or of its dataset."""
    if source.dataset is not None:
        yield SourceDataset(source, setting, fields.wanted).records()
        return
    assert source.path is not None
    for file in find_files(source.path, setting):
        yield read_records(file, setting, fields.wanted)


def pinned(config: TextConfig, recorded: Mapping[str, Any] | None) -> TextConfig:
    """Return settings that read the datasets at the revisions that a run has recorded, so that it continues with the same documents.

    Args:
        recorded: Entry `data` of the run's manifest; None before the harvest has begun.
    """
    known = (recorded or {}).get("sources", {})
    return config.model_copy(
        update={
            "sources": tuple(
                source.model_copy(update={"revision": known[source.name].get("revision")})
                if source.dataset is not None and source.revision is None and source.name in known
                else source
                for source in config.sources
            )
        }
    )


def _check_names(config: TextConfig) -> None:
    names = [source.name for source in config.sources]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f"text.sources: the name {repeated!r} is used twice; give each source a different name"
        )


def _no_text(source: TextSource) -> DataError:
    return DataError(
        f"{source.location}: contains no text; give a file with at least two documents, or remove the source"
    )


def _setting(source: TextSource) -> str:
    return f"text.sources, {source.name!r}"


def _records(
    source: TextSource, setting: str, fields: Fields, reading: Reading
) -> Generator[Record, None, None]:
    """Yield the records of a source, and note in `reading` where they come from."""
    if source.dataset is not None:
        dataset = SourceDataset(source, setting, fields.wanted)
        for number, record in enumerate(dataset.records(), start=1):
            reading.place = dataset.describe() | {"position": number}
            yield record
        return
    assert source.path is not None
    files = find_files(source.path, setting)
    reading.place = {"path": str(source.path), "files": len(files)}
    for file in files:
        yield from read_records(file, setting, fields.wanted)
