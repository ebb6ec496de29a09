"""Chats as token ids, with a mark on every token that the chat template wrote rather than a person or a model."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Bool, Int, Int32
from transformers import PreTrainedTokenizerBase

from ..errors import FormatError

# Stand-ins for the contents of messages: private-use characters, which no template tests for.
_PLACEHOLDER = "\ue000{}\ue001"
_PLACEHOLDER_PATTERN = re.compile("\ue000(\\d+)\ue001")


class RenderedChat(NamedTuple):
    """A chat as a model reads it."""

    token_ids: Int32[np.ndarray, " token"]

    template: Bool[np.ndarray, " token"]
    """Tokens outside the contents of the messages."""

    text: str
    """What the template renders."""

    spans: list[tuple[int, int]]
    """Character ranges of the contents in `text`, in order."""


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, chat_template: str, messages: Sequence[dict[str, str]], origin: str
) -> tuple[Int[np.ndarray, " token"], Bool[np.ndarray, " token"]]:
    """Token ids of a chat, and which of them lie outside the contents of its messages. Raises as `render_chat`."""
    chat = render_chat(tokenizer, chat_template, messages, origin)
    return chat.token_ids, chat.template


def render_chat(
    tokenizer: PreTrainedTokenizerBase, chat_template: str, messages: Sequence[dict[str, str]], origin: str
) -> RenderedChat:
    """A chat through its template, as text and as tokens.

    The ids are `apply_chat_template(tokenize=True)`: tokenizing the rendered text again could add a second BOS. A chat
    that ends with the user's message is followed by the opening of the answer, as when the model is asked.

    Raises:
        FormatError: The template refuses the messages, its contents cannot be found in what it renders, or tokenizing
            what it renders gives other ids, so that tokens cannot be matched with characters.
    """
    conversation = list(messages)
    try:
        encoding: Any = tokenizer.apply_chat_template(
            conversation,
            chat_template=chat_template,
            add_generation_prompt=_asks(conversation),
            tokenize=True,
            return_dict=True,
        )
        rendered = _render(tokenizer, chat_template, conversation)
        marked = [message | {"content": _PLACEHOLDER.format(i)} for i, message in enumerate(conversation)]
        spans = content_spans(
            rendered,
            _render(tokenizer, chat_template, marked),
            [message["content"] for message in conversation],
        )
    except jinja2.TemplateError as error:
        raise FormatError(
            f"{origin}: the chat template refuses these messages ({error}); change or remove them"
        ) from error
    if spans is None:
        raise FormatError(
            f"{origin}: the contents of the messages cannot be found in what the chat template renders "
            f"({rendered[:60]!r}…); the template rewrites them, so change or remove these messages"
        )
    if not tokenizer.is_fast:
        raise FormatError(
            f"{origin}: tokenizer {tokenizer.name_or_path!r} gives no character offsets, which chats need; "
            "use a model with a fast tokenizer (tokenizer.json)"
        )
    ids = np.asarray(encoding["input_ids"], dtype=np.int32)
    again = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if not np.array_equal(ids, np.asarray(again["input_ids"])):
        raise FormatError(
            f"{origin}: the chat template of {tokenizer.name_or_path!r}, which begins {chat_template[:40]!r}, gives other "
            "token ids when its rendered text is tokenized; template tokens cannot be told apart"
        )
    offsets = np.asarray(again["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return RenderedChat(ids, _outside(offsets, spans), rendered, spans)


def content_spans(rendered: str, marked: str, contents: Sequence[str]) -> list[tuple[int, int]] | None:
    """Character ranges of the contents in `rendered`, or None where they cannot be found.

    Searching for the contents would mistake a short one for the same word in a system prompt. So the template is also
    rendered with placeholders (`marked`): what lies between them is what the template itself writes, and what lies
    between those pieces in `rendered` is content, be it stripped of white space or not.
    """
    first, *rest = _PLACEHOLDER_PATTERN.split(marked)
    if not rendered.startswith(first):
        return None
    cursor, spans = len(first), []
    for number, (index, written) in enumerate(zip(rest[::2], rest[1::2], strict=True), start=1):
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


def _render(tokenizer: PreTrainedTokenizerBase, chat_template: str, messages: list[dict[str, str]]) -> str:
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=chat_template, add_generation_prompt=_asks(messages), tokenize=False
    )
    assert isinstance(rendered, str)
    return rendered


def _asks(messages: Sequence[dict[str, str]]) -> bool:
    """Whether an answer comes next."""
    return bool(messages) and messages[-1].get("role") == "user"


def _outside(
    offsets: Int[np.ndarray, "token 2"], spans: Sequence[tuple[int, int]]
) -> Bool[np.ndarray, " token"]:
    """Tokens that share no character with any of the spans."""
    outside = np.ones(len(offsets), dtype=bool)
    for start, end in spans:
        outside &= (offsets[:, 1] <= start) | (offsets[:, 0] >= end)
    return outside
