"""RUN/discovery/answers.parquet: the sampled answers, kept so that an interrupted search continues where it stopped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..tables.columns import ANSWERS
from ..tables.parquet import read_table, write_parquet
from .answer_features import Answer

_VERSION = 3


class AnswerStore:
    """One answer per subject and prompt."""

    def __init__(self, path: Path | None, made_with: Mapping[str, Any]) -> None:
        """
        Args:
            path: The file; None keeps nothing on disk.
            made_with: Everything that answers depend on beside the prompt. Answers made with anything else are forgotten.

        Raises:
            FormatError: The file is damaged.
        """
        self._path = path
        self._made_with = {"made_with": json.dumps({"version": _VERSION, **made_with}, sort_keys=True)}
        self._known: dict[tuple[str, str], Answer] = {}
        table = read_table(path, "discover") if path is not None and path.is_file() else None
        if (
            table is not None
            and (table.schema.metadata or {}).get(b"made_with") == self._made_with["made_with"].encode()
        ):
            for row in table.to_pylist():
                answer = Answer(
                    row["answer"], row["finished"], tuple(row["token_ids"]), row["log_probability"]
                )
                self._known[row["subject"], row["prompt"]] = answer

    def get(self, subject: str, prompt: str) -> Answer | None:
        """Return a stored answer; None if there is none."""
        return self._known.get((subject, prompt))

    def add(self, subject: str, prompts: Sequence[str], answers: Sequence[Answer]) -> None:
        """Add answers, and write the file."""
        self._known |= {(subject, prompt): answer for prompt, answer in zip(prompts, answers, strict=True)}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"subject": one, "prompt": prompt, **answer._asdict()}
            for (one, prompt), answer in self._known.items()
        ]
        named = [{"answer": row.pop("text"), **row} for row in rows]
        table = pa.Table.from_pylist(named, schema=ANSWERS.schema())
        write_parquet(self._path, table.replace_schema_metadata(self._made_with))
