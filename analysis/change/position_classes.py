"""Classes of tokens by their place in the text: the first tokens of a document, tokens of the chat template, and all others."""

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from ..latents.token_context import TokenContext

FIRST_TOKENS = 2
"""Unmasked positions that count as the first of a document: its first token, and the one after a beginning-of-sequence token."""


class PositionClasses:
    """Assigns each token to a class. Where the tokens are unknown (a user's arrays), all are in one class."""

    def __init__(self, context: TokenContext, n_masked: int) -> None:
        """`n_masked`: positions at the start of each document that the harvest left out."""
        self._context, self._first = context, n_masked + FIRST_TOKENS
        self.names = ("first", "template", "other") if context.has_template else ("all",)

    def of(self, document: Int[Tensor, " token"], position: Int[Tensor, " token"]) -> Int64[Tensor, " token"]:
        """Return the class of each token, as an index into `names`. A first token of the template counts as first."""
        document, position = document.cpu().long(), position.cpu().long()
        if len(self.names) == 1:
            return torch.zeros_like(document)
        template = self._context.template_at(document, position)
        kind = torch.where(template, 1, 2)
        return torch.where(position < self._first, 0, kind)
