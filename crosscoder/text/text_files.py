"""Reads documents from text files: JSON lines with `text` or chat `messages`, or the paragraphs of a .txt file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import TextSource
from ..errors import ConfigError, DataError


@dataclass(frozen=True)
class Text:
    """One document before tokenization: either plain text or the messages of a chat."""

    content: str | None
    messages: tuple[dict[str, str], ...] | None
    origin: str
    """File and line, for error messages."""

    @property
    def prompt(self) -> str:
        """The part that identifies a prompt: the first user message, or the whole text."""
        if self.messages is None:
            return " ".join((self.content or "").split())
        questions = [message["content"] for message in self.messages if message["role"] == "user"]
        return " ".join((questions[0] if questions else json.dumps(self.messages)).split())


def read_texts(source: TextSource) -> list[Text]:
    """Read the documents of one source, at most `source.limit`.

    Raises:
        ConfigError: The file is missing, is a folder, or does not end in .jsonl or .txt.
        DataError: A line is not JSON, has neither text nor messages, or is empty; or the file is empty.
    """
    texts = read_file(source.path, f"text.sources, {source.name!r}", source.limit)
    if not texts:
        raise DataError(
            f"{source.path}: contains no text; give a file with at least two documents, or remove the source"
        )
    return texts


def read_file(path: Path, setting: str, limit: int | None = None) -> list[Text]:
    """Read the documents of one file, at most `limit`; `setting` names it in messages. Raises as `read_texts`."""
    path = path.expanduser()
    if not path.exists():
        raise ConfigError(f"{setting}: file {path} does not exist; give the path of a .jsonl or .txt file")
    if not path.is_file():
        raise ConfigError(f"{setting}: {path} is a folder; give the path of a .jsonl or .txt file")
    if path.suffix not in (".jsonl", ".txt"):
        raise ConfigError(
            f"{setting}: {path} ends in {path.suffix or 'nothing'!r}; give a .jsonl or .txt file"
        )
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8 text; convert the file to UTF-8") from error
    texts: list[Text] = []
    for text in _lines(content, path) if path.suffix == ".jsonl" else _paragraphs(content, path):
        texts.append(text)
        if len(texts) == limit:
            break
    return texts


def _paragraphs(content: str, path: Path) -> Iterator[Text]:
    """Yield runs of non-blank lines."""
    lines: list[str] = []
    for number, line in enumerate([*content.splitlines(), ""], start=1):
        if line.strip():
            lines.append(line)
        elif lines:
            yield Text("\n".join(lines), None, f"{path}, line {number - len(lines)}")
            lines = []


def _lines(content: str, path: Path) -> Iterator[Text]:
    # Not splitlines: it also splits at U+2028 and other characters that JSON strings may contain.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _parse(line, f"{path}, line {number}")


def _parse(line: str, origin: str) -> Text:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{origin}: not JSON ({error.msg} at column {error.colno}); give one object per line"
        ) from error
    if not isinstance(record, dict) or ("text" in record) == ("messages" in record):
        raise DataError(
            f"{origin}: expected an object with either 'text' or 'messages', found {_describe(record)}"
        )
    if "text" in record:
        if not isinstance(record["text"], str):
            raise DataError(f"{origin}: 'text' is {_describe(record['text'])}; it must be a string")
        if not record["text"].strip():
            raise DataError(f"{origin}: 'text' is empty; remove the line")
        return Text(record["text"], None, origin)
    return Text(None, _messages(record["messages"], origin), origin)


def _messages(messages: object, origin: str) -> tuple[dict[str, str], ...]:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{origin}: 'messages' is {_describe(messages)}; it must be a list of messages")
    for index, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(key), str):
                raise DataError(f"{origin}: message {index} has no string {key!r}; every message needs one")
    if not any(message["content"].strip() for message in messages):
        raise DataError(f"{origin}: all messages are empty; remove the line")
    return tuple(messages)


def _describe(value: object) -> str:
    """Describe a value briefly for a message."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or 'none'}"
    if isinstance(value, list):
        return f"a list of {len(value)} entries"
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
