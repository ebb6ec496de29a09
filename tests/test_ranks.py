"""A run by the ranks of torchrun has the results of one process, also if a rank is stopped or killed and the run continued by others."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crosscoder.config import ControlsConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import dump_config
from crosscoder.planted import SMALL, PlantedPair
from tests.processes import run_python, start_python
from tests.run_digests import digests
from tests.test_latent_shards import rank_of
from tests.tiny_pairs import WORDS, run_config, save_llama
from tests.training.in_memory import run_config as config_in_memory
from tests.training.test_doctor import files
from training.stages import train

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "crosscoder": {"n_latents": 32, "sparsity": {"kind": "batch_topk", "k": 4}},
    "training": {"n_tokens": 4_800, "batch_tokens": 48, "lr": 3e-3, "evaluate_every": 50, "log_every": 1, "checkpoint_every": 10_000},
    "controls": {"seeds": 1, "difference": True},
    "discovery": {"prompts": 0},
    "wandb": {"mode": "disabled"},
    "threads": 1,
}  # fmt: skip
CACHE = {"kind": "cache", "dtype": "float32", "shard_tokens": 60, "batch_tokens": 48}
STREAM = CACHE | {"kind": "stream", "buffer_tokens": 150}
KINDS = {"cache": CACHE, "stream": STREAM}
BEHAVIOR = {
    "prompts": [f"{one} {other}" for one in WORDS[:5] for other in WORDS[4:10]],
    "metric": {"kind": "divergence"}, "shift": {"unseen": 0.25}, "elsewhere_limit": 2, "attribution": {"layers": False, "steps": 1},
    "checks": {"latents": 2, "counts": [1], "draws": 19, "doses": [1.0]},
}  # fmt: skip
SECONDS = 500


class Settings:
    """A tiny pair, its settings by kind of activations, and the run that one process makes with each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        models = save_llama(folder / "a"), save_llama(folder / "b", 1)
        behaviors = [folder / "one.yaml", folder / "two.yaml"]
        for number, path in enumerate(behaviors):
            behavior = Behavior.model_validate(BEHAVIOR | {"name": path.stem, "seed": number})
            path.write_text(dump_config(behavior))
        for kind, activations in KINDS.items():
            named = {"behaviors": [str(path) for path in behaviors]} if kind == "cache" else {}
            config = run_config(folder, *models, activations=activations, **SETTINGS, **named)
            (folder / f"{kind}.yaml").write_text(dump_config(config))

    def words(self, kind: str, output: Path, verb: str = "train") -> tuple[str, str, str]:
        return verb, str(self.folder / f"{kind}.yaml"), f"output={output}"

    def alone(self, kind: str) -> Path:
        """Return the run that one process made."""
        run = self.folder / kind
        if not run.exists():
            done = run_python("-m", "crosscoder", *self.words(kind, run, "run"), timeout=SECONDS)
            assert done.returncode == 0, done.stderr
        return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    os.environ["OMP_NUM_THREADS"] = "1"
    return Settings(tmp_path_factory.mktemp("ranks"))


def torchrun(size: int) -> tuple[str, ...]:
    return "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "-m", "crosscoder"


def assert_equal(run: Path, alone: Path) -> None:
    """Weights, evaluations, metrics, tables and activations are those of one process, bit for bit; of what the run has."""
    wanted, found = digests(alone), digests(run)
    assert len(found) > 16 and found == {name: wanted[name] for name in found}
    metrics = [path.relative_to(alone) for path in alone.rglob("metrics.jsonl")]
    activations = [path.relative_to(alone) for path in (alone / "activations").rglob("*.*")]
    assert len(metrics) == 8 and len(activations) > 4
    for name in (*metrics, *activations):
        assert (run / name).read_bytes() == (alone / name).read_bytes(), name
    assert not (run / "activations" / "parts").exists()
    stages, others = (json.loads((one / "manifest.json").read_text())["stages"] for one in (run, alone))
    assert all(stage["finished"] for stage in stages.values())
    assert stages["train"]["controls"] == others["train"]["controls"]
    assert stages["harvest"]["tokens"] == others["harvest"]["tokens"]


