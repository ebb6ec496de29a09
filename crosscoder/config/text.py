"""`text`: the text that all models read."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from .block import Count, Settings

ANSWERS = "answers"
"""Name of the source of the documents that `text.answers` lets join."""

_OF_DATASETS = ("config", "split", "revision", "streaming")


class TextSource(Settings):
    """Documents from files (`path`) or from a dataset of the `datasets` library (`dataset`).

    The fields of a record are recognized: `text`, `messages`, `conversations`, `prompt` and `completion`, or `instruction` and `output`.
    The settings that end in `_field` name them where that would be wrong.
    """

    path: Path | None = Field(
        default=None,
        description="a file, a folder of files, or a pattern such as data/*.jsonl; .jsonl, .json, .csv, .tsv, .txt, all also .gz or .zst, "
        "and .parquet",
    )
    dataset: Path | None = Field(
        default=None,
        description="instead of path: id of a dataset on the Hugging Face Hub, or a folder that the `datasets` library reads",
    )
    name: str = Field(description="short name of the source in tables, e.g. chat")
    limit: Count | None = Field(
        default=None, description="read at most this many documents, the first ones; streaming needs it"
    )
    config: str | None = Field(default=None, description="configuration of the dataset")
    split: str | None = Field(default=None, description="split of the dataset; null: train")
    revision: str | None = Field(
        default=None, description="branch, tag or commit of the dataset; the manifest records the commit"
    )
    streaming: bool = Field(
        default=False,
        description="read the dataset record by record instead of downloading all of it; what was read is kept in the cache of "
        "`datasets`, and reading continues from there",
    )
    text_field: str | None = Field(default=None, description="field that holds plain text")
    messages_field: str | None = Field(default=None, description="field that holds the messages of a chat")
    role_field: str | None = Field(
        default=None, description="field of a message that holds the role; null: role or from"
    )
    content_field: str | None = Field(
        default=None, description="field of a message that holds the content; null: content or value"
    )
    prompt_field: str | None = Field(default=None, description="field that holds what the user says")
    input_field: str | None = Field(
        default=None, description="field that is added to the prompt, after a blank line, unless it is empty"
    )
    completion_field: str | None = Field(
        default=None, description="field that holds the answer to `prompt_field`"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            found = "neither" if self.path is None else "both"
            raise ValueError(f"needs either path (files) or dataset (the datasets library), found {found}")
        if self.path is not None:
            for name in _OF_DATASETS:
                if getattr(self, name):
                    raise ValueError(f"{name} belongs to dataset, but the source has a path; remove {name}")
        if self.streaming and self.limit is None:
            raise ValueError(
                "streaming needs a limit, because all documents are read before the first is used"
            )
        shapes = [name for name in ("text_field", "messages_field", "prompt_field") if getattr(self, name)]
        if len(shapes) > 1:
            raise ValueError(f"{' and '.join(shapes)} exclude each other; give one of them")
        if (self.prompt_field is None) != (self.completion_field is None):
            raise ValueError("prompt_field and completion_field need each other; give both or neither")
        if self.input_field is not None and self.prompt_field is None:
            raise ValueError("input_field is added to prompt_field, which is missing")
        if shapes not in ([], ["messages_field"]) and (self.role_field or self.content_field):
            raise ValueError(f"role_field and content_field have no effect with {shapes[0]}; remove them")
        return self

    @property
    def location(self) -> str:
        """The path or the dataset, for messages."""
        return str(self.path if self.dataset is None else self.dataset)


class TextConfig(Settings):
    """The text that all models read."""

    sources: tuple[TextSource, ...] = Field(
        min_length=1, description="files and datasets, read in this order and then shuffled"
    )
    max_length: Count = Field(default=256, description="documents are truncated to this many tokens")
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the documents of each source held out from training"
    )
    answers: bool = Field(
        default=False,
        description="let what both models answer to prompts of `discover` join the text, as a source named answers",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.answers and any(source.name == ANSWERS for source in self.sources):
            raise ValueError(
                f"a source is named {ANSWERS!r}, as the one that answers: true adds; give it another name"
            )
        return self
