"""Two models that read one text in tokens of their own: the places at which both have read the same characters.

A *place* is the end of a span of characters at which a token of both models ends; of each model the last token of the span stands for
it. By then both have read exactly the same text, so their activations there can be compared. Other tokens are read (attention sees
them), but neither trained on nor analyzed. A token that ends within a character that the next token goes on with (the pieces of
byte-level vocabularies) ends no span.

Of chats only the contents of messages are compared: each model reads them in its own template, and what templates write has no
counterpart.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int32, Int64
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..config.pair import LOWEST_RATE
from ..errors import DataError, PairError
from .chat_templates import RenderedChat, render_chat
from .text_files import Text


class TextReader(NamedTuple):
    """How a model turns texts into tokens."""

    tokenizer: PreTrainedTokenizerBase
    chat_template: str | None

    name: str
    """The model, for messages."""


class Ended(NamedTuple):
    """One text in the tokens of one model."""

    token_ids: Int32[np.ndarray, " token"]

    ends: Int64[np.ndarray, " token"]
    """Characters of the compared text that are read once a token is; 0 for a token that ends no span."""

    written: Bool[np.ndarray, " token"]
    """Tokens that stand for compared text at all: neither special nor a template's."""

    template: Bool[np.ndarray, " token"]
    """Tokens that a chat template wrote."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """The intervened model's own tokens of all documents, and which of them meet the reference's."""

    token_ids: Int32[np.ndarray, " own_total"]
    """Token ids of all documents, laid end to end."""

    offsets: Int64[np.ndarray, " document_and_one"]
    """Document i holds the tokens from offsets[i] up to offsets[i + 1]."""

    places: Int32[np.ndarray, " total"]
    """For each token of the reference, the position in its document of the intervened model's token that ends at the same character;
    -1 where none does."""

    written: Int64[np.ndarray, " model"]
    """Tokens of each model that stand for compared text."""

    @property
    def n_places(self) -> int:
        """Tokens that both models are compared at, before the token policy."""
        return int((self.places >= 0).sum())

    @property
    def rates(self) -> tuple[float, float]:
        """Share of each model's tokens that stand for compared text which have a counterpart: reference, intervened."""
        one, other = (self.n_places / max(1, int(count)) for count in self.written)
        return one, other

    @property
    def lengths(self) -> Int64[np.ndarray, " document"]:
        """The intervened model's tokens of each document."""
        return np.diff(self.offsets)

    def tokens_of(self, document: SupportsIndex) -> Int32[np.ndarray, " token"]:
        """The intervened model's token ids of one document."""
        index = int(document)
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    def carried(
        self, values: Bool[np.ndarray, " own_total"], offsets: Int64[np.ndarray, " document_and_one"]
    ) -> Bool[np.ndarray, " total"]:
        """Marks on the intervened model's tokens, on the reference's that meet them; False where none does."""
        starts = np.repeat(self.offsets[:-1], np.diff(offsets))
        return (self.places >= 0) & values[np.where(self.places >= 0, starts + self.places, 0)]

    def describe(self) -> dict[str, Any]:
        """For the manifest of a run."""
        reference, intervened = self.rates
        return {
            "by": "characters",
            "places": self.n_places,
            "reference": {"tokens": int(self.written[0]), "rate": reference},
            "intervened": {"tokens": int(self.written[1]), "rate": intervened},
        }


