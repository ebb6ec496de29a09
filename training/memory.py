"""Estimate of the peak memory of training, itemized and derived from what the code allocates.

The settings determine nearly all of it. Temporaries per entry, which no formula gives, were measured, and
`tests/training/test_memory.py` compares the total with the peaks of real trainings. An allocator that keeps freed memory adds to
it: with the defaults of glibc, peaks were between 0.95 and 1.35 times the estimate.

Where ranks divide the latents (`training.latent_shards`), the estimate is that of rank 0, which alone reads the tokens.
"""

import math
import os
from dataclasses import dataclass

import torch

from crosscoder.config import CachedActivations, CrosscoderConfig, RunConfig, StoreConfig, StreamedActivations
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.topk_selection import block_bytes
from crosscoder.dictionary.views import crosscoder_config
from crosscoder.errors import ResourceError
from crosscoder.runtime.device import compute_dtype, resolve_device
from crosscoder.runtime.process_group import process_group

from .evaluation import EVALUATION_TOKENS
from .forward import choose_path
from .schedules import annealed_k, n_steps

# Bytes of lazily loaded libraries, thread pools, and workspaces of the matrix products.
_RUNTIME = 55_000_000

# Bytes per parameter: float32 weights, their gradients, and the two moments of Adam.
_WEIGHT, _GRADIENT, _MOMENTS = 4, 4, 8

# Bytes of the dense path per token and latent, by kind: pre-latents, rectified pre-latents, scores, latents, the candidates of
# a selection or the terms of a penalty, and their gradients. Measured.
_DENSE_ENTRY = {"batch_topk": 27, "topk": 22, "relu": 19, "jumprelu": 27}

# Bytes of the sparse path per firing latent of a token: indices, values and sort orders of the candidates and of the selected
# ones; on a GPU also the workspace of the sorts.
_FIRING, _FIRING_ON_GPU = 60, 200

# Bytes per candidate score in calibration: its index, its value, and its entry in the sort order.
_SCORE = 16

# Copies of a batch, counted in float32, that coexist: normalized, in the precision of the products, reconstruction, error, and
# the gradients of the last two.
_BATCH_COPIES = 6

# Copies of a batch that a division over ranks adds: the sum of a reconstruction, beside the part of this rank.
_BATCH_COPIES_OF_RANKS = 1

# Bytes of the dense path per token and latent that a division adds for BatchTopK and TopK: places and bits of the positive scores.
_DENSE_ENTRY_OF_RANKS = 32

# Copies of the encoder or decoder in addition to its gradient: the sum in the precision of the products, and what autograd
# adds. The GPU kernels sum in float32 directly.
_MATRIX_COPIES, _MATRIX_COPIES_ON_GPU = 2, 1

# Matrices that a checkpoint copies into another memory layout: the encoder, which is stored by latent, and its two moments.
_CHECKPOINT_MATRICES = 3

# Bytes per entry of the normalization sample, in addition to the sample: float32, float64, centered, and squares.
_NORMALIZATION_ENTRY = 4 + 8 + 8 + 4


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of training."""

    parts: dict[str, int]
    """By name; all of them coexist at the peak."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.parts.items() if size)
        return f"about {self.total / 1e9:.2f} GB, or up to a third more if the allocator keeps freed memory: {shown}"


def n_parameters(shape: CrosscoderConfig, n_ranks: int = 1) -> int:
    """Number of parameters of a dictionary: encoder and decoder, each with a bias; those of one rank if several divide the latents."""
    held = n_latents_of_rank(shape, n_ranks)
    return 2 * held * shape.width + held + shape.width


