"""Keeps what was read of a stream, and a cursor to continue after it.

The copy lies in the cache of the `datasets` library, in parts. Each part is a file of JSON lines that is written at once; its first line
holds the number of its records and the library's state after them. So a reader that was stopped continues after the last part, one that
reads again needs no network for what it has, and two that read at once write the same bytes.
"""

import json
import logging
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from ..runtime.files import content_digest, write_atomic
from ..runtime.json_text import parse_json

logger = logging.getLogger(__name__)

_VERSION = 1

PART_RECORDS = 512
"""Records of a part: at most so many are read again after a stop."""


class StreamCopy:
    """The records of a stream, read once."""

    def __init__(self, key: dict[str, Any], open_stream: Callable[[], Any]) -> None:
        """
        Args:
            key: What decides the records: dataset, revision, split, fields.
            open_stream: Opens the stream, an `IterableDataset`, at its start.
        """
        from datasets.config import HF_DATASETS_CACHE

        digest = content_digest(json.dumps([_VERSION, key], sort_keys=True).encode())
        self.folder = Path(HF_DATASETS_CACHE) / "crosscoder" / digest
        self._open_stream = open_stream

    def records(self) -> Generator[Any, None, None]:
        """Yield the records in order: those of the copy, then those of the stream, which are added to it.

        Records are JSON values in both cases, so that they are the same.
        """
        n_read, state = 0, None
        while (part := self._read_part(n_read)) is not None:
            header, rows = part
            yield from rows
            n_read, state = n_read + len(rows), header["state"]
            if header["is_last"]:
                return
        if n_read:
            logger.info("continuing the stream after %d records, which are in %s", n_read, self.folder)
        yield from self._follow(n_read, state)

    def _follow(self, n_read: int, state: Any) -> Generator[Any, None, None]:
        stream = self._open_stream()
        if state is not None:
            stream.load_state_dict(state)
        lines: list[str] = []
        rows = iter(stream)
        try:
            for row in rows:
                # default: a value that is not JSON, such as a date, is in a field that is not text.
                lines.append(json.dumps(row, default=str))
                if len(lines) == PART_RECORDS:
                    self._write_part(n_read, lines, stream.state_dict(), is_last=False)
                    n_read, kept = n_read + len(lines), lines
                    lines = []
                    yield json.loads(kept[-1])
                else:
                    yield json.loads(lines[-1])
        except GeneratorExit:
            # The reader has enough.
            if lines:
                self._write_part(n_read, lines, stream.state_dict(), is_last=False)
            raise
        finally:
            if hasattr(rows, "close"):
                rows.close()
        self._write_part(n_read, lines, stream.state_dict(), is_last=True)

    def _part(self, start: int) -> Path:
        return self.folder / f"records-{start:012d}.jsonl"

    def _read_part(self, start: int) -> tuple[dict[str, Any], list[Any]] | None:
        """Return the header and the records of a part; None if there is none, or if it is not whole."""
        try:
            first, *lines = self._part(start).read_text(encoding="utf-8").splitlines()
            header = parse_json(first)
            rows = [parse_json(line) for line in lines]
            whole = header["n_records"] == len(rows) and header["digest"] == _digest(lines)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            whole = False
            header, rows = {}, []
        if not whole:
            logger.warning("%s is damaged and is read again from the stream", self._part(start))
            return None
        return header, rows

    def _write_part(self, start: int, lines: list[str], state: Any, *, is_last: bool) -> None:
        header = {"n_records": len(lines), "is_last": is_last, "digest": _digest(lines), "state": state}
        write_atomic(self._part(start), "".join(f"{line}\n" for line in (json.dumps(header), *lines)))


def _digest(lines: list[str]) -> str:
    return content_digest("\n".join(lines).encode())
