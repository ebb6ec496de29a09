"""Encodes chats as token ids and marks the tokens that the chat template added."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Bool, Int, Int32
from transformers import PreTrainedTokenizerBase

from ..errors import FormatError
from ..runtime.run_date import dated

# Placeholders for message contents: private-use characters, which no template tests for.
_PLACEHOLDER = "\ue000{}\ue001"
_PLACEHOLDER_PATTERN = re.compile("\ue000(\\d+)\ue001")


class RenderedChat(NamedTuple):
    """A chat rendered by a chat template."""

    token_ids: Int32[np.ndarray, " token"]

    template: Bool[np.ndarray, " token"]
    """Tokens outside the message contents."""

    text: str
    """The rendered text."""

    spans: list[tuple[int, int]]
    """Character ranges of the message contents in `text`, in order."""


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, chat_template: str, messages: Sequence[dict[str, str]], origin: str
) -> tuple[Int[np.ndarray, " token"], Bool[np.ndarray, " token"]]:
    """Return the token ids of a chat, and which lie outside the message contents. Raises as `render_chat`."""
    chat = render_chat(tokenizer, chat_template, messages, origin)
    return chat.token_ids, chat.template


def render_chat(
    tokenizer: PreTrainedTokenizerBase, chat_template: str, messages: Sequence[dict[str, str]], origin: str
) -> RenderedChat:
    """Render a chat with its template, as text and as tokens.

    The ids are `apply_chat_template(tokenize=True)`: tokenizing the rendered text again could add a second BOS. A chat
    that ends with a user message gets the generation prompt.

    Raises:
        FormatError: The template refuses the messages, the contents cannot be found in the rendered text, or tokenizing
            that text gives other ids, so that tokens cannot be matched with characters.
    """
    conversation = list(messages)
    try:
        encoding: Any = tokenizer.apply_chat_template(
            conversation,
            chat_template=dated(chat_template),
            add_generation_prompt=_awaits_answer(conversation),
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
            f"{origin}: the message contents cannot be found in the text that the chat template renders "
            f"({rendered[:60]!r}…); the template rewrites them, so change or remove these messages"
        )
    if not tokenizer.is_fast:
        raise FormatError(
            f"{origin}: tokenizer {tokenizer.name_or_path!r} gives no character offsets, which are needed for chats; "
            "use a model with a fast tokenizer (tokenizer.json)"
        )
    ids = np.asarray(encoding["input_ids"], dtype=np.int32)
    again = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if not np.array_equal(ids, np.asarray(again["input_ids"])):
        raise FormatError(
            f"{origin}: the chat template of {tokenizer.name_or_path!r}, which begins {chat_template[:40]!r}, gives other "
            "token ids when its rendered text is tokenized, so template tokens cannot be identified"
        )
    offsets = np.asarray(again["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return RenderedChat(ids, _outside_spans(offsets, spans), rendered, spans)


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
        messages,
        chat_template=dated(chat_template),
        add_generation_prompt=_awaits_answer(messages),
        tokenize=False,
    )
    assert isinstance(rendered, str)
    return rendered


def _awaits_answer(messages: Sequence[dict[str, str]]) -> bool:
    """Whether the last message is the user's."""
    return bool(messages) and messages[-1].get("role") == "user"


def _outside_spans(
    offsets: Int[np.ndarray, "token 2"], spans: Sequence[tuple[int, int]]
) -> Bool[np.ndarray, " token"]:
    """Mark the tokens that share no character with any span."""
    outside = np.ones(len(offsets), dtype=bool)
    for start, end in spans:
        outside &= (offsets[:, 1] <= start) | (offsets[:, 0] >= end)
    return outside
