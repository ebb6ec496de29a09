"""Reads the messages of a chat, as they are written by several tools, into one form.

In that form each message has text as `role` and as `content`. What else a message has stays in it for the chat template, except fields that
are null. The rules:

- `content` that is null is empty text. A list of parts is the parts' text, one after the other; a part that is not text makes the document
  unusable.
- Roles are written in lower case. `human`, `gpt`, `chatgpt`, `bot`, `model` and `bing` are `user` or `assistant`, `observation` and `function_response` are `tool`. Other roles
  stay as they are, for the chat template to judge.
- Arguments of tool calls that are written as a JSON object in a string are parsed, because chat templates expect an object. Null arguments
  are left out, because Parquet cannot tell them from missing ones.
- A `function_call` is a tool call, and the role `function` is `tool`: the older names of the same.
- A surrogate that belongs to no pair is no character, so it becomes U+FFFD.
"""

import re
from typing import Any

from ..errors import CrosscoderError, DataError
from ..runtime.json_text import parse_json

Messages = tuple[dict[str, Any], ...]

_ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function-response": "tool",
}
_SURROGATE = re.compile("[\ud800-\udfff]")

REPLACED = "lone surrogates replaced by U+FFFD"
OLDER = "function calls of the older form read as tool calls"


class LeftOutError(CrosscoderError):
    """A document that language models cannot read; its source is read without it, and it is counted."""

    def __init__(self, message: str, reason: str) -> None:
        """
        Args:
            message: One line with file and line.
            reason: Why, in a few words that documents with the same fault share.
        """
        super().__init__(message)
        self.reason = reason


class UnusableTextError(LeftOutError, DataError):
    """A document that is well formed but cannot be read by language models."""


def read_messages(
    value: Any, name: str, origin: str, fields: tuple[str | None, str | None], altered: set[str]
) -> Messages:
    """Return the messages of a chat.

    Args:
        value: The list of messages, or the same as JSON in a string, as tables hold it.
        name: The field that holds it.
        fields: The names of the fields of role and content; None: they are recognized.
        altered: Receives what was changed, in words.

    Raises:
        DataError: It is no list of messages.
        UnusableTextError: All messages are empty, or a part is not text.
    """
    value = _rows(from_json(value, (list, dict)))
    if not isinstance(value, list) or not value:
        found = f"a list of {len(value)} entries" if isinstance(value, list) else _short(value)
        raise DataError(f"{origin}: {name!r} is {found}; it must be a list of messages")
    role, content = _names(value, name, origin, fields)
    messages = tuple(
        _message(message, index, (role, content), origin, altered) for index, message in enumerate(value)
    )
    if not any(message["content"].strip() or message.get("tool_calls") for message in messages):
        raise UnusableTextError(f"{origin}: all messages are empty; remove the line", "empty")
    return messages


def read_tools(value: Any, origin: str, altered: set[str]) -> Messages | None:
    """Return the definitions of tools, which may be JSON in a string. Raises DataError if they are no list of objects."""
    tools = from_json(value, list)
    if tools is None or tools in ("", []):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{origin}: 'tools' is {_short(value)}; it must be a list of tool definitions")
    return tuple(without_nulls(clean(tools, altered)))


def clean(value: Any, altered: set[str]) -> Any:
    """Return a JSON value with U+FFFD in place of lone surrogates, which no tokenizer can read."""
    if isinstance(value, str):
        if _SURROGATE.search(value) is None:
            return value
        altered.add(REPLACED)
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {clean(name, altered): clean(entry, altered) for name, entry in value.items()}
    return [clean(entry, altered) for entry in value] if isinstance(value, list) else value


