"""How much memory a training needs at its peak, part by part, counted from what the code holds.

Settings decide nearly all of it. What a formula cannot give, the rate of temporaries, was measured, and
`tests/training/test_memory.py` compares the whole with the peak of real trainings. An allocator that keeps what is freed comes on
top: with glibc's at its defaults, peaks were between 0.95 and 1.35 times the estimate.
"""

import math
import os
from dataclasses import dataclass

import torch

from crosscoder.config import CachedActivations, CrosscoderConfig, RunConfig, StreamedActivations
from crosscoder.dictionary.inputs import crosscoder_config
from crosscoder.dictionary.topk_selection import block_bytes
from crosscoder.runtime.device import compute_dtype, resolve_device

from .evaluation import TOKENS
from .forward import choose_path
from .schedules import annealed_k

# Libraries that load late, thread pools, and scratch space of the products.
_RUNTIME = 55_000_000

# Bytes of one number: float32 weights, their gradients, and the two moments of Adam.
_WEIGHT, _GRADIENT, _MOMENTS = 4, 4, 8

# Bytes of the dense path for one entry of the code, by kind: pre-latents, rectified, scores, what is kept, the
# candidates of a selection or the terms of a penalty, and the gradients of them. Measured.
_DENSE_ENTRY = {"batch_topk": 27, "topk": 22, "relu": 19, "jumprelu": 27}

# Bytes of the sparse path for one firing: places, values and orders of what passes the bound and of what is kept; on a GPU also
# the working memory of its sorts.
_FIRING, _FIRING_ON_GPU = 60, 200

# Bytes of one score that passes the bound of a calibration: its place and value, and its share in their order.
_SCORE = 16

# Copies of a batch in float32 that are there at once: normalized, in the precision of the products, rebuilt, error, and
# the gradients of the last two.
_BATCHES = 6

# Copies of one of the two matrices beside its gradient: the sum in the precision of the products, and what autograd adds. The
# kernels of a GPU sum in float32 at once.
_MATRICES, _MATRICES_ON_GPU = 2, 1

# Matrices that a checkpoint lays out anew before they are written: the encoder, which is stored by latents, and its moments.
_CHECKPOINT_MATRICES = 3

# Bytes of one number of the sample behind the normalization, beside the sample: float32, float64, centered, and squares.
_NORMALIZATION = 4 + 8 + 8 + 4


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training."""

    parts: dict[str, int]
    """By name; they are all there at once."""

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.parts.items() if size)
        return f"about {self.total / 1e9:.2f} GB, up to a third more where the allocator keeps what is freed: {shown}"


def n_parameters(shape: CrosscoderConfig) -> int:
    """Numbers in a dictionary: encoder and decoder, and a bias of each."""
    return 2 * shape.n_latents * shape.width + shape.n_latents + shape.width


def training_memory(
    config: RunConfig, d_models: tuple[int, ...], model_bytes: int, n_train: int, n_held_out: int
) -> Memory:
    """Peak of a training of these settings, on the device that holds the dictionary and in the process around it.

    Controls are trained after it, and each needs only what changes a batch besides; where several are trained side by side,
    together they take at most half of the machine.

    Args:
        model_bytes: Weights of the two language models.
        n_train: Tokens to train on.
        n_held_out: Tokens that are never trained on.
    """
    shape = crosscoder_config(config.crosscoder, d_models)
    parameters = n_parameters(shape)
    matrix = 4 * shape.n_latents * shape.width
    held_out = _held_out(config, d_models, n_held_out)
    state = parameters * (_GRADIENT + _MOMENTS)
    step = state + max(
        _step(config, shape, matrix), _CHECKPOINT_MATRICES * matrix, _calibration(config, shape, n_held_out)
    )
    # Before the first step there are no gradients and no moments yet.
    normalization = _NORMALIZATION * min(config.training.calibration_tokens, n_train) * sum(d_models)
    working = max(step, normalization)
    return Memory(
        {
            "models": model_bytes,
            "weights": parameters * _WEIGHT,
            "gradients and moments": min(state, working),
            "one step": working - min(state, working),
            "batches of controls": _changed(config, d_models),
            "held-out tokens": held_out,
            "shuffle buffer": _buffer(config, d_models),
            "libraries": _RUNTIME,
        }
    )


def memory_of_machine() -> int | None:
    """Bytes of memory, where the system tells."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _step(config: RunConfig, shape: CrosscoderConfig, matrix: int) -> int:
    """Temporaries of a step at the largest k it has, on the path it takes there."""
    training, sparsity = config.training, config.crosscoder.sparsity
    rows = training.batch_tokens * (2 if config.crosscoder.reads == "pooled" else 1)
    batches = 4 * _BATCHES * rows * shape.width
    device = resolve_device("training.device", training.device)
    dtype, on_gpu = compute_dtype(training.precision, device), device.type == "cuda"
    matrices = _MATRICES_ON_GPU if on_gpu else _MATRICES
    configured = getattr(sparsity, "k", None)
    needed = []
    for step in (0, math.ceil(training.n_tokens / training.batch_tokens)):
        k = None if configured is None else annealed_k(step, configured, shape.n_latents, training)
        path = (
            choose_path(sparsity, k, shape.n_latents, dtype, device)
            if training.step == "auto"
            else training.step
        )
        if path == "dense" or k is None:
            needed.append(_DENSE_ENTRY[sparsity.kind] * rows * shape.n_latents)
        else:
            firing = _FIRING_ON_GPU if on_gpu else _FIRING
            block = block_bytes(device, rows * shape.n_latents * dtype.itemsize) if on_gpu else 0
            needed.append(round(firing * rows * k) + block)
    return max(needed) + batches + matrices * matrix


