"""The texts that both models read, as token ids: which document is held out, which tokens are masked or template."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Self, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedTokenizerBase

from ..config import TextConfig, TokenPolicy
from ..errors import ConfigError, DataError, FormatError
from ..runtime.files import write_atomic
from .chat_templates import encode_chat
from .text_files import Text, read_texts
from .token_alignment import Aligner, Alignment, TextReader

# Streams of random numbers that follow from one seed; see also training.sources.
_SPLIT_STREAM = 1

# What the arrays of an alignment are called in a file, before their own name.
_ALIGNED = "alignment."


@dataclass(frozen=True, eq=False)
class Documents:
    """All tokens of all documents, masked ones included, laid end to end."""

    token_ids: Int32[np.ndarray, " total"]
    """Token ids of all documents."""

    offsets: Int64[np.ndarray, " document_and_one"]
    """Document i holds the tokens from offsets[i] up to offsets[i + 1]."""

    source: Int16[np.ndarray, " document"]
    """Which source a document is from, an index into `source_names`."""

    held_out: Bool[np.ndarray, " document"]
    """Documents that are never trained on."""

    template: Bool[np.ndarray, " total"]
    """Tokens that a chat template wrote: those outside the contents of the messages."""

    masked: Bool[np.ndarray, " total"]
    """Tokens left out of training and analysis (outliers, found later, come on top)."""

    source_names: tuple[str, ...]
    """Names of the sources."""

    alignment: Alignment | None = None
    """The intervened model's own tokens, where its tokenizer is another one; everything else here counts the reference's tokens, and
    those without a counterpart are masked."""

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " document"]:
        """Tokens of each document, masked ones included."""
        return np.diff(self.offsets)

    @property
    def unmasked(self) -> Int64[np.ndarray, " document"]:
        """Tokens of each document that are not masked."""
        before = np.concatenate([[0], np.cumsum(~self.masked, dtype=np.int64)])
        return np.diff(before[self.offsets])

    @property
    def read_lengths(self) -> Int64[np.ndarray, " document"]:
        """Tokens of each document in the model that reads more of them."""
        return self.lengths if self.alignment is None else np.maximum(self.lengths, self.alignment.lengths)

    def tokens_of(self, document: SupportsIndex, model: int = 0) -> Int32[np.ndarray, " token"]:
        """Token ids of one document, as the reference (0) or the intervened model (1) reads it."""
        index = int(document)
        if model == 1 and self.alignment is not None:
            return self.alignment.tokens_of(index)
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    def kept_of(self, document: SupportsIndex, model: int = 0) -> Bool[np.ndarray, " token"]:
        """Tokens of one document, as `tokens_of` gives them, that stand for the places that are not masked: as many in both models, in
        the same order."""
        index = int(document)
        own = slice(self.offsets[index], self.offsets[index + 1])
        kept = ~self.masked[own]
        if model == 0 or self.alignment is None:
            return kept
        counterparts = np.zeros(self.alignment.lengths[index], dtype=bool)
        counterparts[self.alignment.places[own][kept]] = True
        return counterparts

    def side(self, held_out: bool) -> Int64[np.ndarray, " document"]:
        """Indices of the held-out documents, or of the others; documents that are masked throughout are left out."""
        return np.flatnonzero((self.held_out == held_out) & (self.unmasked > 0))

    def digest(self) -> str:
        """A fingerprint of everything in here: equal exactly where the content is equal."""
        digest = hashlib.blake2b(json.dumps(self.source_names).encode(), digest_size=16)
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype} {len(array)} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write one safetensors file; the names of the sources are JSON in its metadata."""
        write_atomic(path, save(self._arrays(), metadata={"source_names": json.dumps(self.source_names)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: The file is missing, truncated, or something else.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                names = json.loads((file.metadata() or {})["source_names"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            own = {
                name: arrays.pop(_ALIGNED + name)
                for name in (field.name for field in fields(Alignment))
                if _ALIGNED + name in arrays
            }
            return cls(**arrays, source_names=tuple(names), alignment=Alignment(**own) if own else None)
        except FileNotFoundError as error:
            raise FormatError(f"{path}: does not exist; run the harvest first") from error
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise FormatError(
                f"{path}: not a whole file of documents ({error}); delete it and run the harvest again"
            ) from error

    def _arrays(self) -> dict[str, np.ndarray]:
        plain = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("source_names", "alignment")
        }
        own = {} if self.alignment is None else vars(self.alignment)
        return plain | {_ALIGNED + name: array for name, array in own.items()}


def tokenize(
    config: TextConfig,
    policy: TokenPolicy,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    seed: int,
    readers: tuple[TextReader, TextReader] | None = None,
) -> Documents:
    """Read all sources and turn them into token ids, cut to `config.max_length`.

    Plain text gets a BOS only where the tokenizer adds one by itself. Documents that ask the same (equal text, equal
    first user message, or equal token ids after the cut) fall on the same side of the held-out split, in whichever
    source they are.

    Args:
        readers: Both models' tokenizers where they differ; the reference's is `tokenizer`. A token is then masked where its
            counterpart would be, too.

    Raises:
        ConfigError: A file is missing, or two sources have one name.
        DataError: A text is empty or cannot be read, or a source is too small to hold anything out.
        FormatError: The chat template does not fit the messages.
        PairError: Two tokenizers cannot be aligned.
    """
    names = [source.name for source in config.sources]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"text.sources: the name {twice!r} is used twice; give every source its own name")
    texts = [read_texts(source) for source in config.sources]
    everything = [text for part in texts for text in part]
    alignment = None
    if readers is None:
        ids, template = _encode(everything, tokenizer, chat_template, config.max_length)
    else:
        read, alignment = Aligner(readers).align(everything, config.max_length)
        ids, template = [one.token_ids for one in read], [one.template for one in read]
    source = np.repeat(np.arange(len(texts), dtype=np.int16), [len(part) for part in texts])
    offsets = np.concatenate([[0], np.cumsum([len(document) for document in ids])]).astype(np.int64)
    token_ids = np.concatenate(ids)
    keys = [
        {("prompt", text.prompt), ("ids", row.tobytes())} for text, row in zip(everything, ids, strict=True)
    ]
    masked = _mask(token_ids, offsets, policy, tokenizer)
    if readers is not None and alignment is not None:
        for document, own in enumerate(keys):
            own.add(("own ids", alignment.tokens_of(document).tobytes()))
        theirs = _mask(alignment.token_ids, alignment.offsets, policy, readers[1].tokenizer)
        masked |= (alignment.places < 0) | alignment.carried(theirs, offsets)
    groups = _groups(keys)
    return Documents(
        token_ids=token_ids,
        offsets=offsets,
        source=source,
        held_out=_split(source, groups, config.held_out, seed, config),
        template=np.concatenate(template),
        masked=masked,
        source_names=tuple(names),
        alignment=alignment,
    )


def _encode(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, chat_template: str | None, max_length: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids and template marks of every document, in order."""
    plain = [text.content for text in texts if text.content is not None]
    encoded = iter(tokenizer(plain, verbose=False)["input_ids"] if plain else [])
    ids, template = [], []
    for text in texts:
        if text.messages is None:
            row = np.asarray(next(encoded), dtype=np.int32)
            marks = np.zeros(len(row), dtype=bool)
        elif chat_template is None:
            raise DataError(
                f"{text.origin}: a chat, but neither model's tokenizer has a chat template; "
                "give plain 'text', or a model whose tokenizer has one"
            )
        else:
            row, marks = encode_chat(tokenizer, chat_template, text.messages, text.origin)
        if not len(row):
            raise DataError(f"{text.origin}: the tokenizer makes no token of this text; remove it")
        ids.append(row[:max_length])
        template.append(marks[:max_length])
    return ids, template


def _mask(
    token_ids: Int32[np.ndarray, " total"],
    offsets: Int64[np.ndarray, " document_and_one"],
    policy: TokenPolicy,
    tokenizer: PreTrainedTokenizerBase,
) -> Bool[np.ndarray, " total"]:
    masked = np.zeros(len(token_ids), dtype=bool)
    if policy.mask_special:
        masked |= np.isin(token_ids, special_ids(tokenizer))
    position = np.arange(len(token_ids)) - np.repeat(offsets[:-1], np.diff(offsets))
    masked |= position < policy.mask_first
    return masked | _repeated(token_ids, offsets) if policy.mask_repeated else masked


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of BOS, EOS, padding and everything else that a tokenizer calls special."""
    added = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    return sorted({*tokenizer.all_special_ids, *added})


def _repeated(
    token_ids: Int32[np.ndarray, " total"], offsets: Int64[np.ndarray, " document_and_one"]
) -> Bool[np.ndarray, " total"]:
    """Tokens whose document began, up to and with them, like an earlier document: a causal model computes the same again."""
    repeated = np.zeros(len(token_ids), dtype=bool)
    seen: set[int] = set()
    for start, stop in pairwise(offsets.tolist()):
        prefix, fresh = 0, stop
        hashes = []
        for place, token in enumerate(token_ids[start:stop].tolist(), start):
            # Python's hash of a tuple of integers has 64 bits and is the same in every process.
            prefix = hash((prefix, token))
            hashes.append(prefix)
            if fresh == stop and prefix not in seen:
                fresh = place
        repeated[start:fresh] = True
        seen.update(hashes[fresh - start :])
    return repeated


def _groups(keys: Sequence[Iterable[object]]) -> Int64[np.ndarray, " document"]:
    """A number for each document, equal for documents that are connected by equal keys (union-find)."""
    parent = list(range(len(keys)))

    def root(document: int) -> int:
        while parent[document] != document:
            parent[document] = parent[parent[document]]
            document = parent[document]
        return document

    first_with: dict[object, int] = {}
    for document, own in enumerate(keys):
        for key in own:
            one, other = root(document), root(first_with.setdefault(key, document))
            parent[max(one, other)] = min(one, other)
    return np.array([root(document) for document in range(len(keys))], dtype=np.int64)


def _split(
    source: Int16[np.ndarray, " document"],
    groups: Int64[np.ndarray, " document"],
    share: float,
    seed: int,
    config: TextConfig,
) -> Bool[np.ndarray, " document"]:
    """Hold out about `share` of the documents of each source, whole groups at a time, at least one on each side."""
    side: dict[int, bool] = {}
    for index in range(len(config.sources)):
        members, sizes = np.unique(groups[source == index], return_counts=True)
        n_documents = int(sizes.sum())
        target = min(max(round(share * n_documents), 1), n_documents - 1)
        sized = list(zip(members.tolist(), sizes.tolist(), strict=True))
        held = sum(size for group, size in sized if side.get(group))
        free = [(group, size) for group, size in sized if group not in side]
        order = np.random.default_rng([seed, _SPLIT_STREAM, index]).permutation(len(free))
        for position in order:
            group, size = free[position]
            side[group] = held + size <= target
            held += size * side[group]
        if held == 0 and free:
            group, held = min(free, key=lambda entry: entry[1])
            side[group] = True
        if not 0 < held < n_documents:
            place = config.sources[index]
            raise DataError(
                f"text.sources, {place.name!r}: the {n_documents} documents of {place.path} cannot be split into trained "
                "and held out; give at least two documents that differ, also from those of other sources"
            )
    return np.array([side[group] for group in groups.tolist()], dtype=bool)
