"""Paths on the command line that no file system takes, and files nested without end: one line and exit code 2."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from crosscoder.command.app import app
from crosscoder.config import RunConfig
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import read_json

LONG = "a" * 5000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    files = {"kind": "files", "reference": "a.npy", "intervened": "b.npy"}
    config = RunConfig.model_validate({"output": str(tmp_path / "run"), "activations": files})
    return RunFolder.create(config.output, config).path


@pytest.mark.parametrize(
    "words",
    [
        ["run", LONG],
        ["doctor", f"{LONG}.yaml"],
        ["train", "RUN", f"output={LONG}"],
        ["attribute", "RUN", LONG],
        ["explain", "RUN", LONG],
        ["report", "RUN", "--require", LONG],
        ["plot", LONG],
        ["compare", LONG, "RUN"],
        ["demo", LONG],
        ["evaluate", "planted", LONG],
    ],
)
def test_a_path_that_is_too_long_is_one_line(run: Path, words: list[str]) -> None:
    found = CliRunner().invoke(app, [str(run) if word == "RUN" else word for word in words])
    assert found.exit_code == 2, (found.output, found.exception)
    line = found.output.strip().splitlines()[-1]
    assert line.startswith("crosscoder: ") and len(line) < 1200 and "Traceback" not in found.output


def test_json_without_end_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * 200_000)
    with pytest.raises(FormatError, match=r"x\.json: nested too deeply; make it again$"):
        read_json(path, "make it again")
