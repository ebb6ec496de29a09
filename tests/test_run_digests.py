"""The digests that show that a change of the code changed no number: they see every number, and no wording unless asked to."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from crosscoder.run.folder import RunFolder
from tests.analysis.run_folder import make_run_folder
from tests.run_digests import digests


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = make_run_folder(tmp_path / "run")
    made.crosscoder.mkdir(exist_ok=True)
    save_file({"W_dec": torch.ones(2, 3)}, made.crosscoder / "model.safetensors")
    return made


def changed(folder: RunFolder, before: dict[str, str], with_wording: bool = False) -> set[str]:
    after = digests(folder.path, with_wording)
    assert after.keys() == before.keys()
    return {name for name in after if after[name] != before[name]}


def rewrite(folder: RunFolder, column: str, value: Any) -> None:
    table: Any = pd.read_parquet(folder.features)
    table.loc[0, column] = value
    table.to_parquet(folder.features)


def test_every_number_counts(folder: RunFolder) -> None:
    before = digests(folder.path)
    assert {
        "analysis/features.parquet",
        "analysis/summary.json",
        "crosscoder/model.safetensors",
    } <= before.keys()
    assert changed(folder, before) == set()
    rewrite(folder, "density", 0.123)
    assert changed(folder, before) == {"analysis/features.parquet"}
    before = digests(folder.path)
    tensors = load_file(folder.crosscoder / "model.safetensors")
    tensors["W_dec"][1, 2] = 1 + 2**-20
    save_file(tensors, folder.crosscoder / "model.safetensors")
    summary = json.loads(folder.summary.read_text())
    summary["n_tokens"] += 1
    folder.summary.write_text(json.dumps(summary))
    assert changed(folder, before) == {"crosscoder/model.safetensors", "analysis/summary.json"}


def test_a_label_counts_and_its_wording_only_where_asked(folder: RunFolder) -> None:
    before, worded = digests(folder.path), digests(folder.path, with_wording=True)
    rewrite(folder, "reason", "said in other words")
    assert changed(folder, before) == set()
    assert changed(folder, worded, with_wording=True) == {"analysis/features.parquet"}
    table: Any = pd.read_parquet(folder.features)
    rewrite(folder, "label", "new" if table.loc[0, "label"] == "undetermined" else "undetermined")
    assert changed(folder, before) == {"analysis/features.parquet"}
