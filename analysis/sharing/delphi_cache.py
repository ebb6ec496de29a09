"""A latents cache as delphi writes it: every firing on the held-out tokens, for its explainers and scorers.

    FOLDER/HOOKPOINT/FIRST_LAST.safetensors   locations [firing, 3]: sequence, position, latent - FIRST (uint32)
                                              activations [firing] (float16)   tokens [sequence, context]
    FOLDER/HOOKPOINT/config.json              dataset_*, batch_size, cache_ctx_len, n_tokens, n_splits, model_name

delphi needs sequences of one length. The held-out documents are joined in order and cut every `CONTEXT` tokens; the incomplete last sequence is
left out. A firing keeps its value, which the models computed on the whole document. Masked tokens stand in the sequences and fire nothing.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from crosscoder.dictionary.views import view_rows
from crosscoder.errors import ConfigError, DataError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from ..latents.trained_run import TrainedRun

CONTEXT = 256
"""Tokens of a sequence: delphi's own default, a multiple of the length of its examples."""
SPLITS = 5
SMALLEST = 1e-5
"""Activations of at most this size are left out, as delphi does."""
_ROWS = 4096
_LARGEST = float(np.finfo(np.float16).max)


def write_delphi(folder: RunFolder, place: Path) -> None:
    """Write the cache. It holds the held-out texts of the run as token ids.

    Raises:
        ConfigError: The run has no texts, or its dictionary gives each model a code of its own.
        DataError: There are fewer held-out tokens than one sequence has, or an activation is too large for 16 bits.
    """
    config = folder.read_config()
    run = TrainedRun(folder, config)
    if not run.has_text or config.pair is None:
        raise ConfigError(
            f"{folder.path}: its activations came from files, and delphi needs the texts; make a run with a pair"
        )
    reads = config.crosscoder.reads
    if reads == "pooled":
        raise ConfigError(
            f"{folder.path}: its dictionary encodes each model by itself, and a cache holds one code per token; use another export"
        )
    begins, tokens = _sequences(run)
    location, value = _firings(run, begins, len(tokens))
    if len(value) and float(value.max()) > _LARGEST:
        raise DataError(
            f"{folder.path}: a latent reaches {float(value.max()):g}, too large for the 16 bits of delphi's cache"
        )
    hookpoint = str(config.pair.hookpoint)
    inside = place / hookpoint
    inside.mkdir(parents=True, exist_ok=True)
    n_latents = run.crosscoder.config.n_latents
    bounds = torch.linspace(0, n_latents, min(SPLITS, n_latents) + 1).round().long().tolist()
    for first, stop in zip(bounds, bounds[1:], strict=False):
        mine = (location[:, 2] >= first) & (location[:, 2] < stop)
        shifted = location[mine] - torch.tensor([0, 0, first])
        save_file(
            {
                "locations": shifted.to(torch.uint32).contiguous(),
                "activations": value[mine].half().contiguous(),
                "tokens": tokens,
            },
            inside / f"{first}_{stop - 1}.safetensors",
        )
    record: dict[str, Any] = {
        "dataset_repo": folder.path.resolve().name,
        "dataset_split": "held_out",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 1,
        "cache_ctx_len": CONTEXT,
        "n_tokens": tokens.numel(),
        "n_splits": len(bounds) - 1,
        "model_name": _model_name(folder),
    }
    write_atomic(inside / "config.json", json.dumps(record, indent=2) + "\n")


def _model_name(folder: RunFolder) -> str:
    """Return the intervened model, as the manifest names it."""
    return str(
        ((folder.read_manifest().get("pair") or {}).get("intervened") or {}).get("model", "intervened")
    )


def _sequences(run: TrainedRun) -> tuple[np.ndarray, Tensor]:
    """Return where each document begins among the held-out tokens (-1: not held out), and the sequences."""
    documents = run.documents
    chosen = np.flatnonzero(documents.held_out)
    joined = np.concatenate([documents.tokens_of(index) for index in chosen] or [np.zeros(0, dtype=np.int32)])
    n_sequences = len(joined) // CONTEXT
    if n_sequences == 0:
        raise DataError(
            f"{run.folder.path}: {len(joined)} held-out tokens are less than one sequence of {CONTEXT}; add text"
        )
    begins = np.full(documents.n_documents, -1, dtype=np.int64)
    begins[chosen] = np.concatenate([[0], np.cumsum(documents.lengths[chosen])[:-1]])
    tokens = torch.from_numpy(joined[: n_sequences * CONTEXT].astype(np.int64))
    return begins, tokens.view(n_sequences, CONTEXT)


def _firings(run: TrainedRun, begins: np.ndarray, n_sequences: int) -> tuple[Tensor, Tensor]:
    """Return sequence, position and latent of every firing inside the sequences, and its value."""
    locations, values = [], []
    crosscoder, d_models = run.crosscoder, run.reader.d_models
    for batch in run.reader.batches(_ROWS):
        rows = view_rows(batch.values, d_models, run.config.crosscoder.reads).float()
        found = crosscoder.encode_sparse(rows.to(crosscoder.W_enc.device)).cpu()
        document, position = batch.document.cpu().numpy(), batch.position.cpu().numpy()
        place = torch.from_numpy(begins[document] + position)[found.token]
        kept = (place < n_sequences * CONTEXT) & (found.value > SMALLEST)
        place = place[kept]
        locations.append(torch.stack([place // CONTEXT, place % CONTEXT, found.latent[kept]], dim=1))
        values.append(found.value[kept].float())
    return torch.cat(locations), torch.cat(values)
