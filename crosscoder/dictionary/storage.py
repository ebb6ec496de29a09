"""A crosscoder on disk: a self-contained folder of `config.json` and `model.safetensors`.

config.json
    format      "crosscoder"
    version     2 (version 1 has no score_weight)
    crosscoder  the CrosscoderConfig
    digest      blake2b of model.safetensors, to detect altered or truncated files
    provenance  how it was made: models, hookpoints, token policy, data fingerprint (free form)

model.safetensors (float32; width = sum of d_models, models concatenated, reference first)
    W_enc [width, latent]   b_enc [latent]   W_dec [latent, width]   b_dec [width]
    mean [width]   scale [model]   score_scale [model]   score_weight [latent] (if scores are stored)
    sparsity.threshold []   (BatchTopK)      sparsity.log_threshold [latent]   (JumpReLU)
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..config import CrosscoderConfig
from ..errors import FormatError, first_line
from ..runtime.digests import file_digest
from ..runtime.files import atomic_file, write_atomic
from ..runtime.json_text import json_of
from .crosscoder import Crosscoder
from .divided_weights import write_whole

FORMAT_VERSION = 2
_READABLE = (1, 2)


def save_crosscoder(
    crosscoder: Crosscoder, folder: Path | str, provenance: dict[str, Any] | None = None
) -> None:
    """Write the folder. Weights are written first, so a folder that has a config.json is complete.

    Where ranks divide the latents, rank 0 writes those of all, and the others join it (`divided_weights.give_weights`).

    Raises:
        ResourceError: The disk is full.
    """
    folder = Path(folder)
    crosscoder.ranks.join("save")
    with atomic_file(folder / "model.safetensors") as partial:
        if crosscoder.ranks.alone:
            save_file(
                {
                    name: tensor.detach().contiguous().cpu()
                    for name, tensor in crosscoder.state_dict().items()
                },
                partial,
            )
        else:
            write_whole(crosscoder, partial)
    record = {
        "format": "crosscoder",
        "version": FORMAT_VERSION,
        "crosscoder": crosscoder.config.model_dump(mode="json"),
        "digest": file_digest(folder / "model.safetensors"),
        "provenance": provenance or {},
    }
    write_atomic(folder / "config.json", json.dumps(record, indent=2) + "\n")


def load_crosscoder(folder: Path | str, device: str | torch.device = "cpu") -> Crosscoder:
    """Load a folder written by `save_crosscoder`.

    Raises:
        FormatError: The folder holds no crosscoder, is incomplete, has another format version, or was altered.
    """
    folder = Path(folder)
    record = read_record(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise FormatError(f"{weights}: not found; the folder is incomplete, copy it again")
    if file_digest(weights) != record["digest"]:
        raise FormatError(
            f"{weights}: does not match the digest in config.json; it was altered or truncated, copy it again"
        )
    try:
        config = CrosscoderConfig.model_validate(record["crosscoder"])
        state = load_file(weights)
        crosscoder = Crosscoder(config)
        crosscoder.load_state_dict(state)
    except (ValidationError, SafetensorError, RuntimeError) as error:
        raise FormatError(f"{folder}: weights and config.json do not fit ({first_line(error)})") from error
    return crosscoder.to(device).eval()


def read_record(folder: Path | str) -> dict[str, Any]:
    """Return the content of config.json, after checking format and version."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FormatError(f"{path}: not found; give a folder with config.json and model.safetensors")
    try:
        record = json_of(path)
    except ValueError as error:
        raise FormatError(f"{path}: not JSON ({error}); copy it again") from error
    if not isinstance(record, dict) or record.get("format") != "crosscoder":
        raise FormatError(f"{path}: not the config of a crosscoder (no format: crosscoder)")
    if record.get("version") not in _READABLE:
        raise FormatError(
            f"{path}: version {record.get('version')!r}; this release reads versions {' and '.join(map(str, _READABLE))}"
        )
    for key in ("crosscoder", "digest"):
        if key not in record:
            raise FormatError(f"{path}: has no {key!r}; the file was altered, copy it again")
    return record
