"""`activations`: where activations come from, and how they are stored."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .block import Count, Dtype, PositiveFloat, Settings
from .stores import StoreUrl

STORE_PLACES = ("activations.store.url", "activations.store.cache_gb")
"""Settings that say where activations lie. They change no result."""


class StoreConfig(Settings):
    """Keep the shards at a URL in place of the run folder, and read them shard by shard through local copies."""

    url: StoreUrl = Field(
        description="folder at any fsspec URL, e.g. s3://bucket/name, gs://bucket/name or file:///mnt/name, of one harvest alone. "
        "Credentials come from the configuration of fsspec and of its backend, never from the URL"
    )
    buffer_tokens: Count = Field(
        default=131072,
        description="tokens in the shuffle buffer: each pass takes the shards in a seeded order, as many at a time as fit (at least one), and "
        "shuffles their tokens. The next ones are read meanwhile, so memory holds two buffers",
    )
    cache_gb: PositiveFloat = Field(
        default=20.0,
        description="GB of local copies of shards in RUN/activations, at most; those used longest ago are removed first",
    )


class CachedActivations(Settings):
    """Harvest the activations of all models to disk, then train from memory-mapped shards."""

    kind: Literal["cache"] = "cache"
    dtype: Dtype = Field(default="bfloat16", description="precision of the activations on disk")
    shard_tokens: Count = Field(default=32768, description="tokens per shard file")
    batch_tokens: Count = Field(
        default=8192,
        description="tokens per forward pass of a model, padding included; more takes more memory",
    )
    store: StoreConfig | None = Field(
        default=None,
        description="keep the shards at a URL; null: in the run folder, where each pass is shuffled as a whole",
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


def store_settings(activations: ActivationsConfig) -> StoreConfig | None:
    """Return where the shards lie if that is a URL; None if they lie in the run folder, or if there are none."""
    return activations.store if isinstance(activations, CachedActivations) else None
