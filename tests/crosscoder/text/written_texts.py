"""Writes the same documents in every shape and file type that the readers know."""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Chat = list[dict[str, Any]]
Row = dict[str, Any]

_SHAREGPT = {"user": "human", "assistant": "gpt"}


def turns(chat: Chat) -> list[dict[str, Any]]:
    return [{"from": _SHAREGPT.get(m["role"], m["role"]), "value": m["content"]} for m in chat]


CHAT_SHAPES: dict[str, Callable[[Chat], Row]] = {
    "messages": lambda chat: {"messages": chat},
    "parts": lambda chat: {
        "messages": [m | {"content": [{"type": "text", "text": m["content"]}]} for m in chat]
    },
    "several parts": lambda chat: {
        "messages": [
            m | {"content": [{"type": "text", "text": m["content"][:3]}, {"type": "text", "text": m["content"][3:]}]}
            for m in chat
        ]
    },
    "null fields": lambda chat: {"text": None, "messages": [m | {"name": None, "tool_calls": None} for m in chat]},
    "other fields": lambda chat: {"id": 7, "score": float("nan"), "messages": chat, "prompt": "unread"},
    "messages as json": lambda chat: {"messages": json.dumps(chat)},
    "conversations": lambda chat: {"conversations": turns(chat)},
    "conversation": lambda chat: {"conversation": chat},
}  # fmt: skip
"""Ways to write any chat."""

PAIR_SHAPES: dict[str, Callable[[str, str], Row]] = {
    "prompt": lambda one, other: {"prompt": one, "completion": other},
    "prompt as messages": lambda one, other: {
        "prompt": [{"role": "user", "content": one}],
        "completion": [{"role": "assistant", "content": other}],
    },
    "instruction": lambda one, other: {"instruction": one, "output": other},
    "empty input": lambda one, other: {"instruction": one, "input": "", "output": other},
    "null input": lambda one, other: {"instruction": one, "input": None, "output": other},
}
"""Ways to write a chat of one question and one answer."""


def lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_table(path: Path, rows: Sequence[Row], delimiter: str) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(names)
        for row in rows:
            cells = [row.get(name) for name in names]
            writer.writerow([json.dumps(cell) if isinstance(cell, list) else cell for cell in cells])


def write_zst(path: Path, content: bytes) -> None:
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(content)


FILE_TYPES: dict[str, Callable[[Path, Sequence[Row]], Any]] = {
    ".jsonl": lambda path, rows: path.write_text(lines(rows), encoding="utf-8"),
    ".ndjson": lambda path, rows: path.write_text(lines(rows).rstrip("\n"), encoding="utf-8"),
    ".json": lambda path, rows: path.write_text(json.dumps(rows, indent=1), encoding="utf-8"),
    ".jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(lines(rows).encode())),
    ".jsonl.zst": lambda path, rows: write_zst(path, lines(rows).encode()),
    ".json.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    ".csv": lambda path, rows: write_table(path, rows, ","),
    ".tsv": lambda path, rows: write_table(path, rows, "\t"),
    ".parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(list(rows)), path),
}
"""Ways to write records to a file."""