def without_nulls(value: Any) -> Any:
    """Return a JSON value without the fields that are null."""
    if isinstance(value, dict):
        return {name: without_nulls(entry) for name, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _rows(value: Any) -> Any:
    """Return a list of messages that older versions of `datasets` stored as lists of roles and of contents."""
    if (
        not isinstance(value, dict)
        or not value
        or not all(isinstance(column, list) for column in value.values())
    ):
        return value
    if len({len(column) for column in value.values()}) > 1:
        return value
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _names(
    messages: list[Any], name: str, origin: str, fields: tuple[str | None, str | None]
) -> tuple[str, str]:
    """Return the names of the fields of role and content."""
    if fields != (None, None):
        role, content = fields
        return role or "role", content or "content"
    first = messages[0]
    found = [
        pair
        for pair in (("role", "content"), ("from", "value"))
        if isinstance(first, dict) and pair[0] in first
    ]
    if len(found) > 1:
        raise DataError(
            f"{origin}: message 0 of {name!r} has both 'role' and 'from'; say in the source which to read: role_field and content_field"
        )
    return found[0] if found else ("role", "content")


def _message(
    message: Any, index: int, names: tuple[str, str], origin: str, altered: set[str]
) -> dict[str, Any]:
    role_name, content_name = names
    if not isinstance(message, dict):
        raise DataError(
            f"{origin}: message {index} is {_short(message)}; it must be an object with {role_name!r}"
        )
    kept = without_nulls({name: entry for name, entry in message.items() if name not in names})
    role = message.get(role_name)
    if not isinstance(role, str) or not role:
        raise DataError(
            f"{origin}: message {index} has no string {role_name!r}{_has(message)}; every message needs one, or name it with role_field"
        )
    calls = kept.pop("tool_calls", None)
    if older := kept.pop("function_call", None):
        altered.add(OLDER)
        calls = [{"type": "function", "function": older}]
    content = message.get(content_name)
    if role == "function_call":
        altered.add(OLDER)
        calls, content = _calls_in_text(content, index, origin), None
    if calls:
        kept["tool_calls"] = [_call(call, index, origin) for call in _listed(calls)]
    if role == "function":
        altered.add(OLDER)
        role = "tool"
    if content is None and content_name not in message and not calls:
        raise DataError(
            f"{origin}: message {index} has no string {content_name!r}{_has(message)}; every message needs one, or name it with content_field"
        )
    role = "assistant" if role == "function_call" else _ROLES.get(role.lower(), role)
    return {"role": role, "content": _content(content, content_name, index, origin), **kept}


def _content(content: Any, name: str, index: int, origin: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise DataError(
            f"{origin}: message {index} has no string {name!r}, found {_short(content)}; every message needs one"
        )
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise UnusableTextError(
                f"{origin}: message {index} has a part that is not text ({str(kind)[:40]!r}); remove the part or the document",
                "parts that are not text",
            )
        texts.append(text)
    return "".join(texts)


def _call(call: Any, index: int, origin: str) -> dict[str, Any]:
    """Return a tool call whose arguments are an object where they can be."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            f"{origin}: message {index} has a tool call without the name of a function; give it as in "
            '{"function": {"name": …, "arguments": {…}}}'
        )
    around = {name: entry for name, entry in call.items() if name not in ("function", "name", "arguments")}
    arguments = without_nulls(from_json(function.get("arguments", {}), dict))
    return {"type": "function", **around, "function": {**function, "arguments": arguments}}


def _calls_in_text(content: Any, index: int, origin: str) -> Any:
    calls = from_json(content, (dict, list))
    if not isinstance(calls, dict | list):
        raise DataError(
            f"{origin}: message {index} has the role 'function_call', but its text is not JSON with 'name' and 'arguments'"
        )
    return calls


def _listed(calls: Any) -> list[Any]:
    calls = from_json(calls, list)
    return calls if isinstance(calls, list) else [calls]


def from_json(value: Any, kinds: type | tuple[type, ...]) -> Any:
    """Return what a string holds as JSON, if that is of one of these types; otherwise the value itself."""
    if not isinstance(value, str):
        return value
    try:
        found = parse_json(value)
    except ValueError:
        return value
    return found if isinstance(found, kinds) else value


def _has(message: dict[Any, Any]) -> str:
    return f" (it has {', '.join(repr(str(name)[:40]) for name in list(message)[:8]) or 'no fields'})"


def _short(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
