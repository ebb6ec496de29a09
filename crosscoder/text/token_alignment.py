"""Aligns the tokens of two models with different tokenizers: finds where both have read the same characters.

A *place* is a position in the text at which a token of each model ends; the last such token of each model represents it. Both models
have read exactly the same text there, so their activations can be compared. Other tokens are read (attention sees them) but neither
trained on nor analyzed. A token that ends inside a character (a piece of a byte-level vocabulary) ends at no place.

In chats, only message contents are compared: each model reads them in its own template, and template tokens have no counterpart.
"""

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int32, Int64
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..config.pair import MIN_ALIGNMENT_RATE
from ..errors import DataError, PairError
from .chat_messages import UnusableTextError
from .chat_templates import RenderedChat, render_chat
from .record_shapes import Text
from .tokenizer_calls import encode, encode_alone


class TextReader(NamedTuple):
    """The tokenizer and chat template of a model."""

    tokenizer: PreTrainedTokenizerBase
    chat_template: str | None

    name: str
    """Name of the model, for messages."""


class EncodedText(NamedTuple):
    """One text in the tokens of one model."""

    token_ids: Int32[np.ndarray, " token"]

    ends: Int64[np.ndarray, " token"]
    """Number of compared characters up to the end of each token; 0 for a token that ends at no place."""

    written: Bool[np.ndarray, " token"]
    """Tokens of compared text: neither special nor from a template."""

    template: Bool[np.ndarray, " token"]
    """Tokens that a chat template added."""


EncodedPair = tuple[EncodedText, EncodedText]
"""One text in the tokens of the reference and of the intervened model."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """The intervened model's tokens of all documents, and their counterparts among the reference's tokens."""

    token_ids: Int32[np.ndarray, " intervened_total"]
    """Token ids of all documents, concatenated."""

    offsets: Int64[np.ndarray, " document_and_one"]
    """Document i holds the tokens from offsets[i] up to offsets[i + 1]."""

    places: Int32[np.ndarray, " total"]
    """For each token of the reference, the position in its document of the intervened model's token that ends at the same character;
    -1 if there is none."""

    written: Int64[np.ndarray, " model"]
    """Number of tokens of compared text, per model."""

    @property
    def n_places(self) -> int:
        """Number of places, before masking."""
        return int((self.places >= 0).sum())

    @property
    def rates(self) -> tuple[float, float]:
        """Share of the tokens of compared text that have a counterpart: reference, intervened."""
        one, other = (self.n_places / max(1, int(count)) for count in self.written)
        return one, other

    @property
    def lengths(self) -> Int64[np.ndarray, " document"]:
        """Number of the intervened model's tokens in each document."""
        return np.diff(self.offsets)

    def tokens_of(self, document: SupportsIndex) -> Int32[np.ndarray, " token"]:
        """Return the intervened model's token ids of one document."""
        index = int(document)
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    def to_reference(
        self, values: Bool[np.ndarray, " intervened_total"], offsets: Int64[np.ndarray, " document_and_one"]
    ) -> Bool[np.ndarray, " total"]:
        """Transfer marks from the intervened model's tokens to their counterparts in the reference; False without a counterpart."""
        starts = np.repeat(self.offsets[:-1], np.diff(offsets))
        return (self.places >= 0) & values[np.where(self.places >= 0, starts + self.places, 0)]

    def describe(self) -> dict[str, Any]:
        """Return the record for the manifest of a run."""
        reference, intervened = self.rates
        return {
            "by": "characters",
            "places": self.n_places,
            "reference": {"tokens": int(self.written[0]), "rate": reference},
            "intervened": {"tokens": int(self.written[1]), "rate": intervened},
        }


