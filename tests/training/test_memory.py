import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscoder.config import CachedActivations, RunConfig, StoreConfig, StreamedActivations
from crosscoder.config.load import dump_config
from crosscoder.errors import ResourceError
from crosscoder.runtime.process_group import ProcessGroup
from tests.processes import run_python
from tests.training.in_memory import run_config
from training import memory
from training.memory import LARGE, n_parameters, plan, require_memory, training_memory

# The peak since the imports. Not ru_maxrss, which a process inherits from its parent.
PROGRAM = """
import re, sys
from pathlib import Path
import torch
from crosscoder.config.load import load_config
from training import stages, trainer, controls
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
stages.train(load_config(Path(sys.argv[1])))
print(peak() - before)
"""

# Allocations above 128 KB return to the system as soon as they are freed, so that the peak is what training holds. Without these
# two settings, glibc keeps a varying part of the freed memory: peaks of the same training varied by 12 %.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}

N_TOKENS = 6144


def config_of(place: Path, **settings: Any) -> RunConfig:
    """A short training on random numbers; `settings` override dotted names."""
    d_model = settings.pop("d_model", 512)
    generator = np.random.default_rng(0)
    for name in ("reference", "intervened"):
        np.save(place / f"{name}.npy", generator.standard_normal((N_TOKENS, d_model)).astype(np.float32))
    return RunConfig.model_validate(
        {
            "output": place / "run",
            "activations": {
                "kind": "files",
                "reference": place / "reference.npy",
                "intervened": place / "intervened.npy",
            },
            "crosscoder": {
                "n_latents": settings.pop("n_latents"),
                "sparsity": settings.pop("sparsity", {"kind": "batch_topk", "k": settings.pop("k", 32)}),
            },
            "controls": {"drift": settings.pop("drift", False), "identity": False, "shuffled": False},
            "training": {
                "n_tokens": 2 * settings["batch_tokens"],
                "precision": "float32",
                "device": "cpu",
                "evaluate_every": 2,
                "checkpoint_every": 2,
                "calibration_tokens": 1024,
            }
            | settings,
            "threads": 1,
        }
    )


def estimate(config: RunConfig, d_model: int) -> int:
    held_out = round(0.1 * N_TOKENS)
    return training_memory(config, (d_model, d_model), 0, N_TOKENS - held_out, held_out).total


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "settings",
    [
        {"n_latents": 8192, "batch_tokens": 4096, "step": "sparse"},
        {"n_latents": 8192, "batch_tokens": 4096, "step": "sparse", "drift": True},
        {"n_latents": 8192, "batch_tokens": 2048, "step": "dense"},
        {"n_latents": 24576, "batch_tokens": 1024, "step": "auto"},
        {"n_latents": 2048, "batch_tokens": 4096, "step": "sparse", "k": 128},
        # Small, because a CPU without units for bfloat16 computes its products a hundred times as slowly.
        {"n_latents": 4096, "batch_tokens": 2048, "step": "dense", "precision": "bfloat16", "d_model": 64},
        {"n_latents": 4096, "batch_tokens": 4096, "sparsity": {"kind": "relu", "target_l0": 32}},
        {"n_latents": 4096, "batch_tokens": 4096, "sparsity": {"kind": "jumprelu", "target_l0": 32}},
        {"n_latents": 4096, "batch_tokens": 4096, "sparsity": {"kind": "topk", "k": 32}, "step": "dense"},
        {"n_latents": 8192, "batch_tokens": 4096, "sparsity": {"kind": "topk", "k": 32}, "step": "sparse"},
    ],
    ids=[
        "sparse",
        "with a control",
        "dense",
        "wide",
        "large k",
        "bfloat16",
        "relu",
        "jumprelu",
        "topk, dense",
        "topk",
    ],
)
def test_the_estimate_covers_what_a_training_holds_and_little_more(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = config_of(tmp_path, **settings)
    d_model = settings.get("d_model", 512)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    done = run_python("-c", PROGRAM, tmp_path / "run.yaml", variables=ALLOCATOR)
    assert done.returncode == 0, done.stderr
    held = int(done.stdout.splitlines()[-1])
    assert 0.95 * held < estimate(config, d_model) < 1.3 * held


def test_parameters_are_counted() -> None:
    from crosscoder.dictionary.crosscoder import Crosscoder

    shape = LARGE.model_copy(update={"d_models": (3, 5), "n_latents": 70})
    assert n_parameters(shape) == sum(weight.numel() for weight in Crosscoder(shape).parameters())


def test_the_plan_of_a_large_dictionary() -> None:
    header, line = plan([LARGE])
    assert header.split() == [
        "dictionary", "parameters", "weights", "gradients", "moments", "total", "checkpoint",
    ]  # fmt: skip
    assert line.split("  ")[0] == "131,072 latents of 4096 + 4096"
    # 2 · 131,072 · 8,192 numbers of 4 bytes are 8.6 GB.
    assert next(cell for cell in line.split("  ") if "GB" in cell).strip() == "8.59 GB"
    assert "34.36 GB" in line


def test_shards_at_a_url_need_two_buffers(tmp_path: Path) -> None:
    config = config_of(tmp_path, n_latents=64, batch_tokens=256)
    buffers = []
    for activations in (
        CachedActivations(),
        StreamedActivations(buffer_tokens=1000),
        CachedActivations(store=StoreConfig(url="s3://bucket/x", buffer_tokens=1000)),
    ):
        changed = config.model_copy(update={"activations": activations})
        buffers.append(training_memory(changed, (8, 8), 0, 10_000, 1000).parts["shuffle buffer"])
    one = 1000 * (8 + 8) * 2
    assert buffers == [0, one, 2 * one]


def test_what_is_larger_needs_more(tmp_path: Path) -> None:
    small = estimate(config_of(tmp_path, n_latents=1024, batch_tokens=1024), 512)
    for larger in (
        {"n_latents": 2048, "batch_tokens": 1024},
        {"n_latents": 1024, "batch_tokens": 2048},
        {"n_latents": 1024, "batch_tokens": 1024, "k": 128},
    ):
        assert estimate(config_of(tmp_path, **larger), 512) > small


def test_the_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = run_config(tmp_path)
    parts = training_memory(config, (48, 48), 0, 1000, 500).parts
    needed = parts["weights"] + parts["gradients and moments"]
    monkeypatch.setattr(memory, "machine_memory", lambda: 2 * needed)
    for ranks in (1, 2):
        monkeypatch.setattr(memory, "process_group", lambda ranks=ranks: ProcessGroup(local_size=ranks))
        require_memory(config, (48, 48), 1000, 500)
    monkeypatch.setattr(memory, "process_group", lambda: ProcessGroup(local_size=3))
    with pytest.raises(
        ResourceError, match=r"the machine has .* GB for 3 ranks; lower crosscoder\.n_latents, or start fewer"
    ):
        require_memory(config, (48, 48), 1000, 500)
