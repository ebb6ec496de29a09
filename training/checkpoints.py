"""Checkpoints of training: an interrupted run that resumes ends bit-identical to one that was never interrupted.

RUN/checkpoints/step_00000200/
    state.safetensors   weights and buffers (crosscoder/…), optimizer moments (exp_avg/…, exp_avg_sq/…), tokens since each
                        latent fired, torch's RNG state, tensors of the data source (source/…)
    state.json          step, tokens, penalty, JSON values of the data source, compute precision, wandb id, the digest of
                        state.safetensors, and a digest of this record

Checkpoints are written atomically; the two newest are kept.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.errors import FormatError
from crosscoder.runtime.files import content_digest, file_digest

KEPT = 2


@dataclass
class TrainState:
    """Everything that changes during training."""

    crosscoder: Crosscoder
    optimizer: torch.optim.Adam
    tokens_since_fired: Tensor
    penalty: float
    precision: Literal["float32", "bfloat16"]
    step: int = 0
    n_tokens: int = 0
    source: dict[str, Any] | None = None
    wandb_id: str | None = None


def save_checkpoint(folder: Path, state: TrainState) -> Path:
    """Write a checkpoint, and remove all but the newest ones."""
    final = folder / f"step_{state.step:08d}"
    partial = folder / f"step_{state.step:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    source = state.source or {}
    tensors = {f"source/{name}": value for name, value in source.items() if isinstance(value, Tensor)}
    tensors |= {f"crosscoder/{name}": value for name, value in state.crosscoder.state_dict().items()}
    for name, parameter in state.crosscoder.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            if parameter in state.optimizer.state:
                tensors[f"{moment}/{name}"] = state.optimizer.state[parameter][moment]
    tensors["tokens_since_fired"] = state.tokens_since_fired
    tensors["rng"] = torch.get_rng_state()
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        partial / "state.safetensors",
    )
    record = {
        "step": state.step,
        "n_tokens": state.n_tokens,
        "penalty": state.penalty,
        "precision": state.precision,
        "wandb_id": state.wandb_id,
        "source": {name: value for name, value in source.items() if not isinstance(value, Tensor)},
        "has_source": state.source is not None,
        "digest": file_digest(partial / "state.safetensors"),
    }
    record["record_digest"] = record_digest(record)
    (partial / "state.json").write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.suffix != ".partial")


def record_digest(record: dict[str, Any]) -> str:
    """blake2b of everything in state.json except this digest."""
    text = json.dumps({key: value for key, value in record.items() if key != "record_digest"}, sort_keys=True)
    return content_digest(text.encode())


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Load a checkpoint into `state`.

    Raises:
        FormatError: The checkpoint was modified or truncated, or belongs to another dictionary.
    """
    try:
        record = json.loads((path / "state.json").read_text())
        if not isinstance(record, dict) or record.get("record_digest") != record_digest(record):
            raise FormatError(
                f"{path / 'state.json'}: does not match its own digest; it was modified or truncated; "
                f"remove {path} to resume from the previous checkpoint"
            )
        if file_digest(path / "state.safetensors") != record["digest"]:
            raise FormatError(
                f"{path / 'state.safetensors'}: does not match the digest in state.json; it was modified or truncated; "
                f"remove {path} to resume from the previous checkpoint"
            )
        tensors = load_file(path / "state.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise FormatError(
            f"{path}: not a complete checkpoint ({error}); remove it to resume from the previous one"
        ) from error
    weights = {
        name.removeprefix("crosscoder/"): t for name, t in tensors.items() if name.startswith("crosscoder/")
    }
    try:
        state.crosscoder.load_state_dict(weights)
    except RuntimeError as error:
        raise FormatError(
            f"{path}: belongs to another dictionary ({str(error).splitlines()[0]}); use a new run folder"
        ) from error
    for name, parameter in state.crosscoder.named_parameters():
        if f"step/{name}" in tensors:
            moments = {key: tensors[f"{key}/{name}"] for key in ("exp_avg", "exp_avg_sq", "step")}
            state.optimizer.state[parameter] = {
                # In the memory layout of the parameter: the fused optimizer iterates over both together.
                key: value.to(parameter.device) if key == "step" else torch.empty_like(parameter).copy_(value)
                for key, value in moments.items()
            }
    state.tokens_since_fired = tensors["tokens_since_fired"].to(state.tokens_since_fired.device)
    torch.set_rng_state(tensors["rng"])
    state.step, state.n_tokens, state.penalty = record["step"], record["n_tokens"], record["penalty"]
    state.precision, state.wandb_id = record["precision"], record["wandb_id"]
    if record["has_source"]:
        source_tensors = {
            name.removeprefix("source/"): t for name, t in tensors.items() if name.startswith("source/")
        }
        state.source = record["source"] | source_tensors
