"""Reading activations in random order, as training does, beside reading the same files once from front to back.

    files, in order        sum of the bytes of every shard, from the page cache: the reference
    shards, in order       batches through `ShardReader.batches`, as analysis reads
    shards, shuffled       batches through `CachedSource`, as training reads

and beside them one step of training on a batch of that size, so that the share of reading in it is known.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from crosscoder.activations.shards import Manifest, ShardReader, ShardWriter, SideRecord
from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.timing import Comparison, compare

from ..sources import CachedSource
from .planted_activations import PlantedActivations
from .settings import BenchConfig
from .step import precisions, warmed_step

REFERENCE = "files, in order"
SHUFFLED = "shards, shuffled"

# Tokens of one shard, as `activations.shard_tokens` has it by default.
_SHARD_TOKENS = 32768


def shards_benchmark(config: BenchConfig) -> list[Comparison]:
    """One pass over planted tokens on disk, and the share of reading in a step on them."""
    device = resolve_device("device", config.device)
    precision, shape = precisions(config, device)[0], config.shape
    with (
        tempfile.TemporaryDirectory() as place,
        warmed_step(config, shape, precision, device) as (step, batches),
    ):
        folder = Path(place)
        write_planted(folder, shape.d_models, config.shard_tokens, config.seed)
        reader = ShardReader(folder, "train")
        source = CachedSource(reader, reader, config.seed)
        stream = source.batches(shape.batch_tokens)
        count = max(1, reader.n_tokens // shape.batch_tokens)

        def shuffled() -> int:
            return sum(len(next(stream)[0]) for _ in range(count))

        def in_order() -> int:
            return sum(len(batch.values) for batch in reader.batches(shape.batch_tokens))

        def files() -> int:
            for file in sorted(folder.glob("train/*.safetensors")):
                whole = np.memmap(file, dtype=np.uint8, mode="r")
                int(whole[: len(whole) // 8 * 8].view(np.int64).sum())
            return reader.n_tokens

        variants: dict[str, Callable[[], int]] = {
            REFERENCE: files,
            "shards, in order": in_order,
            SHUFFLED: shuffled,
            "one step of training": step,
        }
        comparison = compare(
            f"Reading: {reader.n_tokens:,} tokens, {shape.models} × {shape.d_model} wide, bfloat16",
            variants,
            reference=REFERENCE,
            repeats=config.repeats,
            device=device,
            before_round=batches.advance,
            settings=shape.model_dump() | {"shard_tokens": config.shard_tokens, "precision": precision},
        )
    share = waiting_share(comparison)
    return [
        Comparison(
            comparison.title,
            comparison.timings,
            comparison.reference,
            comparison.settings | {"share_of_reading": share},
            (
                f"A batch of {shape.batch_tokens:,} tokens, shuffled, takes {share:.1%} of the time of its step "
                f"({shape}, {precision}) and itself.",
            ),
        )
    ]


def waiting_share(comparison: Comparison) -> float:
    """The part of reading in reading a batch and training on it, at the speeds that were measured."""
    reading, step = comparison[SHUFFLED], comparison["one step of training"]
    seconds = reading.spread.median / reading.n_tokens * step.n_tokens
    return seconds / (seconds + step.spread.median)


def write_planted(folder: Path, d_models: tuple[int, ...], n_tokens: int, seed: int) -> None:
    """A harvest of planted tokens, in documents of 128."""
    planted = PlantedActivations(d_models, seed=seed)
    sizes = [min(_SHARD_TOKENS, n_tokens - start) for start in range(0, n_tokens, _SHARD_TOKENS)]
    manifest = Manifest(
        identity={"planted": seed},
        dtype="bfloat16",
        d_models=d_models,
        documents_digest="",
        median_norms=(0.0,) * len(d_models),
        max_norms=(float(np.finfo(np.float32).max),) * len(d_models),
        sides={"train": SideRecord(n_planned=len(sizes))},
    )
    writer, start = ShardWriter(folder, manifest), 0
    for size in sizes:
        rows = torch.arange(start, start + size)
        writer.write("train", planted.batch(size), rows // 128, rows % 128, 0)
        start += size
