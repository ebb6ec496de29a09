"""`activations`: where activations come from, and how they are stored."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .block import Count, Dtype, Settings


class CachedActivations(Settings):
    """Harvest the activations of all models to disk, then train from memory-mapped shards."""

    kind: Literal["cache"] = "cache"
    dtype: Dtype = Field(default="bfloat16", description="precision of the activations on disk")
    shard_tokens: Count = Field(default=32768, description="tokens per shard file")
    batch_tokens: Count = Field(
        default=8192,
        description="tokens per forward pass of a model, padding included; more takes more memory",
    )


class StreamedActivations(Settings):
    """Compute activations during training and shuffle them in a buffer; only held-out activations go to disk."""

    kind: Literal["stream"] = "stream"
    dtype: Dtype = Field(
        default="bfloat16", description="precision of the shuffle buffer and of the held-out shards"
    )
    buffer_tokens: Count = Field(
        default=131072,
        description="tokens in the shuffle buffer; more mixes documents better and takes more memory",
    )
    shard_tokens: Count = Field(default=32768, description="tokens per held-out shard file")
    batch_tokens: Count = Field(
        default=8192,
        description="tokens per forward pass of a model, padding included; more takes more memory",
    )


class FileActivations(Settings):
    """Read activations from your own files: one array `[token, d_model]` per model (.npy or .safetensors)."""

    kind: Literal["files"] = "files"
    reference: Path = Field(description="array [token, d_model] of the reference model")
    intervened: Path = Field(description="array [token, d_model] of the intervened model, on the same tokens")
    snapshots: tuple[Path, ...] = Field(
        default=(),
        description="arrays [token, d_model] of checkpoints between the two models, earliest first, on the same tokens",
    )
    documents: Path | None = Field(
        default=None,
        description="integer array [token] with the document of each token; null treats every 256 rows as a document",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the documents held out from training"
    )


ActivationsConfig = Annotated[
    CachedActivations | StreamedActivations | FileActivations, Field(discriminator="kind")
]
