"""`crosscoder import` and `crosscoder export`: from another tool's files to ours and back."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from crosscoder.command.app import app
from crosscoder.config import FileActivations, RunConfig
from crosscoder.dictionary.dialects.import_dictionary import load_crosscoder
from crosscoder.dictionary.storage import load_crosscoder as load_own
from crosscoder.dictionary.storage import read_record, save_crosscoder
from crosscoder.run.folder import RunFolder
from tests.dictionaries import raw_activations, small_crosscoder
from tests.foreign_dictionaries import CASES, FIXTURES, PAIR

SOURCE = FIXTURES / "crosscoder_learning" / "sae"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_an_imported_dictionary_is_ours(tmp_path: Path) -> None:
    result = call("import", SOURCE, tmp_path / "out", "--models", "reference,intervened")
    assert result.exit_code == 0, result.output
    for shown in (
        "crosscoder_learning",
        "models reference, intervened",
        "code_normalization SAE",
        "14, batch_topk",
    ):
        assert shown in result.stdout
    ours, theirs = load_own(tmp_path / "out"), load_crosscoder(SOURCE, **PAIR)
    assert ours.config == theirs.config
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    origin = read_record(tmp_path / "out")["provenance"]["imported"]
    assert origin["dialect"] == "crosscoder_learning"
    assert origin["given"] == {"models": ["reference", "intervened"]}
    assert origin["source"] == str(SOURCE)
    assert len(origin["sha256"]["model_final.pt"]) == 64


def test_a_question_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    result = call("import", SOURCE, tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("crosscoder: ")
    assert result.stderr.count("\n") == 1
    assert "--models reference,intervened" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--reads", "both", "--reads: 'both' is not possible"),
        ("--from", "sparsfy", "did you mean 'sparsify'?"),
        ("--models", "base,chat", "models: base, chat does not name each of the 2 models once"),
        ("--normalization", "none", "normalization: has no effect"),
    ],
)
def test_a_wrong_answer_is_one_line(tmp_path: Path, option: str, value: str, message: str) -> None:
    models = () if option == "--models" else ("--models", "reference,intervened")
    result = call("import", SOURCE, tmp_path / "out", *models, option, value)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    result = call("import", SOURCE, tmp_path / "out", "--models", "reference,intervened")
    assert result.exit_code == 2
    assert "is not empty; name a new folder" in result.stderr


def test_a_threshold_can_wait(tmp_path: Path) -> None:
    place, _ = CASES["crosscode, batchtopk"].write(tmp_path / "source")
    result = call("import", place, tmp_path / "out", "--models", "reference,intervened", "--uncalibrated")
    assert result.exit_code == 0, result.output
    assert "calibrate it on activations" in result.stdout
    assert load_own(tmp_path / "out").sparsity.get_buffer("threshold").isnan()
    result = call(
        "import", place, tmp_path / "other", "--models", "reference,intervened", "--threshold", "0.5"
    )
    assert float(load_own(tmp_path / "other").sparsity.get_buffer("threshold")) == 0.5


@pytest.mark.parametrize("to", ["saelens", "crosscoder_learning"])
def test_a_run_goes_out_and_comes_back(tmp_path: Path, to: str) -> None:
    config = RunConfig(
        output=tmp_path / "run", activations=FileActivations(reference=Path("a"), intervened=Path("b"))
    )
    folder = RunFolder.create(config.output, config)
    crosscoder = small_crosscoder("batch_topk", "two")
    save_crosscoder(crosscoder, folder.crosscoder, {"pair": None})
    result = call("export", folder.path, "--to", to)
    assert result.exit_code == 0, result.output
    place = folder.path / "exports" / to
    assert str(place) in result.stdout
    result = call(
        "import", place, tmp_path / "back", *(["--models", "reference,intervened"] if to != "saelens" else [])
    )
    assert result.exit_code == 0, result.output
    values = raw_activations((6, 6))
    codes, again = crosscoder.encode(values), load_own(tmp_path / "back").encode(values)
    torch.testing.assert_close(again, codes, rtol=1e-4, atol=1e-5)
    if to == "saelens":
        for model in ("reference", "intervened"):
            settings = json.loads((place / "transcoder" / model / "cfg.json").read_text())
            assert (settings["d_in"], settings["d_out"]) == (12, 6)


@pytest.mark.parametrize(
    ("to", "extra", "message"),
    [
        ("delphi", (), "holds the held-out texts of the run as token ids; allow it with --with-examples"),
        ("saelens", ("--with-examples",), "saelens holds weights alone"),
    ],
)
def test_texts_are_written_only_where_they_are_allowed(
    tmp_path: Path, to: str, extra: tuple[str, ...], message: str
) -> None:
    config = RunConfig(
        output=tmp_path / "run", activations=FileActivations(reference=Path("a"), intervened=Path("b"))
    )
    folder = RunFolder.create(config.output, config)
    result = call("export", folder.path, "--to", to, *extra)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (folder.path / "exports").exists()
