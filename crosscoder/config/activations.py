"""`activations`: where activations come from, and in which form they are kept."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .block import Count, Dtype, Settings


class CachedActivations(Settings):
    """Activations of both models on disk, read back through a memory map."""

    kind: Literal["cache"] = "cache"
    dtype: Dtype = Field(default="bfloat16", description="precision on disk")
    shard_tokens: Count = Field(default=32768, description="tokens a shard file holds")
    batch_tokens: Count = Field(default=8192, description="tokens, padding included, of one forward pass")


class StreamedActivations(Settings):
    """Activations computed while training, through a shuffle buffer; only the held-out ones go to disk."""

    kind: Literal["stream"] = "stream"
    dtype: Dtype = Field(default="bfloat16", description="precision of the buffer and of the held-out shards")
    buffer_tokens: Count = Field(default=131072, description="tokens shuffled together")
    shard_tokens: Count = Field(default=32768, description="tokens a held-out shard file holds")
    batch_tokens: Count = Field(default=8192, description="tokens, padding included, of one forward pass")


class FileActivations(Settings):
    """Activations that are already there: one array `[token, d_model]` for each model (.npy or .safetensors)."""

    kind: Literal["files"] = "files"
    reference: Path = Field(description="array [token, d_model] of the reference")
    intervened: Path = Field(description="array [token, d_model] of the intervened model, same tokens")
    snapshots: tuple[Path, ...] = Field(
        default=(),
        description="arrays [token, d_model] of checkpoints between the two, in their order in time, same tokens",
    )
    documents: Path | None = Field(
        default=None,
        description="integer array [token]: which document a token is from; without it, blocks of 256 rows",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the documents that is never trained on"
    )


ActivationsConfig = Annotated[
    CachedActivations | StreamedActivations | FileActivations, Field(discriminator="kind")
]
