"""Answers of the models as documents, which join the text of a run (`text.answers`).

RUN/discovery/transcripts.jsonl holds a document per line, in a shape that every text source has (`record_shapes`): `messages`, or `text` where
the models do not chat. So it can also be the source of another run. What stands beside it is read here alone:

    model      who gave the answer: reference, intervened, or both
    finished   whether the model ended the answer itself; otherwise the limit on its length cut it
    prompt     number that prompts made from each other share
    origin     file and line of the document that the prompt was made from
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..config.text import ANSWERS
from ..errors import DataError
from ..runtime.digests import file_digest
from ..runtime.files import write_atomic
from .file_records import Record, read_records
from .readings import Reading
from .record_shapes import Fields, Text, read_record
from .text_files import ReadSource

_AGAIN = "remove it, and run crosscoder discover again"


@dataclass(frozen=True)
class Transcript:
    """A prompt with an answer to it."""

    text: Text
    """The whole document; its origin is that of the prompt."""

    model: Literal["reference", "intervened", "both"]
    finished: bool
    prompt: int
    """Number that prompts made from each other share."""


def write_transcripts(path: Path, transcripts: Sequence[Transcript]) -> None:
    """Write the file."""
    write_atomic(path, "".join(json.dumps(_line(one), ensure_ascii=False) + "\n" for one in transcripts))


def read_transcripts(path: Path) -> ReadSource:
    """Read the file as a source of text, named `answers`.

    Raises:
        ConfigError: It may not be read.
        DataError: It is damaged, or holds no document.
    """
    setting = f"text.answers ({path})"
    texts = [_text_of(record) for record in read_records(path, setting, lambda _: True)]
    if not texts:
        raise DataError(
            f"{path}: every answer of both models is empty, so none can join; remove text.answers"
        )
    place = {
        "path": f"{path.parent.name}/{path.name}",
        "digest": file_digest(path),
        "unfinished": sum(text.cut for text in texts),
    }
    return texts, Reading(ANSWERS, place, len(texts))


def _line(one: Transcript) -> dict[str, Any]:
    text = one.text
    document = {"text": text.content} if text.messages is None else {"messages": list(text.messages)}
    beside = {"model": one.model, "finished": one.finished, "prompt": one.prompt, "origin": text.origin}
    return {**document, "from": beside}


def _text_of(record: Record) -> Text:
    text = read_record(record.value, record.origin, Fields())
    match record.value.get("from"):
        case {"finished": bool(finished), "prompt": int(prompt), "origin": str(origin)}:
            near = origin, f"prompt {prompt} of discover"
            return replace(text, cut=not finished, near=near)
        case found:
            raise DataError(
                f"{record.origin}: 'from' is {str(found)[:60]!r}, which does not say where the answer comes from; {_AGAIN}"
            )