class Aligner:
    """Encodes texts with both models' tokenizers and aligns the tokens."""

    def __init__(self, readers: tuple[TextReader, TextReader]) -> None:
        """
        Args:
            readers: Reference and intervened model.

        Raises:
            PairError: A tokenizer gives no character offsets.
        """
        self._readers = readers
        self._encoders = tuple(_untrimmed_tokenizer(reader) for reader in readers)

    def read(self, text: Text) -> EncodedPair:
        """Encode one text with both tokenizers, reference first.

        Raises:
            UnusableTextError: It has no tokens, or the two templates render the contents of a chat differently.
            UnrenderableChatError: A template refuses a chat.
            DataError: Neither model has a template for a chat.
            PairError: A tokenizer gives ids that do not match its offsets.
        """
        if text.messages is None:
            one, other = (self._plain(model, text.content or "", text.origin) for model in range(2))
            return one, other
        chats = [self._chat(model, text) for model in range(2)]
        cores = [[chat.text[start:stop].strip() for start, stop in chat.spans] for chat in chats]
        if cores[0] != cores[1]:
            raise UnusableTextError(
                f"{text.origin}: the two chat templates render the contents of this chat differently, so they cannot be aligned; "
                "give plain text, or remove it",
                "rendered differently by the two chat templates",
            )
        one, other = (self._contents(model, chat, text.origin) for model, chat in enumerate(chats))
        return one, other

    def align(self, pairs: Iterable[EncodedPair], max_length: int) -> tuple[list[EncodedText], Alignment]:
        """Align texts that `read` has encoded, each truncated to the text that both models read in `max_length` tokens.

        Raises:
            PairError: The alignment rate of a model is below `MIN_ALIGNMENT_RATE`.
        """
        kept: list[EncodedText] = []
        intervened_ids: list[np.ndarray] = []
        places: list[np.ndarray] = []
        written = np.zeros(2, dtype=np.int64)
        for pair in pairs:
            reference, intervened = (_truncate(side, max_length) for side in pair)
            counterparts = counterpart_positions(reference.ends, intervened.ends)
            aligned = np.flatnonzero(counterparts >= 0)
            if len(aligned):
                reference = _truncate(reference, int(aligned[-1]) + 1)
                intervened = _truncate(intervened, int(counterparts[aligned[-1]]) + 1)
            kept.append(reference)
            intervened_ids.append(intervened.token_ids)
            places.append(counterparts[: len(reference.token_ids)])
            written += [int(reference.written.sum()), int(intervened.written.sum())]
        alignment = Alignment(
            token_ids=np.concatenate(intervened_ids),
            offsets=np.concatenate([[0], np.cumsum([len(row) for row in intervened_ids])]).astype(np.int64),
            places=np.concatenate(places),
            written=written,
        )
        self._check_rates(alignment)
        return kept, alignment

    def _check_rates(self, alignment: Alignment) -> None:
        if min(alignment.rates) < MIN_ALIGNMENT_RATE:
            one, other = alignment.rates
            raise PairError(
                f"pair.align: only {one:.1%} of the tokens of {self._readers[0].name!r} and {other:.1%} of those of {self._readers[1].name!r} end "
                f"where a token of the other ends, but at least {MIN_ALIGNMENT_RATE:.0%} are needed; give two models with more similar "
                "tokenizers, or text that both can encode"
            )

    def _plain(self, model: int, text: str, origin: str) -> EncodedText:
        ids = encode(self._readers[model].tokenizer, text)["input_ids"]
        token_ids = np.asarray(ids, dtype=np.int32)
        if not len(token_ids):
            raise UnusableTextError(
                f"{origin}: the tokenizer of {self._readers[model].name!r} makes no tokens from this text; remove it",
                "without tokens",
            )
        offsets, written = self._offsets(model, text, token_ids, special=True)
        return EncodedText(token_ids, token_ends(text, offsets, written), written, np.zeros_like(written))

    def _chat(self, model: int, text: Text) -> RenderedChat:
        reader = self._readers[model]
        if reader.chat_template is None:
            raise DataError(
                f"{text.origin}: a chat, but neither model's tokenizer has a chat template; "
                "give plain 'text', or a model whose tokenizer has one"
            )
        return render_chat(
            reader.tokenizer, reader.chat_template, text.messages or (), text.origin, text.tools
        )

    def _contents(self, model: int, chat: RenderedChat, origin: str) -> EncodedText:
        """Encode a chat, with ends counted along the concatenated contents, each stripped of surrounding white space."""
        if not len(chat.token_ids):
            raise UnusableTextError(
                f"{origin}: the chat template of {self._readers[model].name!r} makes no tokens from this chat; remove it",
                "without tokens",
            )
        offsets, _ = self._offsets(model, chat.text, chat.token_ids, special=False)
        rendered = token_ends(chat.text, offsets, ~chat.template)
        ends = np.zeros_like(rendered)
        before = 0
        for start, stop in chat.spans:
            content = chat.text[start:stop]
            start += len(content) - len(content.lstrip())
            stop = start + len(content.strip())
            inside = (rendered > start) & (rendered <= stop)
            ends[inside] = rendered[inside] - start + before
            before += stop - start
        return EncodedText(chat.token_ids, ends, ~chat.template, chat.template)

    def _offsets(
        self, model: int, text: str, token_ids: Int32[np.ndarray, " token"], *, special: bool
    ) -> tuple[Int64[np.ndarray, "token 2"], Bool[np.ndarray, " token"]]:
        """Return the character ranges of tokens, and which of them encode text rather than being added as special tokens."""
        encoding = encode_alone(self._encoders[model], text, self._readers[model].name, special=special)
        if not np.array_equal(encoding.ids, token_ids):
            raise PairError(
                f"pair.align: the tokenizer of {self._readers[model].name!r} gives other ids with offsets than without, so its tokens cannot "
                "be matched with characters; give a model whose tokenizer.json defines its tokenizer completely"
            )
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return offsets, ~np.asarray(encoding.special_tokens_mask, dtype=bool)


