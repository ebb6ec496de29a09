"""Reading activations in random order, as training does, compared with reading the same files sequentially.

    files, in order        sums the bytes of every shard, from the page cache: the reference
    shards, in order       batches from `ShardReader.batches`, as analysis reads them
    shards, shuffled       batches from `CachedSource`, as training reads them

One training step on a batch of that size is timed too, to give the share of time spent reading.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from crosscoder.activations.shards import Manifest, ShardReader, ShardWriter, SplitRecord
from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.timing import Comparison, compare

from ..sources import CachedSource
from .planted_activations import PlantedActivations
from .settings import BenchConfig
from .step import precisions, warmed_up_step

REFERENCE = "files, in order"
SHUFFLED = "shards, shuffled"

# Tokens per shard: the default of `activations.shard_tokens`.
_SHARD_TOKENS = 32768


def shards_benchmark(config: BenchConfig) -> list[Comparison]:
    """Time one pass over planted tokens on disk, and the share of a training step spent reading."""
    device = resolve_device("device", config.device)
    precision, shape = precisions(config, device)[0], config.shape
    with (
        tempfile.TemporaryDirectory() as temporary,
        warmed_up_step(config, shape, precision, device) as (step, batches),
    ):
        folder = Path(temporary)
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
    share = reading_share(comparison)
    return [
        Comparison(
            comparison.title,
            comparison.timings,
            comparison.reference,
            comparison.settings | {"share_of_reading": share},
            (
                f"Reading a shuffled batch of {shape.batch_tokens:,} tokens takes {share:.1%} of the time of reading it and "
                f"training on it ({shape}, {precision}).",
            ),
        )
    ]


def reading_share(comparison: Comparison) -> float:
    """Share of reading in the time of reading a batch and training on it, at the measured speeds."""
    reading, step = comparison[SHUFFLED], comparison["one step of training"]
    seconds = reading.spread.median / reading.n_tokens * step.n_tokens
    return seconds / (seconds + step.spread.median)


def write_planted(folder: Path, d_models: tuple[int, ...], n_tokens: int, seed: int) -> None:
    """Write a harvest of planted tokens, in documents of 128 tokens."""
    planted = PlantedActivations(d_models, seed=seed)
    sizes = [min(_SHARD_TOKENS, n_tokens - start) for start in range(0, n_tokens, _SHARD_TOKENS)]
    manifest = Manifest(
        identity={"planted": seed},
        dtype="bfloat16",
        d_models=d_models,
        documents_digest="",
        median_norms=(0.0,) * len(d_models),
        max_norms=(float(np.finfo(np.float32).max),) * len(d_models),
        sides={"train": SplitRecord(n_planned=len(sizes))},
    )
    writer, start = ShardWriter(folder, manifest), 0
    for size in sizes:
        rows = torch.arange(start, start + size)
        writer.write("train", planted.batch(size), rows // 128, rows % 128, 0)
        start += size