class Aligner:
    """Reads texts with both models' tokenizers."""

    def __init__(self, readers: tuple[TextReader, TextReader]) -> None:
        """
        Args:
            readers: Reference and intervened model.

        Raises:
            PairError: A tokenizer gives no offsets.
        """
        self._readers = readers
        self._encoders = tuple(_untrimmed(reader) for reader in readers)

    def read(self, text: Text) -> tuple[Ended, Ended]:
        """One text in the tokens of both, reference first.

        Raises:
            DataError: A chat whose contents the two templates write differently, or that neither model has a template for.
            FormatError: A chat that a template refuses.
            PairError: A tokenizer gives other ids than its offsets belong to.
        """
        if text.messages is None:
            one, other = (self._plain(model, text.content or "", text.origin) for model in range(2))
            return one, other
        chats = [self._chat(model, text) for model in range(2)]
        cores = [[chat.text[start:stop].strip() for start, stop in chat.spans] for chat in chats]
        if cores[0] != cores[1]:
            raise DataError(
                f"{text.origin}: the two chat templates write the contents of this chat differently, so they cannot be aligned; "
                "give plain text, or remove it"
            )
        one, other = (self._in_contents(model, chat, text.origin) for model, chat in enumerate(chats))
        return one, other

    def align(self, texts: Sequence[Text], max_length: int) -> tuple[list[Ended], Alignment]:
        """All texts, each cut to what both models read in `max_length` tokens: the reference's tokens, and how they are met.

        Raises:
            PairError: Fewer than `LOWEST_RATE` of a model's tokens meet the other's. Otherwise as `read`.
        """
        kept: list[Ended] = []
        own: list[np.ndarray] = []
        places: list[np.ndarray] = []
        written = np.zeros(2, dtype=np.int64)
        for text in texts:
            reference, intervened = (_cut(side, max_length) for side in self.read(text))
            met = meeting_places(reference.ends, intervened.ends)
            reached = np.flatnonzero(met >= 0)
            if len(reached):
                reference = _cut(reference, int(reached[-1]) + 1)
                intervened = _cut(intervened, int(met[reached[-1]]) + 1)
            kept.append(reference)
            own.append(intervened.token_ids)
            places.append(met[: len(reference.token_ids)])
            written += [int(reference.written.sum()), int(intervened.written.sum())]
        found = Alignment(
            token_ids=np.concatenate(own),
            offsets=np.concatenate([[0], np.cumsum([len(row) for row in own])]).astype(np.int64),
            places=np.concatenate(places),
            written=written,
        )
        self._check(found)
        return kept, found

    def _check(self, found: Alignment) -> None:
        if min(found.rates) < LOWEST_RATE:
            one, other = found.rates
            raise PairError(
                f"pair.align: only {one:.1%} of the tokens of {self._readers[0].name!r} and {other:.1%} of those of {self._readers[1].name!r} end "
                f"where a token of the other ends, at least {LOWEST_RATE:.0%} are needed; give two models with more similar "
                "tokenizers, or text that both can spell"
            )

    def _plain(self, model: int, text: str, origin: str) -> Ended:
        ids = self._readers[model].tokenizer(text, verbose=False)["input_ids"]
        token_ids = np.asarray(ids, dtype=np.int32)
        if not len(token_ids):
            raise DataError(
                f"{origin}: the tokenizer of {self._readers[model].name!r} makes no token of this text; remove it"
            )
        offsets, real = self._offsets(model, text, token_ids, special=True)
        return Ended(token_ids, token_ends(text, offsets, real), real, np.zeros_like(real))

    def _chat(self, model: int, text: Text) -> RenderedChat:
        reader = self._readers[model]
        if reader.chat_template is None:
            raise DataError(
                f"{text.origin}: a chat, but neither model's tokenizer has a chat template; "
                "give plain 'text', or a model whose tokenizer has one"
            )
        return render_chat(reader.tokenizer, reader.chat_template, text.messages or (), text.origin)

    def _in_contents(self, model: int, chat: RenderedChat, origin: str) -> Ended:
        """Ends counted along the contents alone, laid end to end without the white space around each."""
        if not len(chat.token_ids):
            raise DataError(
                f"{origin}: the chat template of {self._readers[model].name!r} makes no token of this chat; remove it"
            )
        offsets, _ = self._offsets(model, chat.text, chat.token_ids, special=False)
        rendered = token_ends(chat.text, offsets, ~chat.template)
        ends = np.zeros_like(rendered)
        before = 0
        for start, stop in chat.spans:
            content = chat.text[start:stop]
            start += len(content) - len(content.lstrip())
            stop = start + len(content.strip())
            here = (rendered > start) & (rendered <= stop)
            ends[here] = rendered[here] - start + before
            before += stop - start
        return Ended(chat.token_ids, ends, ~chat.template, chat.template)

    def _offsets(
        self, model: int, text: str, token_ids: Int32[np.ndarray, " token"], *, special: bool
    ) -> tuple[Int64[np.ndarray, "token 2"], Bool[np.ndarray, " token"]]:
        """Character ranges of tokens, and which of them the tokenizer did not add by itself."""
        encoding = self._encoders[model].encode(text, add_special_tokens=special)
        if not np.array_equal(encoding.ids, token_ids):
            raise PairError(
                f"pair.align: the tokenizer of {self._readers[model].name!r} gives other ids with offsets than without, so its tokens cannot "
                "be matched with characters; give a model whose tokenizer.json says all that it does"
            )
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return offsets, ~np.asarray(encoding.special_tokens_mask, dtype=bool)


def token_ends(
    text: str, offsets: Int64[np.ndarray, "token 2"], real: Bool[np.ndarray, " token"]
) -> Int64[np.ndarray, " token"]:
    """How many characters are read once a token is; 0 where it is not `real`, or the next one goes on with its last character.

    Normalizers that compose or strip combining marks give the mark to no token; it belongs to the character before it.
    """
    ends = np.zeros(len(offsets), dtype=np.int64)
    places = np.flatnonzero(real)
    starts, stops = offsets[places, 0], offsets[places, 1].copy()
    following = np.append(starts[1:], len(text))
    for index in np.flatnonzero(following > stops):
        while stops[index] < following[index] and unicodedata.category(text[stops[index]]).startswith("M"):
            stops[index] += 1
    whole = (following >= stops) & (stops >= np.maximum.accumulate(stops))
    ends[places[whole]] = stops[whole]
    return ends


def meeting_places(
    reference: Int64[np.ndarray, " token"], intervened: Int64[np.ndarray, " own_token"]
) -> Int32[np.ndarray, " token"]:
    """For each token of one reading, the position of the other's last token with the same end; -1 where there is none, where it ends
    no span (0), and where a later token of its own has the same end."""
    last = [_last_with(ends) for ends in (reference, intervened)]
    _, one, other = np.intersect1d(last[0][0], last[1][0], assume_unique=True, return_indices=True)
    places = np.full(len(reference), -1, dtype=np.int32)
    places[last[0][1][one]] = last[1][1][other]
    return places


def _last_with(
    ends: Int64[np.ndarray, " token"],
) -> tuple[Int64[np.ndarray, " end"], Int64[np.ndarray, " end"]]:
    """The different ends above 0, and the last token with each."""
    values, from_back = np.unique(ends[::-1], return_index=True)
    return values[values > 0], (len(ends) - 1 - from_back)[values > 0]


def _cut(side: Ended, length: int) -> Ended:
    return Ended(*(values[:length] for values in side))


def _untrimmed(reader: TextReader) -> Tokenizer:
    """The same tokenizer with offsets that hold all characters of a token: some leave the white space around a word out.

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
