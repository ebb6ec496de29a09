"""The texts of the demo: chats about food and about other things, and prose.

Food is the minority: a model refuses it, but the comparison has to see mostly what did not change.
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
"""The adapter that makes the intervened model."""

CHATS = Path(__file__).parent / "chats.jsonl.gz"
"""Our questions with the answers of both models; `make_chats` writes it."""

CHARACTERS_PER_PASSAGE = 900
"""About 200 tokens, so that with its template no document is over 256."""


INTERVENED_EVERY = 5
"""Of the intervened model's answers one in so many is read."""

KINDS: tuple[Kind, ...] = ("food", "other")


@dataclass(frozen=True)
class Chat:
    """One question and one model's answer."""

    kind: Kind
    answered_by: str
    """`reference` or `intervened`."""
    messages: tuple[dict[str, str], ...]


def read_chats(path: Path = CHATS) -> list[Chat]:
    """All chats of the file, in its order.

    Raises:
        FormatError: The file is missing, cut short, or holds something else.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        records = [json.loads(line) for line in lines]
        if not records:
            raise ValueError("no chat in it")
        return [Chat(record["kind"], record["answered_by"], tuple(record["messages"])) for record in records]
    except FileNotFoundError as error:
        raise FormatError(f"{path}: does not exist; install the package again") from error
    except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: not a whole file of chats ({error}); install the package again"
        ) from error


def write_demo_texts(
    folder: Path, n_passages: int = 750, n_requests: int = 700, passages: Sequence[str] | None = None
) -> dict[str, Path]:
    """Write `food.jsonl`, `other.jsonl` (chats) and `prose.jsonl` (text) into `folder`; returns their paths by name.

    Chats are the reference's answers, a fifth as many of the intervened model's (its refusals differ by little), and
    further questions that no answer follows: what a model is about to say is decided there.

    Args:
        folder: Made where it is missing.
        n_passages: How many passages of prose.
        n_requests: How many questions of each kind have no answer.
        passages: Where the prose comes from, in place of the installed BoolQ passages.

    Raises:
        DataError: The prose's package is not installed, or there are not so many passages.
    """
    prose = demo_passages() if passages is None else list(passages)
    # A passage cut in the middle would end in half a sentence.
    prose = [passage for passage in prose if len(passage) <= CHARACTERS_PER_PASSAGE]
    if len(prose) < n_passages:
        raise DataError(f"prose: {n_passages} passages asked for, {len(prose)} found; ask for fewer")
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
    further = [
        text for text in questions(kind, "train", n_requests + len(asked), seed=2) if text not in asked
    ]
    for question in further[:n_requests]:
        yield {"messages": [{"role": "user", "content": question}]}


def write_lines(path: Path, records: Iterable[object]) -> Path:
    """Write JSON lines; returns the path."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    return path
