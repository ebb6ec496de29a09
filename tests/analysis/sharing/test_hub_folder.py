"""What is pushed to a hub: a dictionary that loads, a model card, tables, and no text of the run or path of the machine unless asked for."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from analysis.report import write_report
from analysis.sharing import hub_folder
from analysis.sharing.hub_folder import files_of, write_hub_folder
from crosscoder.command.app import app
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.comparison.compared_run_folders import make_run, withheld
from tests.analysis.handmade_runs import files_are_not_checked
from tests.analysis.run_folder import HOSTILE
from tests.analysis.sharing.test_shared_files import quoted

__all__ = ["files_are_not_checked"]

PLAIN = ["README.md", "config.json", "features.parquet", "model.safetensors"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run(tmp_path_factory.mktemp("shared") / "run")
    write_report(folder)
    folder.browser.mkdir()
    (folder.browser / "index.html").write_text("<p>page")
    return folder


def content(place: Path) -> str:
    """All text of a folder, tables included."""
    parts = [path.read_text() for path in place.rglob("*") if path.suffix in (".md", ".json", ".html")]
    return "\n".join([*parts, str(pq.read_table(place / "features.parquet").to_pydict())])


def test_the_dictionary_is_the_run_s_and_nothing_quotes_its_texts(run: RunFolder, tmp_path: Path) -> None:
    place = tmp_path / "hub"
    place.mkdir()
    (place / "left.txt").write_text("of a former export with examples")
    write_hub_folder(run, place)
    assert [name for name, _ in files_of(place)] == PLAIN
    ours, pushed = load_crosscoder(run.crosscoder).state_dict(), load_crosscoder(place).state_dict()
    assert ours.keys() == pushed.keys() and all(torch.equal(ours[name], pushed[name]) for name in ours)
    text = content(place)
    assert not [one for one in quoted(run) if one in text]
    assert HOSTILE[0] not in (place / "README.md").read_text()
    # Positive control: with examples they are there.
    write_hub_folder(run, place, with_examples=True)
    assert {"page/index.html", "report/report.md"} <= {name for name, _ in files_of(place)}
    assert (place / "report" / "report.md").read_text() == (run.report / "report.md").read_text()
    assert pq.read_table(place / "features.parquet").equals(pq.read_table(run.features))


def test_columns_of_text_are_left_out_and_numbers_stay(run: RunFolder, tmp_path: Path) -> None:
    write_hub_folder(run, tmp_path / "hub")
    whole, shared = (pq.read_table(path) for path in (run.features, tmp_path / "hub" / "features.parquet"))
    assert "explanation" in whole.column_names and "explanation" not in shared.column_names
    assert {"latent", "label", "reason", "norm_ratio", "density"} & set(whole.column_names) <= set(
        shared.column_names
    )
    assert shared.num_rows == whole.num_rows


def test_paths_of_the_machine_are_cut(run: RunFolder, tmp_path: Path) -> None:
    path = run.crosscoder / "config.json"
    record = json.loads(path.read_text())
    before = path.read_text()
    record["provenance"] |= {
        "pair": {
            "reference": {"model": "/home/me/base", "hookpoint": "model.layers.3"},
            "intervened": {"model": "org/name", "adapter": "../mine", "hookpoint": "model.layers.3"},
        },
        "texts": [{"path": "/data/secret/chat.jsonl"}],
    }
    path.write_text(json.dumps(record))
    try:
        write_hub_folder(run, tmp_path / "hub", repo="me/mine")
    finally:
        path.write_text(before)
    text, card = content(tmp_path / "hub"), (tmp_path / "hub" / "README.md").read_text()
    assert "/home/me" not in text and "/data/secret" not in text and "chat.jsonl" in text
    assert 'base_model:\n  - "org/name"\n' in card
    assert 'load_crosscoder("me/mine")' in card and "`model.layers.3`" in card and "`mine`" in card


def test_labels_that_are_withheld_are_no_findings(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    write_hub_folder(folder, tmp_path / "hub")
    assert "| shared |" in (tmp_path / "hub" / "README.md").read_text()
    withheld(folder)
    write_hub_folder(folder, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "**Nothing is labeled**" in card and "| shared |" not in card


def test_a_report_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"report\.json: missing; run `crosscoder report"):
        write_hub_folder(make_run(tmp_path / "run"), tmp_path / "hub", with_examples=True)


class Hub:
    """Takes what is uploaded, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, []

    def create_repo(self, repo: str, **options: Any) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append((repo, options))
        return f"hub/{repo}"

    def upload_folder(self, **options: Any) -> SimpleNamespace:
        self.calls.append(options)
        return SimpleNamespace()


@pytest.mark.parametrize(("word", "private"), [("", True), ("--public", False)])
def test_push_uploads_the_folder_privately_unless_told_otherwise(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, word: str, private: bool
) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    done = CliRunner().invoke(app, ["push", str(run.path), "me/mine", *([word] if word else [])])
    assert done.exit_code == 0, done.output
    assert hub.calls[0] == ("me/mine", {"private": private, "exist_ok": True})
    assert (
        hub.calls[1]["repo_id"] == "me/mine" and hub.calls[1]["folder_path"] == run.path / "exports" / "hub"
    )
    assert [line.split()[-1] for line in done.output.splitlines()] == [*PLAIN, "hub/me/mine"]


def test_a_dry_run_lists_the_files_and_reaches_nobody(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("the hub was asked"))
    done = CliRunner().invoke(app, ["push", str(run.path), "me/mine", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert [line.split()[-1] for line in done.output.splitlines()][:-1] == PLAIN
    assert "not pushed" in done.output


def test_a_hub_that_refuses_is_one_line(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hub_folder(run, tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(OSError("no route\nto host")))
    with pytest.raises(ConfigError, match=r"^REPO: me/mine cannot be written \(no route\)") as caught:
        hub_folder.upload(tmp_path / "hub", "me/mine", private=True)
    assert "\n" not in str(caught.value)
