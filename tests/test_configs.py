"""Every file in configs/ runs as it is (shortened here)."""

from pathlib import Path

import pytest

from crosscoder.__main__ import app
from crosscoder.config import RunConfig
from crosscoder.folder import RunFolder
from crosscoder.settings import load_config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    config = load_config(path)
    assert isinstance(config, RunConfig)
    assert config.output.name == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(path: Path, tmp_path: Path) -> None:
    words = [f"output={tmp_path / 'run'}", "training.n_tokens=30000", "threads=1"]
    app(["run", str(path), *words], standalone_mode=False)
    folder = RunFolder.open(tmp_path / "run")
    assert (folder.report / "report.md").stat().st_size > 0
    assert (folder.browser / "index.html").stat().st_size > 0
