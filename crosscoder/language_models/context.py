"""The in-context intervention: the same weights, with a context before the same tokens.

The intervened model reads the context, then a document. Its activations on the document are compared, token by token and at
shifted positions, with those of the reference, which reads the document alone.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..config import ContextSource, Message
from ..errors import PairError
from ..text.chat_templates import TEMPLATE_ERRORS
from ..text.template_calls import check_rendered, reproducible
from ..text.tokenizer_calls import encode, render
from .hooks import Splice

_SETTING = "pair.intervened.context"


class Context:
    """Tokens that the intervened model reads before every document."""

    def __init__(self, token_ids: Int[np.ndarray, " token"]) -> None:
        self.token_ids = torch.from_numpy(token_ids.astype(np.int64))

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def encode(
        cls, source: ContextSource, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
    ) -> Self:
        """Tokenize a text, or chat messages rendered by the chat template.

        Raises:
            PairError: The context has no tokens, or its messages have no chat template or are rejected by it.
        """
        if isinstance(source.context, str):
            ids: Any = encode(tokenizer, source.context)["input_ids"]
        else:
            ids = _render(source.context, tokenizer, chat_template)
        if not len(ids):
            raise PairError(f"{_SETTING}: the tokenizer returns no tokens for it; give some text")
        return cls(np.asarray(ids))

    def prepend(
        self, token_ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"]
    ) -> tuple[Int[Tensor, "document context_and_token"], Bool[Tensor, "document context_and_token"]]:
        """Prepend the context to every document."""
        ids = self.token_ids.to(token_ids).expand(len(token_ids), -1)
        return torch.cat([ids, token_ids], dim=1), self.prepend_mask(mask)

    def prepend_mask(
        self, mask: Bool[Tensor, "document token"]
    ) -> Bool[Tensor, "document context_and_token"]:
        """Extend a mask of documents to cover the context."""
        return torch.cat([mask.new_ones(len(mask), len(self)), mask], dim=1)

    def document_mask(self, at: Bool[Tensor, "document token"]) -> Bool[Tensor, "document context_and_token"]:
        """Extend a selection of document tokens to context and document; no context token is selected."""
        return torch.cat([at.new_zeros(len(at), len(self)), at], dim=1)

    def strip(
        self, values: Float[Tensor, "document context_and_token _"]
    ) -> Float[Tensor, "document token _"]:
        """Drop the positions of the context."""
        return values[:, len(self) :]

    def splice_documents(self, splice: Splice) -> Splice:
        """Restrict a splice to the documents, leaving the activations of the context unchanged."""
        return lambda values: torch.cat([values[:, : len(self)], splice(self.strip(values))], dim=1)


def _render(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> list[int]:
    if chat_template is None:
        raise PairError(f"{_SETTING}: has messages, but the tokenizer has no chat template; give plain text")
    template = reproducible(chat_template, _SETTING)
    rendering: dict[str, Any] = {"chat_template": template, "add_generation_prompt": False}
    conversation = [message.model_dump() for message in messages]
    try:
        text = str(render(tokenizer, conversation, tokenize=False, **rendering))
        encoding = render(tokenizer, conversation, tokenize=True, return_dict=True, **rendering)
    except TEMPLATE_ERRORS as error:
        raise PairError(
            f"{_SETTING}: the chat template rejects these messages ({error}); change them"
        ) from error
    check_rendered(text, (message.content for message in messages), _SETTING)
    return encoding["input_ids"]
