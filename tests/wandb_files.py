"""Read the records of an offline wandb run from its file."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crosscoder.run.folder import RunFolder


def records(path: Path) -> list[Any]:
    """Read a .wandb file: a 7-byte header, then LevelDB's log format in blocks of 32 KiB.

    wandb's service writes the last block shortly after the run is closed, so this waits for the exit record.
    """
    deadline = time.monotonic() + 20
    found = list(parse(path.read_bytes()))
    while not any(message.HasField("exit") for message in found) and time.monotonic() < deadline:
        time.sleep(0.05)
        found = list(parse(path.read_bytes()))
    return found


def parse(data: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B"
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            message = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
            message.ParseFromString(record)
            yield message
            record = b""


def history_row(message: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in message.history.item:
        name, *inside = item.nested_key or [item.key]
        if inside:
            row.setdefault(name, {})[inside[0]] = json.loads(item.value_json)
        else:
            row[name] = json.loads(item.value_json)
    return row


def offline_files(folder: RunFolder) -> list[Path]:
    return sorted(folder.wandb.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
