"""A run that was killed and started again ends in the same bits as one that was left alone."""

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
    "training.n_tokens=120000",
    "training.batch_tokens=256",
    "training.checkpoint_every=10",
    "training.evaluate_every=50",
    "activations.shard_tokens=512",
    "activations.batch_tokens=512",
    "wandb.mode=disabled",
    "threads=1",
]


def command(folder: Path, kind: str) -> list[str]:
    """The demo on the toy pair, small."""
    words = [f"activations.kind={kind}", *SETTINGS] + (
        ["activations.buffer_tokens=2048"] if kind == "stream" else []
    )
    return [sys.executable, "-m", "crosscoder", "demo", str(folder), "--toy", *words]


def run(folder: Path, kind: str) -> None:
    """Run to the end."""
    subprocess.run(command(folder, kind), check=True, capture_output=True, timeout=500)


def killed(folder: Path, kind: str, reached: Path, chance: random.Random) -> None:
    """Start, wait until `reached` exists and a random moment longer, and kill -9."""
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
def test_killed_three_times_equals_undisturbed(tmp_path: Path, kind: str) -> None:
    """Killed in the harvest and twice in training; weights, metrics and features are those of an undisturbed run."""
    os.environ["OMP_NUM_THREADS"] = "1"
    chance = random.Random(0)
    disturbed, undisturbed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    run(undisturbed, kind)
    side = "train" if kind == "cache" else "held_out"
    for reached in (
        Path("activations") / side / "00000.safetensors",
        Path("checkpoints/step_*10"),
        Path("checkpoints/step_*1?0"),
    ):
        killed(disturbed, kind, reached, chance)
    run(disturbed, kind)
    for name in ("crosscoder/model.safetensors", "metrics.jsonl", "analysis/features.parquet"):
        assert (disturbed / name).read_bytes() == (undisturbed / name).read_bytes(), name
