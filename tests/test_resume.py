"""A run that is killed and resumed is bitwise identical to an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SETTINGS = [
    "crosscoder.n_latents=64",
    "training.n_tokens=50000",
    "training.batch_tokens=256",
    "training.checkpoint_every=10",
    "training.evaluate_every=50",
    "activations.shard_tokens=512",
    "activations.batch_tokens=512",
    "wandb.mode=disabled",
    "threads=1",
    # What comes before and after the training is killed in test_kills.py.
    "controls.seeds=1",
    "controls.intermittent=false",
    "controls.shuffled=false",
    "discovery.prompts=0",
    "discovery.attribute=0",
]


def command(folder: Path, kind: str) -> list[str]:
    """Return the command of a small demo on the toy pair."""
    words = [f"activations.kind={kind}", *SETTINGS] + (
        ["activations.buffer_tokens=2048"] if kind == "stream" else []
    )
    return [sys.executable, "-m", "crosscoder", "demo", str(folder), "--toy", *words]


def run(folder: Path, kind: str) -> None:
    """Run the demo to the end."""
    subprocess.run(command(folder, kind), check=True, capture_output=True, timeout=500)


def run_and_kill(folder: Path, kind: str, reached: Path, chance: random.Random) -> None:
    """Start the demo, wait until `reached` exists plus a random time, and kill it with SIGKILL."""
    process = subprocess.Popen(command(folder, kind), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(folder.glob(str(reached))):
        assert process.poll() is None, f"ended before {reached} appeared"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "ended before it could be killed"


@pytest.mark.parametrize("kind", ["cache", "stream"])
def test_a_run_killed_three_times_equals_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    """Killed in the harvest and twice in training, a run has the weights, metrics and features of an uninterrupted run."""
    os.environ["OMP_NUM_THREADS"] = "1"
    chance = random.Random(0)
    interrupted, uninterrupted = tmp_path / "a" / "run", tmp_path / "b" / "run"
    run(uninterrupted, kind)
    side = "train" if kind == "cache" else "held_out"
    for reached in (
        Path("activations") / side / "00000.safetensors",
        Path("checkpoints/step_*10"),
        Path("checkpoints/step_*1?0"),
    ):
        run_and_kill(interrupted, kind, reached, chance)
    run(interrupted, kind)
    for name in ("crosscoder/model.safetensors", "metrics.jsonl", "analysis/features.parquet"):
        assert (interrupted / name).read_bytes() == (uninterrupted / name).read_bytes(), name
