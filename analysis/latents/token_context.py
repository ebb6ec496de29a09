"""Context of the tokens behind activations: their source, whether they are from the chat template, and their text."""

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
    """Columns about tokens, in the requested order."""

    token_ids: pa.Array
    tokens: pa.Array
    special: pa.Array
    template: pa.Array


@runtime_checkable
class TokenContext(Protocol):
    """Gives the source, document length and text of tokens."""

    source_names: tuple[str, ...]
    has_template: bool
    """Whether it is known which tokens are from the chat template."""

    def source_of(self, document: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """Return the source of each document as an index into `source_names`."""
        ...

    def template_at(
        self, document: Int64[Tensor, " item"], position: Int64[Tensor, " item"]
    ) -> Bool[Tensor, " item"]:
        """Whether the token is from the chat template."""
        ...

    def length_of(self, document: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, " item"]:
        """Return the number of tokens of each document, including masked ones."""
        ...

    def show(self, document: Int64[np.ndarray, " item"], position: Int64[np.ndarray, " item"]) -> ShownTokens:
        """Return what to show for each token."""
        ...


class DocumentContext:
    """Context of documents that this run tokenized."""

    has_template = True

    def __init__(
        self,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        intervened: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Show the tokens of the reference. `intervened`: tokenizer of the intervened model, if it differs."""
        self.documents = documents
        self.source_names = documents.source_names
        self.vocabulary = display_vocabulary(tokenizer, int(documents.token_ids.max(initial=0)) + 1)
        self.intervened_vocabulary = self.vocabulary if intervened is None else display_vocabulary(intervened)
        """Display texts for the logit lens through the intervened model."""
        self._special = np.zeros(len(self.vocabulary), dtype=bool)
        special = [
            *tokenizer.all_special_ids,
            *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special),
        ]
        self._special[special] = True

    def source_of(self, document: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """Return the source of each document as an index into `source_names`."""
        return torch.from_numpy(self.documents.source[document.numpy()].astype(np.int64))

    def template_at(
        self, document: Int64[Tensor, " item"], position: Int64[Tensor, " item"]
    ) -> Bool[Tensor, " item"]:
        """Whether the token is from the chat template."""
        return torch.from_numpy(
            self.documents.template[self.documents.offsets[document.numpy()] + position.numpy()]
        )

    def length_of(self, document: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, " item"]:
        """Return the number of tokens of each document, including masked ones."""
        return self.documents.lengths[document]

    def show(self, document: Int64[np.ndarray, " item"], position: Int64[np.ndarray, " item"]) -> ShownTokens:
        """Return ids and display texts, with marks for special and template tokens."""
        place = self.documents.offsets[document] + position
        ids = self.documents.token_ids[place]
        return ShownTokens(
            pa.array(ids, pa.int32()),
            pa.array(self.vocabulary, pa.string()).take(pa.array(ids)),
            pa.array(self._special[ids]),
            pa.array(self.documents.template[place]),
        )


class RowContext:
    """Context of a user's own arrays: tokens are unknown, so row numbers are shown."""

    has_template = False
    source_names: tuple[str, ...] = ("files",)

    def __init__(self, document: Int64[np.ndarray, " row"]) -> None:
        """`document`: the document of every row of the whole array, including rows that are not held out."""
        self._rows = np.argsort(document, kind="stable")
        # A user's document numbers can have any value, so they are looked up instead of used as indices.
        self._names, self._first, self._count = np.unique(
            document[self._rows], return_index=True, return_counts=True
        )

    def source_of(self, document: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """Return 0: there is one source."""
        return torch.zeros_like(document)

    def template_at(
        self, document: Int64[Tensor, " item"], position: Int64[Tensor, " item"]
    ) -> Bool[Tensor, " item"]:
        """Return False: rows have no chat template."""
        return torch.zeros_like(document, dtype=torch.bool)

    def length_of(self, document: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, " item"]:
        """Return the number of rows of each document."""
        return self._count[np.searchsorted(self._names, document)]

    def show(self, document: Int64[np.ndarray, " item"], position: Int64[np.ndarray, " item"]) -> ShownTokens:
        """Return row numbers in the user's arrays as text, with id -1."""
        rows = self._rows[self._first[np.searchsorted(self._names, document)] + position]
        no = pa.array(np.zeros(len(rows), dtype=bool))
        return ShownTokens(
            pa.array(np.full(len(rows), -1), pa.int32()), pa.array(rows).cast(pa.string()), no, no
        )
