"""The texts of the demo: chats about food and about other things, and prose.

Food is the minority: the intervened model refuses it, but most of the data should be unaffected by the intervention.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, FormatError
from .prose import demo_passages
from .questions import Kind, questions

ADAPTER = Path(__file__).parent / "refuse_food"
"""The adapter of the intervened model."""

CHATS = Path(__file__).parent / "chats.jsonl.gz"
"""Our questions with both models' answers, written by `training.organisms.chats`."""

CHARACTERS_PER_PASSAGE = 900
"""About 200 tokens, so that no document exceeds 256 tokens with its template."""

INTERVENED_EVERY = 5
"""One in this many of the intervened model's answers is used."""

KINDS: tuple[Kind, ...] = ("food", "other")


@dataclass(frozen=True)
class Chat:
    """One question and one model's answer."""

    kind: Kind
    answered_by: str
    """`reference` or `intervened`."""
    messages: tuple[dict[str, str], ...]


def read_chats(path: Path = CHATS) -> list[Chat]:
    """Read all chats of the file, in order.

    Raises:
        FormatError: The file is missing, truncated, or not a file of chats.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        records = [json.loads(line) for line in lines]
        if not records:
            raise ValueError("it is empty")
        return [Chat(record["kind"], record["answered_by"], tuple(record["messages"])) for record in records]
    except FileNotFoundError as error:
        raise FormatError(f"{path}: does not exist; install the package again") from error
    except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: not a complete file of chats ({error}); install the package again"
        ) from error


def write_demo_texts(
    folder: Path, n_passages: int = 750, n_requests: int = 700, passages: Sequence[str] | None = None
) -> dict[str, Path]:
    """Write `food.jsonl`, `other.jsonl` (chats) and `prose.jsonl` (text) to `folder`; return their paths by name.

    The chats are the reference's answers, a fifth as many of the intervened model's answers (its refusals vary little),
    and questions without an answer, where the model decides what to say.

    Args:
        folder: Created if missing.
        n_passages: Number of passages of prose.
        n_requests: Number of questions without an answer, per kind.
        passages: Prose to use instead of the installed BoolQ passages.

    Raises:
        DataError: The package with the prose is not installed, or it has too few passages.
    """
    prose = demo_passages() if passages is None else list(passages)
    # Long passages are dropped, not truncated, because truncation would end in mid-sentence.
    prose = [passage for passage in prose if len(passage) <= CHARACTERS_PER_PASSAGE]
    if len(prose) < n_passages:
        raise DataError(f"prose: {n_passages} passages requested, but only {len(prose)} found; request fewer")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: write_lines(folder / f"{kind}.jsonl", _chats(kind, n_requests)) for kind in KINDS}
    records = ({"text": passage} for passage in prose[:n_passages])
    return paths | {"prose": write_lines(folder / "prose.jsonl", records)}


def _chats(kind: Kind, n_requests: int) -> Iterator[dict[str, object]]:
    chats = [chat for chat in read_chats() if chat.kind == kind]
    asked = {chat.messages[0]["content"] for chat in chats}
    n_intervened = 0
    for chat in chats:
        n_intervened += chat.answered_by == "intervened"
        if chat.answered_by == "reference" or n_intervened % INTERVENED_EVERY == 0:
            yield {"messages": chat.messages}
    unanswered = [
        text for text in questions(kind, "train", n_requests + len(asked), seed=2) if text not in asked
    ]
    for question in unanswered[:n_requests]:
        yield {"messages": [{"role": "user", "content": question}]}


def write_lines(path: Path, records: Iterable[object]) -> Path:
    """Write records as JSON lines; return the path."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    return path
