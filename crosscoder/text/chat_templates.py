"""Encodes chats as token ids and marks the tokens that the chat template added."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Bool, Int, Int32
from transformers import PreTrainedTokenizerBase

from ..errors import FormatError, first_line
from .chat_messages import LeftOutError
from .template_calls import check_rendered, reproducible
from .tokenizer_calls import encode, render

# Placeholders for message contents: private-use characters, which no template tests for.
_PLACEHOLDER = "\ue000{}\ue001"
_PLACEHOLDER_PATTERN = re.compile("\ue000([0-9]{1,9})\ue001")

# Marks inside a content by which templates tell its parts apart, such as <think> and </think>.
_MARK = re.compile(r"(</?[^<>\s]{1,40}>|\[/?[A-Z_]{2,40}\])")

# What templates raise for messages that they are not made for: some add None to text, or look for an entry that is missing. A template
# is not trusted, and may also divide by zero, call itself for ever, or ask for more memory than there is.
TEMPLATE_ERRORS = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip

REFUSED = "refused by the chat template"
LEFT_OUT = "with messages that the chat template leaves out"
REWRITTEN = "rewritten by the chat template"
NOT_TOKENIZED = "tokenized differently from text"


class UnrenderableChatError(LeftOutError, FormatError):
    """A chat that the template cannot render, or whose contents cannot be found in what it renders."""


class RenderedChat(NamedTuple):
    """A chat rendered by a chat template."""

    token_ids: Int32[np.ndarray, " token"]

    template: Bool[np.ndarray, " token"]
    """Tokens outside the message contents. Tool calls and definitions of tools count as template."""

    text: str
    """The rendered text."""

    spans: list[tuple[int, int]]
    """Character ranges of the message contents in `text`, in order. A content that the template divides has several."""


class _Rendering(NamedTuple):
    """How messages are rendered: all but the messages themselves."""

    tokenizer: PreTrainedTokenizerBase
    chat_template: str
    tools: list[dict[str, Any]] | None

    def text(self, messages: Sequence[dict[str, Any]]) -> str:
        rendered = self._apply(messages, tokenize=False)
        assert isinstance(rendered, str)
        return rendered

    def text_or_none(self, messages: Sequence[dict[str, Any]]) -> str | None:
        """Return the rendered text; None if the template refuses the messages."""
        try:
            return self.text(messages)
        except TEMPLATE_ERRORS:
            return None

    def ids(self, messages: Sequence[dict[str, Any]]) -> Int32[np.ndarray, " token"]:
        return np.asarray(self._apply(messages, tokenize=True, return_dict=True)["input_ids"], dtype=np.int32)

    def _apply(self, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
        tools: Any = self.tools
        return render(
            self.tokenizer,
            messages,
            tools=tools,
            chat_template=self.chat_template,
            add_generation_prompt=_awaits_answer(messages),
            **options,
        )


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str,
    messages: Sequence[dict[str, Any]],
    origin: str,
    tools: Sequence[dict[str, Any]] | None = None,
) -> tuple[Int[np.ndarray, " token"], Bool[np.ndarray, " token"]]:
    """Return the token ids of a chat, and which lie outside the message contents. Raises as `render_chat`."""
    chat = render_chat(tokenizer, chat_template, messages, origin, tools)
    return chat.token_ids, chat.template


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str,
    messages: Sequence[dict[str, Any]],
    origin: str,
    tools: Sequence[dict[str, Any]] | None = None,
) -> RenderedChat:
    """Render a chat with its template, as text and as tokens.

    The ids are `apply_chat_template(tokenize=True)`: tokenizing the rendered text again could add a second BOS. A chat
    that ends with a user message gets the generation prompt.

    Raises:
        UnrenderableChatError: The template refuses the messages or leaves one out, the contents cannot be found in the rendered text, or
            tokenizing that text gives other ids, so that tokens cannot be matched with characters.
        FormatError: The tokenizer gives no character offsets, the template another text each time, or one of them takes too long.
    """
    if not tokenizer.is_fast:
        raise FormatError(
            f"{origin}: tokenizer {tokenizer.name_or_path!r} gives no character offsets, which are needed for chats; "
            "use a model with a fast tokenizer (tokenizer.json)"
        )
    rendering = _Rendering(tokenizer, reproducible(chat_template, origin), list(tools) if tools else None)
    conversation, rendered = _written(rendering, messages, origin)
    check_rendered(rendered, map(content_of, conversation), origin)
    spans = _locate(rendering, conversation, rendered, origin)
    ids = rendering.ids(conversation)
    again = encode(tokenizer, rendered, add_special_tokens=False, return_offsets_mapping=True)
    if not np.array_equal(ids, np.asarray(again["input_ids"])):
        raise UnrenderableChatError(
            f"{origin}: the chat template of {tokenizer.name_or_path!r}, which begins {chat_template[:40]!r}, gives other "
            "token ids when its rendered text is tokenized, so template tokens cannot be identified",
            NOT_TOKENIZED,
        )
    offsets = np.asarray(again["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return RenderedChat(ids, _outside_spans(offsets, spans), rendered, spans)


def _written(
    rendering: _Rendering, messages: Sequence[dict[str, Any]], origin: str
) -> tuple[list[dict[str, Any]], str]:
    """Return the messages in the form that the template renders completely, and the rendered text.

    Templates differ in how tool calls are to be written, so each way is tried. One that renders the same text without the tool calls has
    lost them.
    """
    refusal: Exception | None = None
    for conversation in _ways_to_write(messages):
        try:
            rendered = rendering.text(conversation)
            if not _loses_tools(rendering, conversation):
                return conversation, rendered
        except TEMPLATE_ERRORS as error:
            refusal = refusal or error
    if refusal is not None:
        raise UnrenderableChatError(
            f"{origin}: the chat template refuses these messages ({first_line(refusal)[:200]}); change or remove them",
            REFUSED,
        ) from refusal
    raise UnrenderableChatError(
        f"{origin}: the chat template leaves out tools or tool calls of this chat; use a model whose template renders them, or remove the chat",
        LEFT_OUT,
    )


def _ways_to_write(messages: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the same chat in the ways in which templates expect tool calls: empty text may be null (which transformers 5 leaves out), and
    arguments may be text."""
    if not any("tool_calls" in message for message in messages):
        yield list(messages)
        return
    for as_text in (False, True):
        for empty in (None, ""):
            yield [_with_calls(message, empty, as_text) for message in messages]


