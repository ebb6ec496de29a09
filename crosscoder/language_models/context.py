"""A context before the same tokens: the in-context intervention. Weights stay; what a model has read before changes.

The intervened model reads the tokens of the context, then those of a document, and what it computes on the latter is compared
with what it computes on them alone: token by token, at shifted positions.
"""

from collections.abc import Sequence
from typing import Any, Self

import jinja2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..config import ContextSource, Message
from ..errors import PairError
from .hooks import Splice

_SETTING = "pair.intervened.context"


class Context:
    """Tokens that one model reads before every document."""

    def __init__(self, token_ids: Int[np.ndarray, " token"]) -> None:
        self.token_ids = torch.from_numpy(token_ids.astype(np.int64))

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def encode(
        cls, source: ContextSource, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
    ) -> Self:
        """Text as the tokenizer has it, chat messages as the chat template renders them.

        Raises:
            PairError: There is no token in it, no chat template for its messages, or the template refuses them.
        """
        if isinstance(source.context, str):
            ids: Any = tokenizer(source.context, verbose=False)["input_ids"]
        else:
            ids = _render(source.context, tokenizer, chat_template)
        if not len(ids):
            raise PairError(f"{_SETTING}: the tokenizer makes no token of it; give some text")
        return cls(np.asarray(ids))

    def before(
        self, token_ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"]
    ) -> tuple[Int[Tensor, "document context_and_token"], Bool[Tensor, "document context_and_token"]]:
        """Documents with the context before each."""
        ids = self.token_ids.to(token_ids).expand(len(token_ids), -1)
        return torch.cat([ids, token_ids], dim=1), self.past(mask)

    def past(self, mask: Bool[Tensor, "document token"]) -> Bool[Tensor, "document context_and_token"]:
        """The mask of documents after the context."""
        return torch.cat([mask.new_ones(len(mask), len(self)), mask], dim=1)

    def wanted(self, at: Bool[Tensor, "document token"]) -> Bool[Tensor, "document context_and_token"]:
        """Tokens of documents among those of the context and theirs."""
        return torch.cat([at.new_zeros(len(at), len(self)), at], dim=1)

    def after(
        self, values: Float[Tensor, "document context_and_token _"]
    ) -> Float[Tensor, "document token _"]:
        """What was computed on the documents."""
        return values[:, len(self) :]

    def spliced(self, splice: Splice) -> Splice:
        """A splice of the documents alone, which leaves what was computed on the context as it is."""
        return lambda values: torch.cat([values[:, : len(self)], splice(self.after(values))], dim=1)


def _render(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> list[int]:
    if chat_template is None:
        raise PairError(f"{_SETTING}: messages, but the tokenizer has no chat template; give plain text")
    try:
        encoding: Any = tokenizer.apply_chat_template(
            [message.model_dump() for message in messages],
            chat_template=chat_template,
            add_generation_prompt=False,
            tokenize=True,
            return_dict=True,
        )
    except jinja2.TemplateError as error:
        raise PairError(
            f"{_SETTING}: the chat template refuses these messages ({error}); change them"
        ) from error
    return encoding["input_ids"]