def token_ends(
    text: str, offsets: Int64[np.ndarray, "token 2"], written: Bool[np.ndarray, " token"]
) -> Int64[np.ndarray, " token"]:
    """Return the number of characters up to the end of each token; 0 if it is not `written` or ends inside a character.

    Normalizers that compose or strip combining marks assign the mark to no token; it belongs to the preceding character.
    """
    ends = np.zeros(len(offsets), dtype=np.int64)
    tokens = np.flatnonzero(written)
    starts, stops = offsets[tokens, 0], offsets[tokens, 1].copy()
    following = np.append(starts[1:], len(text))
    for index in np.flatnonzero(following > stops):
        while stops[index] < following[index] and unicodedata.category(text[stops[index]]).startswith("M"):
            stops[index] += 1
    whole = (following >= stops) & (stops >= np.maximum.accumulate(stops))
    ends[tokens[whole]] = stops[whole]
    return ends


def counterpart_positions(
    reference: Int64[np.ndarray, " token"], intervened: Int64[np.ndarray, " intervened_token"]
) -> Int32[np.ndarray, " token"]:
    """For each reference token, return the position of the intervened model's last token with the same end.

    -1 if there is none, if the token ends at no place (0), or if a later reference token has the same end.
    """
    last = [_last_with(ends) for ends in (reference, intervened)]
    _, one, other = np.intersect1d(last[0][0], last[1][0], assume_unique=True, return_indices=True)
    places = np.full(len(reference), -1, dtype=np.int32)
    places[last[0][1][one]] = last[1][1][other]
    return places


def _last_with(
    ends: Int64[np.ndarray, " token"],
) -> tuple[Int64[np.ndarray, " end"], Int64[np.ndarray, " end"]]:
    """Return the distinct ends above 0, and the last token with each."""
    values, from_back = np.unique(ends[::-1], return_index=True)
    return values[values > 0], (len(ends) - 1 - from_back)[values > 0]


def _truncate(encoded: EncodedText, length: int) -> EncodedText:
    return EncodedText(*(values[:length] for values in encoded))


def _untrimmed_tokenizer(reader: TextReader) -> Tokenizer:
    """Return the tokenizer with offsets that include the white space around a word, which some tokenizers trim.

    Raises:
        PairError: It is not a fast tokenizer.
    """
    backend: Any = getattr(reader.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise PairError(
            f"pair.align: the tokenizer of {reader.name!r} gives no character offsets; use a model with a fast tokenizer (tokenizer.json)"
        )
    settings = json.loads(backend.to_str())
    processor = settings.get("post_processor") or {}
    for part in (processor, *processor.get("processors", ())):
        if "trim_offsets" in part:
            part["trim_offsets"] = False
    plain = Tokenizer.from_str(json.dumps(settings))
    plain.no_truncation()
    plain.no_padding()
    return plain
