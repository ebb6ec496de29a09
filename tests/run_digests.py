"""Digests of what a run computed, without its wording: `python -m tests.run_digests RUN`.

One line for each file: the dictionary's tensors, the columns of every table, and the numbers of every JSON file. Text that
people read (reasons, explanations, sentences) is left out unless `--with-wording` asks for it, and so is whatever differs between
two equal runs: paths, times, versions. A change that should change no number shows equal lines before and after.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

WORDING = {"explanation", "observation", "reason"}
"""Columns and fields that hold sentences."""
OF_ONE_RUN = {"manifest.json"}
"""Files that differ between two runs of the same settings."""


def digests(run: Path, with_wording: bool = False) -> dict[str, str]:
    """The digest of each result of a run, by its path in the folder."""
    left_out = set() if with_wording else WORDING
    found = {}
    for path in sorted(run.rglob("*")):
        inside = path.relative_to(run)
        if inside.parts[0] not in ("crosscoder", "analysis", "behaviors", "controls", "sweep"):
            continue
        if path.suffix in _CONTENT and path.name not in OF_ONE_RUN:
            found[str(inside)] = _digest(_CONTENT[path.suffix](path, left_out))
    return found


def _digest(content: Iterator[bytes]) -> str:
    total = hashlib.blake2b(digest_size=8)
    for part in content:
        total.update(part)
    return total.hexdigest()


def _of_tensors(path: Path, _: Set[str]) -> Iterator[bytes]:
    with safe_open(path, "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            yield tensor.contiguous().flatten().float().numpy().tobytes()


def _of_table(path: Path, left_out: Set[str]) -> Iterator[bytes]:
    table: pa.Table = pq.read_table(path)
    for name in sorted(set(table.column_names) - left_out):
        yield name.encode()
        yield repr(table[name].to_pylist()).encode()


def _of_json(path: Path, left_out: Set[str]) -> Iterator[bytes]:
    yield json.dumps(
        _numbers(json.loads(path.read_text(encoding="utf-8")), left_out), sort_keys=True
    ).encode()


def _numbers(value: Any, left_out: Set[str]) -> Any:
    """A JSON value without its texts, many of which are paths."""
    if isinstance(value, dict):
        return {key: _numbers(part, left_out) for key, part in value.items() if key not in left_out}
    if isinstance(value, list):
        return [_numbers(part, left_out) for part in value]
    return None if isinstance(value, str) else value


_CONTENT = {".safetensors": _of_tensors, ".parquet": _of_table, ".json": _of_json}


def main() -> None:
    """Print a line for each result."""
    parser = argparse.ArgumentParser(prog="python -m tests.run_digests", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--with-wording", action="store_true", help="count the sentences in tables, too")
    arguments = parser.parse_args()
    for name, digest in digests(arguments.run, arguments.with_wording).items():
        print(digest, name)  # noqa: T201


if __name__ == "__main__":
    main()
