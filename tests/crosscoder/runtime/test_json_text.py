"""JSON that is not trusted: whatever cannot be parsed is one kind of error, in every reader of files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from analysis.discovery_benchmark.zoo_folder import read_organisms
from analysis.judges.reply_cache import ReplyCache
from analysis.report.before_dictionary import before_dictionary
from analysis.report.content import _choice_of_k  # pyright: ignore[reportPrivateUsage]
from analysis.tables.analysis_files import load_results
from analysis.tables.histogram_rows import _read_legacy  # pyright: ignore[reportPrivateUsage]
from crosscoder.activations.shards import map_tensors
from crosscoder.dictionary.storage import read_record
from crosscoder.errors import CrosscoderError
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import MetricsLog
from crosscoder.runtime.file_record import FileRecord
from crosscoder.runtime.json_text import NestedTooDeeplyError, json_of, parse_json
from crosscoder.text.documents import Documents

DEEP = "[" * 200_000


def test_what_cannot_be_parsed_is_a_value_error(tmp_path: Path) -> None:
    assert parse_json('{"a": [1]}') == {"a": [1]} == parse_json(b'{"a": [1]}')
    for text in ("", "{", "1" * 5000, DEEP):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is Python's
            parse_json(text)
    with pytest.raises(NestedTooDeeplyError, match=r"^nested too deeply$"):
        parse_json(DEEP)
    # Positive control: `json` reports it as something else.
    with pytest.raises(RecursionError):
        json.loads(DEEP)
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        json_of(tmp_path / "a.json")


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a dictionary": ("config.json", read_record),
    "the record of a run": ("manifest.json", lambda folder: RunFolder(folder).read_manifest()),
    "the record of its files": ("files.json", lambda folder: FileRecord(folder).read()),
    "a summary": ("analysis/summary.json", lambda folder: load_results(RunFolder(folder))),
    "a card of the zoo": ("one/behavior.json", read_organisms),
    "a survey": ("survey.json", lambda folder: before_dictionary(RunFolder(folder), {})),
    "a sweep": ("sweep/sweep.json", lambda folder: _choice_of_k(RunFolder(folder), {})),
    "histograms of an earlier release": (
        "histograms.json",
        lambda folder: _read_legacy(folder / "histograms.json"),
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_nested_too_deeply_is_refused_in_one_line(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(CrosscoderError) as caught:
        read(tmp_path)
    assert "nested too deeply" in str(caught.value) and "\n" not in str(caught.value)


def test_headers_of_safetensors_that_are_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shard.safetensors").write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())
    with pytest.raises(CrosscoderError, match="not a readable safetensors file"):
        map_tensors(tmp_path / "shard.safetensors")
    save_file({"a": np.zeros(1)}, tmp_path / "documents.safetensors", {"source_names": DEEP})
    with pytest.raises(CrosscoderError, match="not a complete file of documents"):
        Documents.load(tmp_path / "documents.safetensors")


def test_a_line_that_is_nested_too_deeply_is_a_damaged_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{DEEP}\n')
    MetricsLog(tmp_path / "metrics.jsonl").truncate(5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    (tmp_path / "replies.jsonl").write_text(f"{DEEP}\n")
    ReplyCache(tmp_path / "replies.jsonl")
    assert "damaged line" in caplog.text
