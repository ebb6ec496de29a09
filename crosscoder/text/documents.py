"""Documents as token ids, with the held-out split and with masks of excluded tokens and template tokens."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedTokenizerBase

from ..config import TextConfig, TokenPolicy
from ..errors import DataError, FormatError
from ..runtime.files import write_atomic
from ..runtime.json_text import parse_json
from .encoded_texts import encode_texts
from .record_shapes import Text
from .text_files import ReadSource, read_sources
from .token_alignment import Alignment, TextReader

# Random stream of the split; training.extraction and training.sources use other numbers with the same seed.
_SPLIT_STREAM = 1

# Prefix of the arrays of an alignment in a file.
_ALIGNMENT_PREFIX = "alignment."


@dataclass(frozen=True, eq=False)
class Documents:
    """All tokens of all documents, masked ones included, concatenated."""

    token_ids: Int32[np.ndarray, " total"]
    """Token ids of all documents."""

    offsets: Int64[np.ndarray, " document_and_one"]
    """Document i holds the tokens from offsets[i] up to offsets[i + 1]."""

    source: Int16[np.ndarray, " document"]
    """Source of each document, as an index into `source_names`."""

    held_out: Bool[np.ndarray, " document"]
    """Documents held out from training."""

    template: Bool[np.ndarray, " total"]
    """Tokens that a chat template added: those outside the message contents."""

    masked: Bool[np.ndarray, " total"]
    """Tokens left out of training and analysis; the harvest later excludes norm outliers as well."""

    source_names: tuple[str, ...]
    """Names of the sources."""

    alignment: Alignment | None = None
    """The intervened model's tokens if its tokenizer differs. All other fields refer to the reference's tokens, and those without a
    counterpart are masked."""

    readings: tuple[dict[str, Any], ...] = ()
    """Where the documents of each source come from, and how many were left out: for the manifest of a run. Neither
    in the digest nor in the file."""

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " document"]:
        """Number of tokens of each document, masked ones included."""
        return np.diff(self.offsets)

    @property
    def unmasked(self) -> Int64[np.ndarray, " document"]:
        """Number of unmasked tokens of each document."""
        before = np.concatenate([[0], np.cumsum(~self.masked, dtype=np.int64)])
        return np.diff(before[self.offsets])

    @property
    def read_lengths(self) -> Int64[np.ndarray, " document"]:
        """Number of tokens of each document, by the tokenizer that makes more of them."""
        return self.lengths if self.alignment is None else np.maximum(self.lengths, self.alignment.lengths)

    def tokens_of(self, document: SupportsIndex, model: int = 0) -> Int32[np.ndarray, " token"]:
        """Return the token ids of one document for the reference (0) or the intervened model (1)."""
        index = int(document)
        if model == 1 and self.alignment is not None:
            return self.alignment.tokens_of(index)
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    def compared_tokens(self, document: SupportsIndex, model: int = 0) -> Bool[np.ndarray, " token"]:
        """Mark the tokens of `tokens_of` that are compared: the unmasked ones and their counterparts, equally many in both models and in
        the same order."""
        index = int(document)
        tokens = slice(self.offsets[index], self.offsets[index + 1])
        unmasked = ~self.masked[tokens]
        if model == 0 or self.alignment is None:
            return unmasked
        counterparts = np.zeros(self.alignment.lengths[index], dtype=bool)
        counterparts[self.alignment.places[tokens][unmasked]] = True
        return counterparts

    def split(self, held_out: bool) -> Int64[np.ndarray, " document"]:
        """Return the indices of the held-out or the training documents, without those that are fully masked."""
        return np.flatnonzero((self.held_out == held_out) & (self.unmasked > 0))

    def training_on(self, chosen: Int64[np.ndarray, " document"]) -> "Documents":
        """Return the documents with the training documents limited to `chosen`; all others count as held out."""
        held_out = np.ones_like(self.held_out)
        held_out[chosen] = False
        return replace(self, held_out=held_out)

    def digest(self) -> str:
        """Return a digest of the content."""
        digest = hashlib.blake2b(json.dumps(self.source_names).encode(), digest_size=16)
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype} {len(array)} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a safetensors file without `readings`; its metadata holds the source names as JSON."""
        write_atomic(path, save(self._arrays(), metadata={"source_names": json.dumps(self.source_names)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            FormatError: The file is missing, truncated, or not a file of documents.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                names = parse_json((file.metadata() or {})["source_names"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            aligned = {
                name: arrays.pop(_ALIGNMENT_PREFIX + name)
                for name in (field.name for field in fields(Alignment))
                if _ALIGNMENT_PREFIX + name in arrays
            }
            return cls(
                **arrays, source_names=tuple(names), alignment=Alignment(**aligned) if aligned else None
            )
        except FileNotFoundError as error:
            raise FormatError(f"{path}: does not exist; run the harvest first") from error
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path}: not a complete file of documents ({error}); delete it and run the harvest again"
            ) from error

    def _arrays(self) -> dict[str, np.ndarray]:
        plain = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("source_names", "alignment", "readings")
        }
        aligned = {} if self.alignment is None else vars(self.alignment)
        return plain | {_ALIGNMENT_PREFIX + name: array for name, array in aligned.items()}


def tokenize(
    config: TextConfig,
    policy: TokenPolicy,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    seed: int,
    readers: tuple[TextReader, TextReader] | None = None,
    joining: Sequence[ReadSource] = (),
) -> Documents:
    """Read and tokenize all sources, truncated to `config.max_length` tokens.

    Plain text gets a BOS only if the tokenizer adds one itself. Documents with equal text, an equal first user message, or
    equal token ids after truncation are on the same side of the held-out split, across sources, and so is a document with those that it was
    made from.

    Args:
        readers: Both models' tokenizers if they differ; the reference's is `tokenizer`. A token is then also masked if its
            counterpart is masked.
        joining: Further sources, read already. They come last, and may lie on one side of the split as a whole: where documents were made
            from others, these decide it.

    Raises:
        ConfigError: A file is missing, or two sources have the same name.
        DataError: A record cannot be read, half of a source or more cannot be used, or a source is too small to split.
        FormatError: The chat template does not fit half of the chats of a source or more.
        PairError: The two tokenizers cannot be aligned.
    """
    sources = [*read_sources(config), *joining]
    readings = [reading for _, reading in sources]
    texts = [(index, text) for index, (part, _) in enumerate(sources) for text in part]
    kept, ids, template, alignment = encode_texts(
        texts, tokenizer, chat_template, readers, config.max_length, readings
    )
    source = np.array([index for index, _ in kept], dtype=np.int16)
    offsets = np.concatenate([[0], np.cumsum([len(document) for document in ids])]).astype(np.int64)
    token_ids = np.concatenate(ids)
    keys = _keys([text for _, text in kept], ids)
    masked = _mask(token_ids, offsets, policy, tokenizer)
    if readers is not None and alignment is not None:
        for document, document_keys in enumerate(keys):
            document_keys.add(("intervened ids", alignment.tokens_of(document).tobytes()))
        intervened_masked = _mask(alignment.token_ids, alignment.offsets, policy, readers[1].tokenizer)
        masked |= (alignment.places < 0) | alignment.to_reference(intervened_masked, offsets)
    groups = _groups(keys)
    return Documents(
        token_ids=token_ids,
        offsets=offsets,
        source=source,
        held_out=_split(source, groups, len(sources), seed, config),
        template=np.concatenate(template),
        masked=masked,
        source_names=tuple(reading.name for reading in readings),
        alignment=alignment,
        readings=tuple(reading.describe() for reading in readings),
    )


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
    """Return the ids of BOS, EOS, padding and all other special tokens of a tokenizer."""
    added = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    return sorted({*tokenizer.all_special_ids, *added})


def _repeated(
    token_ids: Int32[np.ndarray, " total"], offsets: Int64[np.ndarray, " document_and_one"]
) -> Bool[np.ndarray, " total"]:
    """Mark tokens whose prefix, themselves included, starts an earlier document: a causal model repeats its activations there."""
    repeated = np.zeros(len(token_ids), dtype=bool)
    seen: set[int] = set()
    for start, stop in pairwise(offsets.tolist()):
        prefix, first_new = 0, stop
        hashes = []
        for place, token in enumerate(token_ids[start:stop].tolist(), start):
            # Python's hash of a tuple of integers has 64 bits and is equal in every process.
            prefix = hash((prefix, token))
            hashes.append(prefix)
            if first_new == stop and prefix not in seen:
                first_new = place
        repeated[start:first_new] = True
        seen.update(hashes[first_new - start :])
    return repeated


def _keys(texts: Sequence[Text], ids: Sequence[np.ndarray]) -> list[set[tuple[str, object]]]:
    """Return the keys of each document; two that share one belong on the same side of the split."""
    made_from = {origin for text in texts for origin in text.near}
    return [
        {("prompt", text.prompt), ("ids", row.tobytes())}
        | {("near", origin) for origin in (*text.near, text.origin) if origin in made_from}
        for text, row in zip(texts, ids, strict=True)
    ]


def _groups(keys: Sequence[Iterable[object]]) -> Int64[np.ndarray, " document"]:
    """Return a group number for each document; documents linked by equal keys share a group (union-find)."""
    parent = list(range(len(keys)))

    def root(document: int) -> int:
        while parent[document] != document:
            parent[document] = parent[parent[document]]
            document = parent[document]
        return document

    first_with: dict[object, int] = {}
    for document, document_keys in enumerate(keys):
        for key in document_keys:
            one, other = root(document), root(first_with.setdefault(key, document))
            parent[max(one, other)] = min(one, other)
    return np.array([root(document) for document in range(len(keys))], dtype=np.int64)


def _split(
    source: Int16[np.ndarray, " document"],
    groups: Int64[np.ndarray, " document"],
    n_sources: int,
    seed: int,
    config: TextConfig,
) -> Bool[np.ndarray, " document"]:
    """Hold out about `config.held_out` of the documents of each source, in whole groups, with at least one document of each source of the
    settings in each split."""
    is_held_out: dict[int, bool] = {}
    for index in range(n_sources):
        members, sizes = np.unique(groups[source == index], return_counts=True)
        n_documents = int(sizes.sum())
        target = min(max(round(config.held_out * n_documents), 1), n_documents - 1)
        sized = list(zip(members.tolist(), sizes.tolist(), strict=True))
        held = sum(size for group, size in sized if is_held_out.get(group))
        free = [(group, size) for group, size in sized if group not in is_held_out]
        order = np.random.default_rng([seed, _SPLIT_STREAM, index]).permutation(len(free))
        for position in order:
            group, size = free[position]
            is_held_out[group] = held + size <= target
            held += size * is_held_out[group]
        if held == 0 and free:
            group, held = min(free, key=lambda entry: entry[1])
            is_held_out[group] = True
        if index < len(config.sources) and not 0 < held < n_documents:
            named = config.sources[index]
            raise DataError(
                f"text.sources, {named.name!r}: the {n_documents} documents of {named.location} cannot be split into training "
                "and held-out documents; give at least two that differ from each other and from those of other sources"
            )
    return np.array([is_held_out[group] for group in groups.tolist()], dtype=bool)