def _held_out(config: RunConfig, d_models: tuple[int, ...], n_held_out: int) -> int:
    """Tokens that are measured again and again, and those that the threshold is set on."""
    half = n_held_out // 2
    n_tokens = min(TOKENS, half) + min(config.training.calibration_tokens, half)
    return n_tokens * sum(d_models) * _bytes_of(config)


def _calibration(config: RunConfig, shape: CrosscoderConfig, n_held_out: int) -> int:
    """Setting the threshold: its tokens in float32, and the scores that pass the bound."""
    n_tokens = min(config.training.calibration_tokens, n_held_out // 2)
    k = getattr(config.crosscoder.sparsity, "k", 0)
    return n_tokens * (4 * shape.width + _SCORE * k)


def _changed(config: RunConfig, d_models: tuple[int, ...]) -> int:
    """A control on another pair holds a batch as it was read, and in float32 as it was made, beside what it trains on."""
    controls = config.controls
    if not (controls.drift or controls.identity or controls.shuffled or controls.difference):
        return 0
    return config.training.batch_tokens * sum(d_models) * (_bytes_of(config) + 4)


def _buffer(config: RunConfig, d_models: tuple[int, ...]) -> int:
    """Tokens that are shuffled together, and on a GPU the block after them."""
    if not isinstance(config.activations, StreamedActivations):
        return 0
    return config.activations.buffer_tokens * sum(d_models) * _bytes_of(config)


def _bytes_of(config: RunConfig) -> int:
    """Bytes of one activation as it is read."""
    settings = config.activations
    if isinstance(settings, CachedActivations | StreamedActivations):
        return getattr(torch, settings.dtype).itemsize
    return 4


# --- plans ------------------------------------------------------------------------------------------------------------

LARGE = CrosscoderConfig.model_validate(
    {
        "d_models": (4096, 4096),
        "model_names": ("reference", "intervened"),
        "n_latents": 131072,
        "sparsity": {"kind": "batch_topk", "k": 64},
    }
)
"""A dictionary for two models of some 8 billion parameters."""


def plan(shapes: list[CrosscoderConfig]) -> list[str]:
    """What dictionaries need before any batch, in lines of a table: GB of weights, gradients, moments, and a checkpoint."""
    rows: list[tuple[str, ...]] = [
        ("dictionary", "parameters", "weights", "gradients", "moments", "together", "checkpoint")
    ]
    for shape in shapes:
        parameters = n_parameters(shape)
        sizes = (_WEIGHT, _GRADIENT, _MOMENTS, _WEIGHT + _GRADIENT + _MOMENTS, _WEIGHT + _MOMENTS)
        rows.append(
            (
                f"{shape.n_latents:,} latents of {' + '.join(map(str, shape.d_models))}",
                f"{parameters / 1e6:,.1f} M",
                *(f"{parameters * size / 1e9:.2f} GB" for size in sizes),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
