"""What is known about the tokens behind activations: their source, whether a template wrote them, and how to show them."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crosscoder.text.documents import Documents

from .token_text import display_vocabulary


class ShownTokens(NamedTuple):
    """Columns about tokens, in the order they were asked for."""

    token_ids: pa.Array
    tokens: pa.Array
    special: pa.Array
    template: pa.Array


@runtime_checkable
class TokenContext(Protocol):
    """Where tokens come from."""

    source_names: tuple[str, ...]
    has_template: bool
    """Whether it is known which tokens a template wrote."""

    def source_of(self, document: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """Index into `source_names`."""
        ...

    def template_at(
        self, document: Int64[Tensor, " item"], position: Int64[Tensor, " item"]
    ) -> Bool[Tensor, " item"]:
        """Whether a template wrote the token."""
        ...

    def length_of(self, document: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, " item"]:
        """Tokens of the document, masked ones included."""
        ...

    def show(self, document: Int64[np.ndarray, " item"], position: Int64[np.ndarray, " item"]) -> ShownTokens:
        """What to print for each token."""
        ...


class DocumentContext:
    """Tokens of documents that were tokenized here."""

    has_template = True

    def __init__(
        self,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        intervened: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """`intervened`: the intervened model's tokenizer, where it is another one; shown are the tokens of the reference."""
        self.documents = documents
        self.source_names = documents.source_names
        self.vocabulary = display_vocabulary(tokenizer, int(documents.token_ids.max(initial=0)) + 1)
        self.intervened_vocabulary = self.vocabulary if intervened is None else display_vocabulary(intervened)
        """Of what directions are read as through the intervened model."""
        self._special = np.zeros(len(self.vocabulary), dtype=bool)
        special = [
            *tokenizer.all_special_ids,
            *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special),
        ]
        self._special[special] = True

    def source_of(self, document: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """Index into `source_names`."""
        return torch.from_numpy(self.documents.source[document.numpy()].astype(np.int64))

    def template_at(
        self, document: Int64[Tensor, " item"], position: Int64[Tensor, " item"]
    ) -> Bool[Tensor, " item"]:
        """Whether a template wrote the token."""
        return torch.from_numpy(
            self.documents.template[self.documents.offsets[document.numpy()] + position.numpy()]
        )

    def length_of(self, document: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, " item"]:
        """Tokens of the document, masked ones included."""
        return self.documents.lengths[document]

    def show(self, document: Int64[np.ndarray, " item"], position: Int64[np.ndarray, " item"]) -> ShownTokens:
        """Ids and display text; special tokens and those a template wrote are marked."""
        place = self.documents.offsets[document] + position
        ids = self.documents.token_ids[place]
        return ShownTokens(
            pa.array(ids, pa.int32()),
            pa.array(self.vocabulary, pa.string()).take(pa.array(ids)),
            pa.array(self._special[ids]),
            pa.array(self.documents.template[place]),
        )


class RowContext:
    """Rows of arrays that a user gave: their tokens are not known, so row numbers stand for them."""

    has_template = False
    source_names: tuple[str, ...] = ("files",)

    def __init__(self, document: Int64[np.ndarray, " row"]) -> None:
        """`document` is the document of every row of the whole array, held-out rows or not."""
        self._rows = np.argsort(document, kind="stable")
        # A user's numbers for documents can be anything, so they are looked up, not indexed with.
        self._names, self._first, self._count = np.unique(
            document[self._rows], return_index=True, return_counts=True
        )

    def source_of(self, document: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """There is one source."""
        return torch.zeros_like(document)

    def template_at(
        self, document: Int64[Tensor, " item"], position: Int64[Tensor, " item"]
    ) -> Bool[Tensor, " item"]:
        """Rows have no template."""
        return torch.zeros_like(document, dtype=torch.bool)

    def length_of(self, document: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, " item"]:
        """Rows of the document."""
        return self._count[np.searchsorted(self._names, document)]

    def show(self, document: Int64[np.ndarray, " item"], position: Int64[np.ndarray, " item"]) -> ShownTokens:
        """Row numbers in the user's arrays; the id of an unknown token is -1."""
        rows = self._rows[self._first[np.searchsorted(self._names, document)] + position]
        no = pa.array(np.zeros(len(rows), dtype=bool))
        return ShownTokens(
            pa.array(np.full(len(rows), -1), pa.int32()), pa.array(rows).cast(pa.string()), no, no
        )
