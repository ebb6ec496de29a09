"""Checkpoints of training: an interrupted run that resumes ends bit-identical to one that was never interrupted.

RUN/checkpoints/step_00000200/
    state.safetensors   weights and buffers (crosscoder/…), optimizer moments (exp_avg/…, exp_avg_sq/…), tokens since each
                        latent fired, torch's RNG state, tensors of the data source (source/…)
    state.json          step, tokens, penalty, JSON values of the data source, compute precision, wandb id, the digests of
                        state.safetensors and of the metrics so far, and a digest of this record; RUN/files.json holds its digest

Where ranks divide the latents, each writes its own into state.R-of-RANKS.safetensors, counted from 1; the first has also what is of all
latents. state.json then holds the digest of each, and rank 0 writes it once all are there. Such a checkpoint can be loaded by any number of
ranks: each reads its latents out of the files that have them.

Checkpoints are written atomically; the two newest are kept.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.divided_weights import LATENT_DIMENSION
from crosscoder.dictionary.latent_ranks import LatentRanks
from crosscoder.errors import FormatError, first_line
from crosscoder.runtime.digests import content_digest, file_digest
from crosscoder.runtime.file_record import FileRecord
from crosscoder.runtime.files import atomic_folder, partial_folder, remove_folder
from crosscoder.runtime.json_text import json_of
from crosscoder.runtime.parts import Part

KEPT = 2
VERSION = 2
"""Version of a checkpoint."""


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
    first_error: float | None = None
    """Error on held-out tokens before the first step (`divergence.worst_error`)."""
    metrics: str | None = None
    """Digest of metrics.jsonl up to this step; None if there is no log."""
    divisions: list[tuple[int, int]] = field(default_factory=list)
    """Steps from which on the latents were divided over so many ranks; none if one process made all steps."""


def save_checkpoint(folder: Path, state: TrainState) -> Path:
    """Write a checkpoint, and remove all but the newest ones. Raises ResourceError if the disk is full; older ones are then kept."""
    source, ranks = state.source or {}, state.crosscoder.ranks
    tensors = {f"source/{name}": value for name, value in source.items() if isinstance(value, Tensor)}
    tensors |= {f"crosscoder/{name}": value for name, value in state.crosscoder.state_dict().items()}
    for name, parameter in state.crosscoder.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            if parameter in state.optimizer.state:
                tensors[f"{moment}/{name}"] = state.optimizer.state[parameter][moment]
    tensors["tokens_since_fired"] = state.tokens_since_fired
    tensors["rng"] = torch.get_rng_state()
    final, file = checkpoint_at(folder, state.step), _state_file(Part(ranks.rank + 1, ranks.size))
    with _folder_of_ranks(final, ranks) as partial:
        save_file(
            {
                name: value.detach().cpu().contiguous()
                for name, value in tensors.items()
                if ranks.leads or _latent_dimension(name) is not None
            },
            partial / file,
        )
        digest = torch.tensor(list(file_digest(partial / file).encode()), dtype=torch.uint8)
        digests = [bytes(row).decode() for row in ranks.gathered(digest[None]).tolist()]
        if ranks.leads:
            record = _record(state, source, digests[0] if ranks.alone else digests)
            (partial / "state.json").write_text(json.dumps(record, indent=2) + "\n")
    if ranks.leads:
        for old in checkpoints(folder)[:-KEPT]:
            remove_folder(old)
    return final


@contextmanager
def _folder_of_ranks(final: Path, ranks: LatentRanks) -> Iterator[Path]:
    """Yield a new folder that all ranks fill, and that becomes `final` once all have."""
    if ranks.leads:
        with atomic_folder(final, recorded=("state.json",)) as partial:
            ranks.wait()
            yield partial
    else:
        ranks.wait()
        yield partial_folder(final)
    # Until it has its name: a rank that ends before lets the launcher stop the others.
    ranks.wait()


def _state_file(part: Part) -> str:
    return "state.safetensors" if part.of == 1 else f"state.{part.number}-of-{part.of}.safetensors"


def _latent_dimension(name: str) -> int | None:
    """Return the dimension of the latents of a tensor in a checkpoint; None if it is of all latents alike."""
    group, _, weight = name.rpartition("/")
    if name == "tokens_since_fired":
        return 0
    return LATENT_DIMENSION.get(weight) if group in ("crosscoder", "exp_avg", "exp_avg_sq") else None


def _record(state: TrainState, source: dict[str, Any], digest: str | list[str]) -> dict[str, Any]:
    """Return the content of state.json."""
    record = {
        "version": VERSION,
        "step": state.step,
        "n_tokens": state.n_tokens,
        "penalty": state.penalty,
        "precision": state.precision,
        "wandb_id": state.wandb_id,
        "source": {name: value for name, value in source.items() if not isinstance(value, Tensor)},
        "has_source": state.source is not None,
        "first_error": state.first_error,
        "metrics": state.metrics,
        "digest": digest,
    }
    if state.divisions:
        record["divisions"] = state.divisions
    record["record_digest"] = record_digest(record)
    return record


def checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.suffix != ".partial")


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the checkpoint after a step."""
    return folder / f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was made."""
    return int(checkpoint.name.removeprefix("step_"))


def record_digest(record: dict[str, Any]) -> str:
    """blake2b of everything in state.json except this digest."""
    text = json.dumps({key: value for key, value in record.items() if key != "record_digest"}, sort_keys=True)
    return content_digest(text.encode())


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Load a checkpoint into `state`.

    Raises:
        FormatError: The checkpoint was modified or truncated, or belongs to another run or dictionary.
    """
    remedy = f"remove {path} to resume from the previous checkpoint"
    if (run := FileRecord.enclosing(path)) is not None:
        run.require(path / "state.json", remedy)
    try:
        record = json_of(path / "state.json")
        if not isinstance(record, dict) or record.get("record_digest") != record_digest(record):
            raise FormatError(
                f"{path / 'state.json'}: does not match its own digest; it was modified or truncated; "
                f"{remedy}"
            )
        if record.get("version") != VERSION:
            raise FormatError(
                f"{path / 'state.json'}: version {record.get('version')!r}, but this release reads {VERSION}; train in a new run folder"
            )
        tensors = _read_tensors(path, record["digest"], state.crosscoder, remedy)
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
            f"{path}: belongs to another dictionary ({first_line(error)}); use a new run folder"
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
    state.metrics, state.first_error = record["metrics"], record["first_error"]
    state.divisions = [(step, n_ranks) for step, n_ranks in record.get("divisions", [])]
    if record["has_source"]:
        source_tensors = {
            name.removeprefix("source/"): t for name, t in tensors.items() if name.startswith("source/")
        }
        state.source = record["source"] | source_tensors


