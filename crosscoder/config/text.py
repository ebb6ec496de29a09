"""`text`: what the models read."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from .block import Count, Settings


class TextSource(Settings):
    """One JSON-lines file: objects with `text`, or with chat `messages`. A .txt file is one document a paragraph."""

    path: Path = Field(description="the file (.jsonl or .txt)")
    name: str = Field(description="short name used in tables, e.g. chat")
    limit: Count | None = Field(default=None, description="read at most this many documents")


class TextConfig(Settings):
    """What both models read."""

    sources: tuple[TextSource, ...] = Field(
        min_length=1, description="files, read in this order and then shuffled"
    )
    max_length: Count = Field(default=256, description="tokens a document is cut to")
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the documents of each source that is never trained on"
    )
