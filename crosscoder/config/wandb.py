"""`wandb`: logging to Weights & Biases."""

from typing import Literal

from pydantic import Field

from .block import Settings


class WandbConfig(Settings):
    """Logging to Weights & Biases. metrics.jsonl is written in every mode."""

    mode: Literal["disabled", "offline", "online"] = Field(
        default="disabled", description="wandb mode; the environment variable WANDB_MODE overrides it"
    )
    project: str = Field(default="crosscoder", description="wandb project")
    entity: str | None = Field(default=None, description="wandb entity; null: wandb's default")
    name: str | None = Field(default=None, description="run name; null: chosen by wandb")
    group: str | None = Field(default=None, description="wandb group")
    tags: tuple[str, ...] = Field(default=(), description="wandb tags")
    log_weights: bool = Field(default=True, description="log the trained weights as an artifact")
    log_report: bool = Field(default=True, description="log the report and the page as artifacts")
