"""Encodes documents with the tokenizer of a pair, or with both, and leaves out those that cannot be encoded."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..errors import DataError
from .chat_messages import LeftOutError, UnusableTextError
from .chat_templates import encode_chat
from .readings import Reading
from .record_shapes import Text
from .token_alignment import Aligner, Alignment, TextReader
from .tokenizer_calls import encode_each

T = TypeVar("T")

SourceText = tuple[int, Text]
"""A document, and the number of its source."""


class EncodedTexts(NamedTuple):
    """Documents that could be encoded, in order."""

    texts: list[SourceText]

    token_ids: list[np.ndarray]
    """For each document the reference's tokens, truncated."""

    template: list[np.ndarray]
    """For each document the marks of tokens that the chat template added."""

    alignment: Alignment | None
    """The intervened model's tokens, if its tokenizer differs."""


def encode_texts(
    texts: Sequence[SourceText],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    readers: tuple[TextReader, TextReader] | None,
    max_length: int,
    readings: Sequence[Reading],
) -> EncodedTexts:
    """Encode all documents, truncated to `max_length` tokens.

    A document that the chat template cannot render, or that has no tokens, is left out and counted.

    Args:
        readers: Both models' tokenizers if they differ; the reference's is `tokenizer`.
        readings: What was read of each source; receives what is left out here.

    Raises:
        DataError, FormatError: Half of the documents of a source or more cannot be encoded, or a chat has no template.
        PairError: The two tokenizers cannot be aligned.
    """
    contents = [text for _, text in texts]
    if readers is None:
        kept, rows = _each(texts, _encoder(contents, tokenizer, chat_template), readings)
        ids, template = [row[:max_length] for row, _ in rows], [marks[:max_length] for _, marks in rows]
        return EncodedTexts(kept, ids, template, None)
    aligner = Aligner(readers)
    kept, pairs = _each(texts, aligner.read, readings)
    sides, alignment = aligner.align(pairs, max_length)
    return EncodedTexts(
        kept, [side.token_ids for side in sides], [side.template for side in sides], alignment
    )


def _each(
    texts: Sequence[SourceText], encode: Callable[[Text], T], readings: Sequence[Reading]
) -> tuple[list[SourceText], list[T]]:
    """Return the documents that can be encoded, and what `encode` makes of each; count the others."""
    kept: list[SourceText] = []
    encoded: list[T] = []
    for index, text in texts:
        try:
            encoded.append(encode(text))
        except LeftOutError as error:
            readings[index].leave_out(error, counted=True)
        else:
            kept.append((index, text))
    for reading in readings:
        reading.check()
        reading.report()
    return kept, encoded


def _encoder(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> Callable[[Text], tuple[np.ndarray, np.ndarray]]:
    """Return a function that encodes these documents in their order; the plain ones are encoded many at once."""
    plain = [text.content for text in texts if text.content is not None]
    encoded = encode_each(tokenizer, plain)

    def encode(text: Text) -> tuple[np.ndarray, np.ndarray]:
        if text.messages is None:
            row = np.asarray(next(encoded), dtype=np.int32)
            marks = np.zeros(len(row), dtype=bool)
        elif chat_template is None:
            raise DataError(
                f"{text.origin}: a chat, but neither model's tokenizer has a chat template; "
                "give plain 'text', or a model whose tokenizer has one"
            )
        else:
            row, marks = encode_chat(tokenizer, chat_template, text.messages, text.origin, text.tools)
            if text.cut:
                length = int(np.flatnonzero(~marks).max(initial=-1)) + 1
                row, marks = row[:length], marks[:length]
        if not len(row):
            raise UnusableTextError(
                f"{text.origin}: the tokenizer makes no tokens from this text; remove it", "without tokens"
            )
        return row, marks

    return encode
