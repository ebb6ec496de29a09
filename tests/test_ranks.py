"""A run by the ranks of torchrun has the results of one process, also if a rank is stopped or killed and the run continued by others."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crosscoder.config.load import dump_config
from tests.processes import run_python, start_python
from tests.run_digests import digests
from tests.tiny_pairs import run_config, save_llama

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
SECONDS = 500


class Settings:
    """A tiny pair, its settings by kind of activations, and the run that one process makes with each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        models = save_llama(folder / "a"), save_llama(folder / "b", 1)
        for kind, activations in KINDS.items():
            config = run_config(folder, *models, activations=activations, **SETTINGS)
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


def test_a_mistake_is_said_once(made: Settings, tmp_path: Path) -> None:
    words = made.words("cache", tmp_path / "run")
    done = run_python(*torchrun(2), *words, "training.lr=-1", folder=tmp_path, timeout=SECONDS)
    said = [line for line in done.stderr.splitlines() if line.startswith("crosscoder: ")]
    assert done.returncode == 1 and len(said) == 1
    assert said[0].startswith("crosscoder: rank 0: training.lr: ")
    assert not (tmp_path / "run").exists()
