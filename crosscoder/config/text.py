"""`text`: the text that all models read."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from .block import Count, Settings


class TextSource(Settings):
    """One file of documents. JSON lines: one object per line with `text` or chat `messages`; .txt: one document per paragraph."""

    path: Path = Field(description="file of documents (.jsonl or .txt)")
    name: str = Field(description="short name of the source in tables, e.g. chat")
    limit: Count | None = Field(default=None, description="read at most this many documents")


class TextConfig(Settings):
    """The text that all models read."""

    sources: tuple[TextSource, ...] = Field(
        min_length=1, description="files, read in this order and then shuffled"
    )
    max_length: Count = Field(default=256, description="documents are truncated to this many tokens")
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the documents of each source held out from training"
    )