def _with_calls(message: dict[str, Any], empty: str | None, as_text: bool) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = message["tool_calls"]
    if as_text:
        calls = [
            call
            | {
                "function": call["function"]
                | {"arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}
            }
            if isinstance(call["function"]["arguments"], dict)
            else call
            for call in calls
        ]
    return message | {"content": message["content"] or empty, "tool_calls": calls}


def _loses_tools(rendering: _Rendering, conversation: Sequence[dict[str, Any]]) -> bool:
    """Whether the template leaves out a tool or a call: it is rendered with names in their place that no text holds."""
    names = _Names()
    tools = [names.in_place_of(tool) for tool in rendering.tools or ()]
    messages = [
        message | {"tool_calls": [names.in_place_of(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in conversation
    ]
    if not names.given:
        return False
    rendered = rendering._replace(tools=tools or None).text(messages)
    return not all(name in rendered for name in names.given)


class _Names:
    """Names of functions that stand in for others."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def in_place_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return a tool call or a definition of a tool with another name."""
        self.given.append(f"qx{len(self.given)}zjv")
        if isinstance(entry.get("function"), dict):
            return entry | {"function": entry["function"] | {"name": self.given[-1]}}
        return entry | {"name": self.given[-1]}


def _locate(
    rendering: _Rendering, conversation: Sequence[dict[str, Any]], rendered: str, origin: str
) -> list[tuple[int, int]]:
    """Return the character ranges of the contents in the rendered text.

    A template may move or drop what stands before a mark such as </think>, and add such marks to an answer that has none. Then each piece of
    text between marks has a placeholder of its own.
    """
    whole = [[content_of(message)] for message in conversation]
    pieces = [_MARK.split(content_of(message)) for message in conversation]
    spans = None
    for divided in (whole, pieces) if pieces != whole else (whole,):
        # Even entries are text, odd ones are marks. A piece without a character stays as it is.
        texts = [part for parts in divided for part in parts[::2] if part.strip()]
        numbers = iter(range(len(texts)))
        marked = [
            message
            | {
                "content": "".join(
                    part if place % 2 or not part.strip() else _PLACEHOLDER.format(next(numbers))
                    for place, part in enumerate(parts)
                )
            }
            if any(part.strip() for part in parts)
            else message
            for message, parts in zip(conversation, divided, strict=True)
        ]
        text = rendering.text_or_none(marked)
        if text is None:
            continue
        if divided is whole:
            _check_complete(rendering, conversation, rendered, text, origin)
        spans = content_spans(rendered, text, texts)
        if spans is not None:
            return spans
    raise UnrenderableChatError(
        f"{origin}: the message contents cannot be found in the text that the chat template renders "
        f"({rendered[:60]!r}…); the template rewrites them, so change or remove these messages",
        REWRITTEN,
    )


def _check_complete(
    rendering: _Rendering, conversation: Sequence[dict[str, Any]], rendered: str, marked: str, origin: str
) -> None:
    """Refuse a chat if the template leaves out one of its messages, so that nothing of a document is lost in silence."""
    shown = set(map(int, _PLACEHOLDER_PATTERN.findall(marked)))
    written = [index for index, message in enumerate(conversation) if content_of(message).strip()]
    for number, index in enumerate(written):
        if number in shown:
            continue
        other = [dict(message) for message in conversation]
        other[index]["content"] = _PLACEHOLDER.format(0)
        # If the text depends on the content nevertheless, the content was rewritten.
        if rendering.text_or_none(other) == rendered:
            raise UnrenderableChatError(
                f"{origin}: the chat template leaves out message {index} (role {conversation[index]['role'][:40]!r}); change its role, "
                "or remove it",
                LEFT_OUT,
            )


def content_of(message: dict[str, Any]) -> str:
    """Return the text of a message; a template may need null in place of empty text."""
    return message["content"] or ""


def content_spans(rendered: str, marked: str, contents: Sequence[str]) -> list[tuple[int, int]] | None:
    """Return the character ranges of the contents in `rendered`, or None if they cannot be found.

    A plain search could match a short content inside a system prompt. So the template is also rendered with placeholders
    (`marked`): the text between placeholders comes from the template, and the text between those pieces in `rendered` is
    content, with or without its surrounding white space.
    """
    first, *rest = _PLACEHOLDER_PATTERN.split(marked)
    if not rendered.startswith(first):
        return None
    cursor, spans = len(first), []
    for number, (index, written) in enumerate(zip(rest[::2], rest[1::2], strict=True), start=1):
        if int(index) >= len(contents):  # the chat itself has the characters of a placeholder
            return None
        content = contents[int(index)]
        for candidate in (content, content.strip(), content.lstrip(), content.rstrip()):
            if rendered.startswith(candidate + written, cursor):
                end = cursor + len(candidate)
                break
        else:
            last = number == len(rest) // 2
            end = rendered.rfind(written, cursor) if last else rendered.find(written, cursor)
            if end < 0:
                return None
        spans.append((cursor, end))
        cursor = end + len(written)
    return spans if cursor == len(rendered) else None


def _awaits_answer(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether the last message is the user's, or what a tool returned."""
    return bool(messages) and messages[-1].get("role") in ("user", "tool")


def _outside_spans(
    offsets: Int[np.ndarray, "token 2"], spans: Sequence[tuple[int, int]]
) -> Bool[np.ndarray, " token"]:
    """Mark the tokens that share no character with any span."""
    outside = np.ones(len(offsets), dtype=bool)
    for start, end in spans:
        outside &= (offsets[:, 1] <= start) | (offsets[:, 0] >= end)
    return outside