def _read_tensors(
    path: Path, digest: str | list[str], crosscoder: Crosscoder, remedy: str
) -> dict[str, Tensor]:
    """Read what a checkpoint holds of the latents of this process, and of all latents alike, after a check of the files that have it.

    Raises:
        FormatError: A file was modified or truncated, or has another number of latents.
    """
    digests = [digest] if isinstance(digest, str) else digest
    parts: dict[str, list[Tensor]] = {}
    for index, expected in enumerate(digests):
        part = Part(index + 1, len(digests))
        held, wanted, file = (
            part.range_of(crosscoder.config.n_latents),
            crosscoder.latents,
            path / _state_file(part),
        )
        begin, end = max(held.start, wanted.start) - held.start, min(held.stop, wanted.stop) - held.start
        if begin >= end and index > 0:
            continue
        if file_digest(file) != expected:
            raise FormatError(
                f"{file}: does not match the digest in state.json; it was modified or truncated; {remedy}"
            )
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a file, not a dict)
                dimension = _latent_dimension(name)
                if dimension is None:
                    parts[name] = [tensors.get_tensor(name)]
                    continue
                stored = tensors.get_slice(name)
                if stored.get_shape()[dimension] != len(held):
                    raise FormatError(
                        f"{path}: belongs to another dictionary ({name} has {stored.get_shape()[dimension]} latents, not {len(held)}); "
                        "use a new run folder"
                    )
                rows = stored[begin:end] if dimension == 0 else stored[:, begin:end]
                parts.setdefault(name, []).append(rows)
    return {
        name: found[0] if len(found) == 1 else torch.cat(found, dim=_latent_dimension(name) or 0)
        for name, found in parts.items()
    }