def results(run: Path, folder: str) -> dict[str, bytes]:
    """The files in a folder of a run."""
    found = sorted(path for path in (run / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_make_the_run_of_one_process(made: Settings, tmp_path: Path, kind: str) -> None:
    done = run_python(
        *torchrun(2), *made.words(kind, tmp_path / "run", "run"), folder=tmp_path, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("features ") == 1, "rank 0 alone reports"
    assert "rank 1: train: dictionary controls/drift" in done.stderr
    assert digests(tmp_path / "run").keys() == digests(made.alone(kind)).keys()
    assert_equal(tmp_path / "run", made.alone(kind))
    if kind == "cache":
        assert "rank 1: attribute: behavior " in done.stderr
        assert len(results(tmp_path / "run", "behaviors")) == 14
    for folder in ("analysis", "behaviors"):
        assert results(tmp_path / "run", folder) == results(made.alone(kind), folder)


@pytest.mark.parametrize(
    ("kind", "sign", "continued_by"),
    [("cache", signal.SIGTERM, 3), ("cache", signal.SIGKILL, 1), ("stream", signal.SIGTERM, 1)],
)
def test_a_rank_is_stopped_and_the_run_continues(
    made: Settings, tmp_path: Path, kind: str, sign: signal.Signals, continued_by: int
) -> None:
    run, words = tmp_path / "run", made.words(kind, tmp_path / "run")
    launcher = start_python(*torchrun(2), *words, folder=tmp_path)
    # Ranks go through a stream together; without one, rank 0 may train later than rank 1.
    trained = ("controls/drift", ".") if kind == "stream" else ("controls/drift",)
    os.kill(_rank_1_in_training(run, trained, launcher), sign)
    _, errors = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode not in (0, None)
    if sign == signal.SIGTERM:
        assert "crosscoder: rank 1: interrupted; run the same command again to continue" in errors
        for name in trained:  # None was due, so that each was written because of the stop.
            assert len(list((run / name / "checkpoints").glob("step_*"))) == 1, name
    assert "crosscoder: rank 0: interrupted; run the same command again to continue" in errors
    start = torchrun(continued_by) if continued_by > 1 else ("-m", "crosscoder")
    done = run_python(*start, *words, folder=tmp_path, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert sign == signal.SIGKILL or "train: resuming from step" in done.stderr
    assert_equal(run, made.alone(kind))


def _rank_1_in_training(run: Path, trained: Sequence[str], launcher: subprocess.Popen[str]) -> int:
    """Return the process of the rank that trains the first control, once these dictionaries are being trained."""
    deadline = time.monotonic() + SECONDS
    logs = [run / name / "metrics.jsonl" for name in trained]
    while not all(log.exists() and log.stat().st_size for log in logs):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int((run / "controls" / "drift" / ".lock").read_text().split()[1])


def test_two_ranks_analyze_as_one_process_also_after_one_was_killed(made: Settings, tmp_path: Path) -> None:
    """The held-out tokens are several groups of documents, which both ranks read."""
    values = PlantedPair(counts=SMALL).sample(36_000)
    arrays = files(tmp_path, *values.split(48, dim=1)).activations
    config = config_in_memory(tmp_path / "alone", n_latents=24, steps=10)
    controls = ControlsConfig.model_validate({"seeds": 1, "identity": False, "intermittent": False})
    update = {"activations": arrays.model_copy(update={"held_out": 0.7}), "controls": controls, "threads": 1}
    train(config.model_copy(update=update))
    for name in ("ranks", "killed"):
        shutil.copytree(tmp_path / "alone", tmp_path / name)

    def analyze(name: str, *start: str) -> subprocess.CompletedProcess[str]:
        return run_python(*start, "analyze", tmp_path / name, folder=tmp_path, timeout=SECONDS)

    alone, together = analyze("alone", "-m", "crosscoder"), analyze("ranks", *torchrun(2))
    assert (alone.returncode, together.returncode) == (0, 0), alone.stderr + together.stderr
    expected = results(tmp_path / "alone", "analysis")
    assert "analysis/features.parquet" in expected and results(tmp_path / "ranks", "analysis") == expected
    launcher = start_python(*torchrun(2), "analyze", tmp_path / "killed", folder=tmp_path)
    deadline = time.monotonic() + SECONDS
    while "analyze" not in json.loads((tmp_path / "killed" / "manifest.json").read_text())["stages"]:
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(rank_of(launcher.pid, 1), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode not in (0, None)
    assert "crosscoder: rank 0: interrupted; run the same command again to continue" in errors
    again = analyze("killed", "-m", "crosscoder")
    assert again.returncode == 0, again.stderr
    assert results(tmp_path / "killed", "analysis") == expected


def test_a_mistake_is_said_once(made: Settings, tmp_path: Path) -> None:
    words = made.words("cache", tmp_path / "run")
    done = run_python(*torchrun(2), *words, "training.lr=-1", folder=tmp_path, timeout=SECONDS)
    said = [line for line in done.stderr.splitlines() if line.startswith("crosscoder: ")]
    assert done.returncode == 1 and len(said) == 1
    assert said[0].startswith("crosscoder: rank 0: training.lr: ")
    assert not (tmp_path / "run").exists()
