"""Recognizes what a record holds (plain text, or a chat in one of several shapes) and makes a `Text` of it.

| fields | becomes |
|---|---|
| `text` | plain text |
| `messages` | a chat; also `conversations` or `conversation`, with `role` and `content`, or `from` and `value` |
| `prompt`, `completion` | a chat of one question and one answer, each as text or as messages |
| `instruction`, `output` | the same; `input` is added to the instruction after a blank line |

`system` (text) is put before a chat, and `tools` (a list) is handed to the chat template. A field that is null counts as missing. Other
fields are not read.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..config import TextSource
from ..errors import DataError
from .chat_messages import Messages, UnusableTextError, clean, from_json, read_messages, read_tools

_CHATS = ("messages", "conversations", "conversation")
_PAIRS = (("prompt", "", "completion"), ("instruction", "input", "output"))
_TEXTS = ("text", *_CHATS, *(name for prompt, _, completion in _PAIRS for name in (prompt, completion)))
_BESIDE = ("system", "tools", "history")
_KNOWN = frozenset({*_TEXTS, "input", *_BESIDE})

_EXPECTED = (
    "an object with either 'text' or 'messages' ('conversations', 'prompt' and 'completion', or 'instruction' and 'output' are read "
    "too)"
)


@dataclass(frozen=True)
class Text:
    """One document before tokenization: either plain text or the messages of a chat."""

    content: str | None

    messages: tuple[dict[str, Any], ...] | None
    """Each has text as `role` and `content`; other fields, such as `tool_calls`, are for the chat template."""

    origin: str
    """File and line, for error messages."""

    tools: tuple[dict[str, Any], ...] | None = None
    """Definitions of tools, for the chat template."""

    altered: tuple[str, ...] = ()
    """What was changed while reading, in words."""

    cut: bool = False
    """Whether the last message was cut: the end of a message, which a chat template writes, then does not follow."""

    near: tuple[str, ...] = ()
    """What it was made from: the origin of a document, or a name. Documents that share one are on the same side of the held-out split."""

    @property
    def prompt(self) -> str:
        """The part that identifies a prompt: the first user message, or the whole text."""
        if self.messages is None:
            return " ".join((self.content or "").split())
        questions = [message["content"] for message in self.messages if message["role"] == "user"]
        return " ".join((questions[0] if questions else json.dumps(self.messages)).split())


class Fields(NamedTuple):
    """The names of fields that a source gives; None: they are recognized."""

    text: str | None = None
    messages: str | None = None
    role: str | None = None
    content: str | None = None
    prompt: str | None = None
    input: str | None = None
    completion: str | None = None

    @classmethod
    def of(cls, source: TextSource) -> "Fields":
        """Return the names that the settings of a source give."""
        return cls(**{name: getattr(source, f"{name}_field") for name in cls._fields})

    def wanted(self, name: str) -> bool:
        """Whether a field of this name may be read."""
        if any((self.text, self.messages, self.prompt)):
            return name in _BESIDE or name in (
                self.text, self.messages, self.prompt, self.input, self.completion
            )  # fmt: skip
        return name in _KNOWN


def read_record(value: Any, origin: str, fields: Fields) -> Text:
    """Return the document of a record.

    Raises:
        DataError: It fits no shape or several, or a field holds something else than it should.
        UnusableTextError: It is well formed, but empty, or has parts that are not text.
    """
    if not isinstance(value, dict):
        raise DataError(f"{origin}: expected {_EXPECTED}, found {describe(value)}")
    # Tables and Arrow give every record every field.
    record = {name: entry for name, entry in value.items() if entry is not None}
    altered: set[str] = set()
    record = clean({name: entry for name, entry in record.items() if fields.wanted(name)}, altered)
    shape = _named_shape(record, origin, fields, value) or _recognized_shape(record, origin, value)
    text = shape(record, origin, fields, altered)
    return Text(text.content, text.messages, origin, text.tools, tuple(sorted(altered)))


def describe(value: object) -> str:
    """Describe a value briefly for a message."""
    if isinstance(value, dict):
        names = ", ".join(repr(str(name)[:40]) for name in list(value)[:12])
        return f"an object with the keys {names or 'none'}{', …' if len(value) > 12 else ''}"
    if isinstance(value, list):
        return f"a list of {len(value)} entries"
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


_Shape = Callable[[dict[str, Any], str, Fields, set[str]], Text]


def _named_shape(record: dict[str, Any], origin: str, fields: Fields, found: dict[str, Any]) -> _Shape | None:
    """Return how to read the fields that the settings name; None if they name none."""
    for setting in ("text", "messages", "prompt", "completion"):
        name = getattr(fields, setting)
        if name is None or name in record:
            continue
        if name in found:
            raise UnusableTextError(f"{origin}: {name!r} is null; remove the record", "empty")
        raise DataError(
            f"{origin}: has no field {name!r}, which {setting}_field names; found {describe(found)}"
        )
    if fields.text is not None:
        return _plain(fields.text)
    if fields.messages is not None:
        return _chat(fields.messages)
    if fields.prompt is not None and fields.completion is not None:
        return _pair(fields.prompt, fields.input or "", fields.completion)
    return None


def _recognized_shape(record: dict[str, Any], origin: str, found: dict[str, Any]) -> _Shape:
    shapes: dict[str, _Shape] = {}
    if "text" in record:
        shapes["text_field: text"] = _plain("text")
    for name in _CHATS:
        if name in record:
            shapes[f"messages_field: {name}"] = _chat(name)
    for prompt, added, completion in _PAIRS:
        if prompt in record and completion in record:
            setting = f"prompt_field: {prompt}, completion_field: {completion}"
            shapes[f"{setting}, input_field: {added}" if added in record else setting] = _pair(
                prompt, added, completion
            )
    if len(shapes) == 1:
        return next(iter(shapes.values()))
    if shapes:
        raise DataError(
            f"{origin}: expected {_EXPECTED}, found {describe(found)}, which fits {len(shapes)} of them; say in the source which to read: "
            f"{'; or '.join(shapes)}"
        )
    null = next((name for name in found if name in _TEXTS and found[name] is None), None)
    if null is not None:
        raise UnusableTextError(f"{origin}: {null!r} is null; remove the record", "empty")
    raise DataError(
        f"{origin}: expected {_EXPECTED}, found {describe(found)}; name what to read in the source: text_field, messages_field, or "
        "prompt_field and completion_field"
    )


def _plain(name: str) -> _Shape:
    def read(record: dict[str, Any], origin: str, _: Fields, __: set[str]) -> Text:
        return Text(_text(record, name, origin), None, origin)

    return read


def _chat(name: str) -> _Shape:
    def read(record: dict[str, Any], origin: str, fields: Fields, altered: set[str]) -> Text:
        messages = read_messages(record[name], name, origin, (fields.role, fields.content), altered)
        return _with_surroundings(record, messages, origin, altered)

    return read


def _pair(prompt: str, added: str, completion: str) -> _Shape:
    def read(record: dict[str, Any], origin: str, _: Fields, altered: set[str]) -> Text:
        question = _side(record, prompt, "user", origin, altered)
        addition = record.get(added, "")
        if not isinstance(addition, str):
            raise DataError(f"{origin}: {added!r} is {describe(addition)}; it must be a string")
        if addition.strip():
            *before, last = question
            question = (*before, last | {"content": f"{last['content']}\n\n{addition}"})
        answer = _side(record, completion, "assistant", origin, altered)
        return _with_surroundings(record, (*question, *answer), origin, altered)

    return read


def _side(record: dict[str, Any], name: str, role: str, origin: str, altered: set[str]) -> Messages:
    """Return the messages of a prompt or of an answer, which may be text, or messages as JSON in a string, as tables hold them."""
    value = from_json(record[name], list)
    written = isinstance(value, list) and all(
        isinstance(entry, dict) and ("role" in entry or "from" in entry) for entry in value
    )
    if isinstance(record[name], str) and not (written and value):
        return ({"role": role, "content": _text(record, name, origin)},)
    return read_messages(record[name], name, origin, (None, None), altered)


def _with_surroundings(record: dict[str, Any], messages: Messages, origin: str, altered: set[str]) -> Text:
    """Return the chat with the system prompt and the tools that stand beside its messages."""
    system = record.get("system", "")
    if not isinstance(system, str):
        raise DataError(f"{origin}: 'system' is {describe(system)}; it must be a string")
    if system.strip():
        if messages[0]["role"] == "system":
            raise DataError(f"{origin}: has a system prompt both in 'system' and in the messages; remove one")
        messages = ({"role": "system", "content": system}, *messages)
    if from_json(record.get("history"), list):
        raise DataError(f"{origin}: 'history' is not read; write the whole chat as 'messages'")
    tools = read_tools(record.get("tools"), origin, altered)
    return Text(None, messages, origin, tools)


def _text(record: dict[str, Any], name: str, origin: str) -> str:
    text = record[name]
    if not isinstance(text, str):
        raise DataError(f"{origin}: {name!r} is {describe(text)}; it must be a string")
    if not text.strip():
        raise UnusableTextError(f"{origin}: {name!r} is empty; remove the line", "empty")
    return text
