"""Finds the text files that a setting names, and opens them, compressed or not."""

import glob
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from ..errors import ConfigError, DataError

TABLES = (".csv", ".tsv")
LINES = (".jsonl", ".ndjson")
KINDS = (*LINES, ".json", *TABLES, ".txt", ".parquet")
"""Endings of files of documents."""

COMPRESSED = (".gz", ".zst")
"""Endings that may follow those of text files."""

_GIVE = "give .jsonl, .json, .csv, .tsv or .txt, each also .gz or .zst, or .parquet"

# A folder with one of these files was written by `datasets`: its JSON files describe it and hold no documents.
_SAVED_DATASET = ("dataset_dict.json", "dataset_info.json")


def kind_of_file(path: Path) -> str | None:
    """Return the ending that says how a file is read, without that of a compression; None if it is not one of `KINDS`."""
    packed = path.suffix.lower() in COMPRESSED
    kind = (path.with_suffix("") if packed else path).suffix.lower()
    # A Parquet file is compressed inside.
    return kind if kind in KINDS and not (packed and kind == ".parquet") else None


def find_files(path: Path, setting: str) -> list[Path]:
    """Return the file, the files below a folder, or the files that match a pattern, ordered by name.

    In a folder, hidden files and files of other kinds are not read.

    Args:
        setting: What named the path, for messages.

    Raises:
        ConfigError: There is none, or a file is of no known kind.
    """
    path = path.expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting}: {str(path)[:80]!r}… is no path ({_reason(error)}); {_GIVE}") from error
    if not exists and glob.has_magic(str(path)):
        matches = sorted(
            (Path(match) for match in glob.glob(str(path), recursive=True)), key=lambda match: match.parts
        )
        files = [match for match in matches if match.is_file()]
        if not files:
            raise ConfigError(f"{setting}: no file matches the pattern {path}; {_GIVE}")
        return [_known(file, setting) for file in files]
    if not exists:
        raise ConfigError(f"{setting}: file {path} does not exist; {_GIVE}, a folder of them, or a pattern")
    if path.is_dir():
        return _files_below(path, setting)
    if not path.is_file():
        raise ConfigError(f"{setting}: {path} is neither a file nor a folder; {_GIVE}")
    return [_known(path, setting)]


@contextmanager
def open_file(path: Path, setting: str) -> Iterator[io.BufferedIOBase]:
    """Open a file, decompressed if its name ends in .gz or .zst.

    Raises:
        ConfigError: The file may not be read.
        DataError: It is not compressed as its name says, or ends early.
    """
    try:
        with _decompressed(path) as file:
            yield file
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not gzip data ({error}); write the file again, or rename it") from error
    except EOFError as error:
        raise DataError(f"{path}: the compressed data end early; copy the file again") from error
    except OSError as error:
        # Arrow's decompressor raises errors of this kind without a number.
        if error.errno is None:
            raise DataError(f"{path}: not zstd data, or cut off ({error}); write the file again") from error
        raise ConfigError(
            f"{setting}: {path} cannot be read ({_reason(error)}); give a readable file"
        ) from error


def _decompressed(path: Path) -> io.BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".zst":
            with path.open("rb"):  # Arrow's error for a file that may not be read does not say so.
                return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
        case _:
            return path.open("rb")


def _files_below(folder: Path, setting: str) -> list[Path]:
    if any((folder / name).is_file() for name in _SAVED_DATASET):
        raise ConfigError(
            f"{setting}: {folder} is a dataset that the `datasets` library saved; give it as dataset: instead of path:"
        )
    found = sorted(
        (
            file
            for file in folder.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        ),
        key=lambda file: file.parts,
    )
    files = [file for file in found if kind_of_file(file) is not None]
    if not files:
        endings = ", ".join(sorted({file.suffix or "no ending" for file in found})[:5]) or "no files"
        raise ConfigError(f"{setting}: folder {folder} has no file of documents (found {endings}); {_GIVE}")
    return files


def _known(path: Path, setting: str) -> Path:
    if kind_of_file(path) is None:
        raise ConfigError(f"{setting}: {path} ends in {''.join(path.suffixes[-2:]) or 'nothing'!r}; {_GIVE}")
    return path


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