def n_latents_of_rank(shape: CrosscoderConfig, n_ranks: int) -> int:
    """Number of latents that a rank holds, at most."""
    return -(-shape.n_latents // n_ranks)


def training_memory(
    config: RunConfig, d_models: tuple[int, ...], model_bytes: int, n_train: int, n_held_out: int
) -> Memory:
    """Estimate the peak memory of training, summed over the training device and the process that uses it.

    Controls are trained afterwards, and each needs the same plus the transformed batches. Controls that are trained in parallel
    together take at most half of the memory of the machine.

    Args:
        model_bytes: Bytes of the weights of the language models.
        n_train: Number of training tokens.
        n_held_out: Number of held-out tokens.
    """
    shape = crosscoder_config(config.crosscoder, d_models)
    parameters = n_parameters(shape, config.training.latent_shards)
    matrix = 4 * n_latents_of_rank(shape, config.training.latent_shards) * shape.width
    held_out = _held_out(config, d_models, n_held_out)
    state = parameters * (_GRADIENT + _MOMENTS)
    step = state + max(
        _step(config, shape, matrix), _CHECKPOINT_MATRICES * matrix, _calibration(config, shape, n_held_out)
    )
    # The normalization is computed before the first step, when there are no gradients and moments yet.
    normalization = _NORMALIZATION_ENTRY * min(config.training.calibration_tokens, n_train) * sum(d_models)
    working = max(step, normalization)
    return Memory(
        {
            "models": model_bytes,
            "weights": parameters * _WEIGHT,
            "gradients and moments": min(state, working),
            "one step": working - min(state, working),
            "batches of controls": _control_batches(config, d_models),
            "held-out tokens": held_out,
            "shuffle buffer": _buffer(config, d_models),
            "libraries": _RUNTIME,
        }
    )


def lacks_memory(memory: Memory) -> bool:
    """Whether the machine has less memory than this; False if the system does not report it."""
    machine = machine_memory()
    return machine is not None and memory.total >= machine


def require_memory(config: RunConfig, d_models: tuple[int, ...], n_train: int, n_held_out: int) -> None:
    """Check, before anything is allocated, that weights, gradients and moments alone fit into the memory that this process has: that of the
    machine, or of its GPU, divided by the ranks there, each of which trains a dictionary. They are known exactly; the rest of the estimate is
    not, so it refuses nothing.

    Raises:
        ResourceError: They do not fit.
    """
    parts = training_memory(config, d_models, 0, n_train, n_held_out).parts
    needed, machine = parts["weights"] + parts["gradients and moments"], machine_memory()
    ranks = process_group().local_size
    if resolve_device("training.device", config.training.device).type == "cuda":
        machine = torch.cuda.mem_get_info()[1]
        ranks = math.ceil(ranks / torch.cuda.device_count())
    if machine is not None and needed > machine / ranks:
        has = f"the machine has {machine / 1e9:.3g} GB"
        shared, fewer = (f" for {ranks} ranks", ", or start fewer ranks") if ranks > 1 else ("", "")
        if config.training.latent_shards > 1:
            fewer = ", or divide them over more machines"
        raise ResourceError(
            f"crosscoder.n_latents: a dictionary of {config.crosscoder.n_latents} latents needs {needed / 1e9:.3g} GB for weights, gradients "
            f"and moments{_on_each(config)}, and {has}{shared}; lower crosscoder.n_latents{fewer}"
        )


def _on_each(config: RunConfig) -> str:
    n_ranks = config.training.latent_shards
    return f" on each of {n_ranks} ranks" if n_ranks > 1 else ""


def machine_memory() -> int | None:
    """Bytes of physical memory; None if the system does not report it."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _step(config: RunConfig, shape: CrosscoderConfig, matrix: int) -> int:
    """Bytes of the temporaries of a step, at the larger of the first and last k and on the path taken there."""
    training, sparsity = config.training, config.crosscoder.sparsity
    n_ranks = training.latent_shards
    held = n_latents_of_rank(shape, n_ranks)
    rows = _batch_tokens(config) * (2 if config.crosscoder.reads == "pooled" else 1)
    copies = _BATCH_COPIES + (_BATCH_COPIES_OF_RANKS if n_ranks > 1 else 0)
    batches = 4 * copies * rows * shape.width
    device = resolve_device("training.device", training.device)
    dtype, on_gpu = compute_dtype(training.precision, device), device.type == "cuda"
    matrices = _MATRIX_COPIES_ON_GPU if on_gpu else _MATRIX_COPIES
    configured = getattr(sparsity, "k", None)
    needed = []
    for step in (0, n_steps(training)):
        k = None if configured is None else annealed_k(step, configured, shape.n_latents, training)
        path = (
            choose_path(sparsity, k, shape.n_latents, dtype, device, n_ranks)
            if training.step == "auto"
            else training.step
        )
        if path in ("dense", "compiled") or k is None:
            selects_over_ranks = n_ranks > 1 and k is not None
            entry = _DENSE_ENTRY[sparsity.kind] + (_DENSE_ENTRY_OF_RANKS if selects_over_ranks else 0)
            needed.append(entry * rows * held)
        else:
            firing = _FIRING_ON_GPU if on_gpu else _FIRING
            block = block_bytes(device, rows * held * dtype.itemsize) if on_gpu else 0
            needed.append(round(firing * rows * k / n_ranks) + block)
    return max(needed) + batches + matrices * matrix


def _held_out(config: RunConfig, d_models: tuple[int, ...], n_held_out: int) -> int:
    """Bytes of the held-out tokens for evaluation and for calibration."""
    half = n_held_out // 2
    n_tokens = min(EVALUATION_TOKENS, half) + min(config.training.calibration_tokens, half)
    return n_tokens * sum(d_models) * _bytes_per_entry(config)


def _calibration(config: RunConfig, shape: CrosscoderConfig, n_held_out: int) -> int:
    """Bytes of calibrating the threshold: its tokens in float32, and the candidate scores."""
    n_tokens = min(config.training.calibration_tokens, n_held_out // 2)
    k = getattr(config.crosscoder.sparsity, "k", 0) or 0
    return n_tokens * (4 * shape.width + _SCORE * k // config.training.latent_shards)


def _control_batches(config: RunConfig, d_models: tuple[int, ...]) -> int:
    """Bytes of what a control with a transform adds: its batch as read, and in float32 as transformed."""
    controls = config.controls
    if not (controls.drift or controls.identity or controls.shuffled or controls.difference):
        return 0
    return _batch_tokens(config) * sum(d_models) * (_bytes_per_entry(config) + 4)


def _buffer(config: RunConfig, d_models: tuple[int, ...]) -> int:
    """Bytes of the shuffle buffer of streamed activations, or of the two of shards at a URL."""
    match config.activations:
        case (
            StreamedActivations(buffer_tokens=n_tokens)
            | CachedActivations(store=StoreConfig(buffer_tokens=n_tokens))
        ):
            copies = 1 if isinstance(config.activations, StreamedActivations) else 2
            return copies * n_tokens * sum(d_models) * _bytes_per_entry(config)
        case _:
            return 0


def _batch_tokens(config: RunConfig) -> int:
    return chosen(config.training.batch_tokens, "training.batch_tokens")


def _bytes_per_entry(config: RunConfig) -> int:
    """Bytes per entry of the activations as they are read."""
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
"""A dictionary for two models of about 8 billion parameters."""


def plan(shapes: list[CrosscoderConfig], n_ranks: int = 1) -> list[str]:
    """Lines of a table of the memory that dictionaries need without any batch: weights, gradients, moments, checkpoint. If `n_ranks` divide
    the latents, also of what each of them needs."""
    rows: list[tuple[str, ...]] = [
        ("dictionary", "parameters", "weights", "gradients", "moments", "total", "checkpoint")
    ]
    divisions = [(shape, n) for shape in shapes for n in sorted({1, n_ranks})]
    for shape, n in divisions:
        parameters = n_parameters(shape, n)
        sizes = (_WEIGHT, _GRADIENT, _MOMENTS, _WEIGHT + _GRADIENT + _MOMENTS, _WEIGHT + _MOMENTS)
        rows.append(
            (
                f"{shape.n_latents:,} latents of {' + '.join(map(str, shape.d_models))}"
                if n == 1
                else f"  on each of {n} ranks",
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
