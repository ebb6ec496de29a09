"""torchrun starts the processes that share the latents of a dictionary; its variables and one setting are all they need."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from crosscoder.config.load import dump_config
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.run.folder import RunFolder
from tests.processes import run_python, start_python
from tests.training.in_memory import run_config
from tests.training.test_doctor import files
from training.checkpoints import checkpoints

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A run on arrays, with one control."""
    values = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    arrays = files(tmp_path, values, values + 0.3 * values.flip(1)).activations
    config = run_config(tmp_path / "run", n_latents=65, steps=40, checkpoint_every=10, evaluate_every=20)
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(config.model_copy(update={"activations": arrays})))
    return path


def words(settings: Path, name: str, *more: str) -> list[str]:
    controls = [
        f"controls.{control}={value}"
        for control, value in (("seeds", 0), ("shuffled", "false"), ("identity", "false"))
    ]
    return [
        "-m",
        "crosscoder",
        "train",
        str(settings),
        f"output={settings.parent / name}",
        "threads=1",
        *controls,
        *more,
    ]


def test_two_processes_train_what_one_does(settings: Path) -> None:
    alone = run_python(*words(settings, "alone"), timeout=200)
    assert alone.returncode == 0, alone.stderr
    divided = run_python(*TORCHRUN, *words(settings, "divided", "training.latent_shards=2"), timeout=300)
    assert divided.returncode == 0, divided.stderr
    assert divided.stdout == alone.stdout.replace("alone", "divided")
    runs = {name: RunFolder(settings.parent / name) for name in ("alone", "divided")}
    for folder in ("crosscoder", "controls/drift/crosscoder"):
        one, two = (dict(load_crosscoder(run.path / folder).state_dict()) for run in runs.values())
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-3)
    evaluations = [run.read_manifest()["evaluation"] for run in runs.values()]
    assert evaluations[1] == pytest.approx(evaluations[0], rel=1e-3)
    runs["divided"].check_files()


def test_another_number_of_processes_is_one_line(settings: Path) -> None:
    done = run_python(*words(settings, "run", "training.latent_shards=3"), timeout=100)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "crosscoder: training.latent_shards: 3 processes share a dictionary, but one process is at work; start 3 processes with torchrun, "
        "e.g. --nproc-per-node 3, or set it to 1"
    )
    assert not (settings.parent / "run" / "crosscoder").exists()


def test_a_killed_rank_ends_the_others_with_one_line_and_leaves_whole_checkpoints(settings: Path) -> None:
    endless = ["training.latent_shards=2", "training.n_tokens=20000000"]
    run = start_python(*TORCHRUN, *words(settings, "killed", *endless), folder=settings.parent)
    folder = settings.parent / "killed" / "checkpoints"
    try:
        deadline = time.monotonic() + 200
        while len(checkpoints(folder)) < 2:
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(rank_of(run.pid, 1), signal.SIGKILL)
        _, said = run.communicate(timeout=100)
    finally:
        run.kill()
    assert run.returncode != 0
    # It lost rank 1, or torchrun, which lost it first, has stopped it.
    (line,) = [line for line in said.splitlines() if line.startswith("crosscoder: ")]
    assert line.startswith("crosscoder: rank 0: ") and "run the same command again to continue" in line
    assert "training/trainer.py" not in said, "no traceback of this project"
    for checkpoint in checkpoints(folder):
        assert sorted(file.name for file in checkpoint.iterdir()) == [
            "state.1-of-2.safetensors",
            "state.2-of-2.safetensors",
            "state.json",
        ]


def rank_of(launcher: int, rank: int) -> int:
    """Return the process of a rank that a launcher started."""
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            parent = int((status.parent / "stat").read_text().rpartition(")")[2].split()[1])
            variables = status.read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(status.parent.name)
    raise AssertionError(f"no process of rank {rank} under {launcher} on {sys.platform}")
