"""Reads the records of files: one object for each document, with its place for messages.

Text is UTF-8, with or without a byte order mark. Lines end in LF, CRLF or CR, in JSON lines in LF or CRLF. A byte 0 is refused: it means
UTF-16 or a binary file. A key that is given twice in an object is refused, because one of its values would be lost.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, first_line
from ..runtime.json_text import parse_json
from .source_files import LINES, TABLES, kind_of_file, open_file

# Characters of a cell; the largest number that fits on every platform.
_LONGEST_CELL = 2**31 - 1

# Rows of a Parquet file that are in memory at a time.
_PARQUET_ROWS = 1024


class Record(NamedTuple):
    """One document as it is stored."""

    value: Any
    """Usually a dict of fields; a file can hold something else by mistake."""

    origin: str
    """File and line, record or row, counted from 1, for messages."""


def read_records(path: Path, setting: str, wanted: Callable[[str], bool]) -> Iterator[Record]:
    """Yield the records of a file in order, without holding the whole file in memory (except .json).

    Args:
        setting: What named the file, for messages.
        wanted: Whether a field of this name is used. Other columns of a Parquet file are not read.

    Raises:
        ConfigError: The file may not be read.
        DataError: It is damaged, or not what its name says.
    """
    kind = kind_of_file(path)
    if kind == ".parquet":
        yield from _parquet(path, setting, wanted)
        return
    with open_file(path, setting) as file:
        if kind == ".json":
            yield from _json(file, path)
        elif kind in TABLES:
            yield from _table(file, path, "," if kind == ".csv" else "\t")
        elif kind in LINES:
            yield from _json_lines(_lines(file, path), path)
        else:
            yield from _paragraphs(_lines(file, path), path)


def _lines(file: io.BufferedIOBase, path: Path) -> Iterator[str]:
    """Yield decoded lines with their ends.

    Split at LF alone: `str.splitlines` would also split at U+2028 and other characters that texts may contain.
    """
    offset = 0
    for number, line in enumerate(file, start=1):
        start = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
        if b"\0" in line:
            raise DataError(
                f"{path}, line {number}: holds a byte 0, so it is UTF-16 text or no text at all; convert the file to UTF-8"
            )
        try:
            yield line[start:].decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: byte {offset + start + error.start} is not UTF-8 text; convert the file to UTF-8"
            ) from error
        offset += len(line)


def _json_lines(lines: Iterable[str], path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            origin = f"{path}, line {number}"
            hint = "give one object per line"
            if number == 1 and line.lstrip().startswith("["):
                hint += ", or name the file .json if it is one list"
            yield Record(_parse(line.rstrip("\r\n"), origin, hint), origin)


def _json(file: io.BufferedIOBase, path: Path) -> Iterator[Record]:
    """Yield the entries of a list, a single object, or the lines of a file that holds JSON lines under this name."""
    lines = list(_lines(file, path))
    first = next((line for line in lines if line.strip()), "")
    if sum(bool(line.strip()) for line in lines) > 1 and _is_object(first):
        yield from _json_lines(lines, path)
        return
    content = "".join(lines)
    if not content.strip():
        return
    value = _parse(content, str(path), "give a list of objects")
    for number, entry in enumerate(value if isinstance(value, list) else [value], start=1):
        yield Record(entry, f"{path}, record {number}")


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _parse(text: str, origin: str, hint: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except _RepeatedKeyError as error:
        raise DataError(
            f"{origin}: the key {error.args[0]!r} is given twice in one object; remove one of them"
        ) from None
    except json.JSONDecodeError as error:
        where = (
            f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        )
        raise DataError(f"{origin}: not JSON ({error.msg} at {where}); {hint}") from error
    except RecursionError:
        raise DataError(f"{origin}: nested too deeply; {hint}") from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{origin}: not JSON that can be read ({error}); {hint}") from error


class _RepeatedKeyError(Exception):
    """The key."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises _RepeatedKeyError, since `json` would keep the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _RepeatedKeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found


def _paragraphs(lines: Iterable[str], path: Path) -> Iterator[Record]:
    """Yield runs of lines that are not blank."""
    kept: list[str] = []
    number = 0
    for line in lines:
        for part in re.split("\r\n|\r|\n", line.removesuffix("\n").removesuffix("\r")):
            number += 1
            if part.strip():
                kept.append(part)
            elif kept:
                yield Record({"text": "\n".join(kept)}, f"{path}, line {number - len(kept)}")
                kept = []
    if kept:
        yield Record({"text": "\n".join(kept)}, f"{path}, line {number + 1 - len(kept)}")


def _table(file: io.BufferedIOBase, path: Path, delimiter: str) -> Iterator[Record]:
    """Yield the rows of a table with a header as objects of text; an empty cell is null."""
    # The limit is the module's own state; 128 KiB by default, which a long document exceeds.
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_lines(file, path), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        repeated = next((name for name in header if header.count(name) > 1), None)
        if repeated is not None:
            raise DataError(f"{path}, line 1: the column {repeated!r} is given twice; rename one of them")
        while True:
            line = reader.line_num + 1
            row = next(reader, None)
            if row is None:
                return
            if not row:  # a blank line
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {line}: has {len(row)} cells, but the header has {len(header)} columns; put text that contains "
                    "the delimiter or a line break in quotes"
                )
            yield Record(
                {name: cell or None for name, cell in zip(header, row, strict=True)}, f"{path}, line {line}"
            )
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not a table ({error}); quote text with double quotes, and double those inside"
        ) from error


def _parquet(path: Path, setting: str, wanted: Callable[[str], bool]) -> Iterator[Record]:
    try:
        with open_file(path, setting) as file, pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            number = 0
            # A row without any field that is used still has to be reported.
            for batch in table.iter_batches(
                _PARQUET_ROWS, columns=[name for name in names if wanted(name)] or None
            ):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(row, f"{path}, row {number}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a Parquet file that can be read ({first_line(error)[:120]}); write it again"
        ) from error
