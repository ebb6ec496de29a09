"""From documents to activations: which documents go through the models together, and the rows that come out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from crosscoder.activations.batch import join_models, split_models
from crosscoder.errors import ConfigError, DataError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

# What `pad` pads lengths to a multiple of.
_LENGTH_MULTIPLE = 16

# Documents that begin with the same tokens, this many, go through the models together, if there are a few of them.
_OPENING_TOKENS = 8
_OPENING_DOCUMENTS = 8

# A common prefix is run once where that spares this share of a batch; it costs a short pass of its own.
_PREFIX_SHARE = 0.1

# Documents that are sorted by length together. More means less padding, fewer means batches that vary more.
_WINDOW_DOCUMENTS = 1024

# Documents behind the median norm.
_NORM_DOCUMENTS = 64

# First word of every seed, so that no two uses of randomness share a stream (documents.py has 1, sources.py 4 to 7).
_PLAN_STREAM = 2
_SAMPLE_STREAM = 3
_NORM_STREAM = 8

Batch = Int64[np.ndarray, " _"]  # indices of the documents that go through the models together


class Extracted(NamedTuple):
    """Rows of some documents, outliers left out; the tokens of a document are contiguous and in order."""

    values: Float[Tensor, "token width"]
    document: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    n_outliers: int


class _Rows(NamedTuple):
    """Each model's activations at the tokens of a batch that are not masked."""

    parts: list[Tensor]
    document: Int[Tensor, " token"]
    """Place in the batch."""
    position: Int[Tensor, " token"]


def plan_batches(
    documents: Documents, held_out: bool, batch_tokens: int, seed: int, pass_index: int = 0
) -> list[Batch]:
    """Documents of one side, packed into batches of at most `batch_tokens` tokens, padding included.

    The order is seeded: documents are shuffled, packed by `pack_documents` within windows, and the batches shuffled. The
    same arguments give the same batches, so that an interrupted harvest goes on where it was.
    """
    generator = np.random.default_rng([seed, _PLAN_STREAM, int(held_out), pass_index])
    order = generator.permutation(documents.side(held_out))
    batches: list[Batch] = []
    for start in range(0, len(order), _WINDOW_DOCUMENTS):
        window = order[start : start + _WINDOW_DOCUMENTS]
        batches += pack_documents(window, documents, batch_tokens)
    return [batches[index] for index in generator.permutation(len(batches))]


def pack_documents(chosen: Batch, documents: Documents, batch_tokens: int) -> list[Batch]:
    """Batches of documents of similar length, and with the same beginning where many have one, e.g. a system prompt."""
    openings: dict[bytes, list[int]] = {}
    for document in chosen.tolist():
        openings.setdefault(documents.tokens_of(document)[:_OPENING_TOKENS].tobytes(), []).append(document)
    groups: list[list[int]] = [[]]
    for group in openings.values():
        if len(group) < _OPENING_DOCUMENTS:
            groups[0] += group
        else:
            groups.append(group)
    return [
        batch
        for group in groups
        for batch in pack(np.array(group, dtype=np.int64), documents.read_lengths, batch_tokens)
    ]


def pack(chosen: Batch, lengths: Int64[np.ndarray, " document"], batch_tokens: int) -> list[Batch]:
    """Sort documents by length and cut them into batches; a document longer than a batch gets its own."""
    ordered = chosen[np.argsort(lengths[chosen], kind="stable")]
    batches, begin = [], 0
    for end in range(1, len(ordered) + 1):
        # Sorted, so the last document is the longest and decides the padded length.
        if end == len(ordered) or (end + 1 - begin) * int(lengths[ordered[end]]) > batch_tokens:
            batches.append(ordered[begin:end])
            begin = end
    return batches


def group_batches(batches: Sequence[Batch], documents: Documents, n_tokens: int) -> list[list[Batch]]:
    """Consecutive batches in groups of at most `n_tokens` tokens that are not masked (a larger batch stands alone)."""
    groups: list[list[Batch]] = []
    room, unmasked = 0, documents.unmasked
    for batch in batches:
        size = int(unmasked[batch].sum())
        if not groups or size > room:
            groups.append([])
            room = n_tokens
        groups[-1].append(batch)
        room -= size
    return groups


def check_documents(documents: Documents, pair: ModelPair) -> None:
    """Refuse documents that are longer than the models can read, or masked throughout.

    Raises:
        ConfigError: A document is too long.
        DataError: No token is left to train on, or none is left held out.
    """
    longest = int(documents.read_lengths.max())
    if pair.max_positions is not None and longest > pair.max_positions:
        raise ConfigError(
            f"text.max_length: a document has {longest} tokens, but the models read {pair.max_positions} at most; "
            f"set text.max_length to {pair.max_positions} or less"
        )
    for held_out, side in ((False, "train on"), (True, "hold out")):
        if not len(documents.side(held_out)):
            raise DataError(
                f"text.sources: every token to {side} is masked (special tokens and the first tokens.mask_first positions); "
                "give longer texts, or mask less"
            )


def sample_documents(documents: Documents, n_tokens: int, seed: int) -> Batch:
    """Training documents drawn at random, as many as hold `n_tokens` tokens that are not masked (or all)."""
    order = np.random.default_rng([seed, _SAMPLE_STREAM]).permutation(documents.side(held_out=False))
    enough = int(np.searchsorted(np.cumsum(documents.unmasked[order]), n_tokens)) + 1
    return order[:enough]


def median_norms(pair: ModelPair, documents: Documents, batch_tokens: int, seed: int) -> tuple[float, ...]:
    """Median norm of each model's activations over the tokens of some training documents that are not masked."""
    order = np.random.default_rng([seed, _NORM_STREAM]).permutation(documents.side(held_out=False))
    chosen = order[:_NORM_DOCUMENTS]
    norms = []
    for batch in pack_documents(chosen, documents, batch_tokens):
        rows = extract(pair, documents, batch)
        norms.append(
            torch.stack([part.float().norm(dim=1) for part in split_models(rows.values, pair.d_models)])
        )
    return tuple(torch.cat(norms, dim=1).median(dim=1).values.tolist())


def extract(
    pair: ModelPair,
    documents: Documents,
    batch: Batch,
    max_norms: Sequence[float] | None = None,
    dtype: torch.dtype | None = None,
) -> Extracted:
    """Activations of both models on the tokens of a batch that are not masked, on the CPU.

    Args:
        max_norms: One for each model; a token with a larger norm in any of them is left out.
        dtype: Precision of the rows; the models' own where none is given.

    Raises:
        DataError: Activations are NaN or infinite.
    """
    read = _read_in_one if documents.alignment is None else _read_apart
    parts, document, position = read(pair, documents, batch)
    if dtype is not None:
        parts = [part.to(dtype) for part in parts]
    document = torch.from_numpy(batch)[document]
    kept = torch.ones(len(document), dtype=torch.bool)
    for index, part in enumerate(parts):
        norms = part.float().norm(dim=1)
        _check_finite(norms, pair, index, document, part.dtype)
        if max_norms is not None:
            kept &= norms <= max_norms[index]
    values = join_models(parts)
    n_outliers = int((~kept).sum())
    if n_outliers:
        values, document, position = values[kept], document[kept], position[kept]
    return Extracted(values, document, position, n_outliers)


def _read_in_one(pair: ModelPair, documents: Documents, batch: Batch) -> _Rows:
    """Both models on the same tokens; what they share is run once."""
    rows = [documents.tokens_of(index) for index in batch]
    token_ids, mask = _stack(rows, max(map(len, rows)))
    document, position = kept_tokens(documents, batch, mask).nonzero(as_tuple=True)
    n_prefix = _common_prefix(rows)
    spared = n_prefix * (len(rows) - 1) / token_ids.numel()
    outputs = pair.activations(token_ids, mask, n_prefix if spared >= _PREFIX_SHARE else 0)
    parts = [output[document.to(output.device), position.to(output.device)].cpu() for output in outputs]
    return _Rows(parts, document, position)


def _read_apart(pair: ModelPair, documents: Documents, batch: Batch) -> _Rows:
    """Each model on tokens of its own, at the places where they meet."""
    passes = passes_of(pair, documents, batch)
    outputs = activations_of_passes(pair, passes)
    parts = [output[own.kept.to(output.device)].cpu() for output, own in zip(outputs, passes, strict=True)]
    document, position = passes[0].kept.nonzero(as_tuple=True)
    return _Rows(parts, document, position)


class Pass(NamedTuple):
    """What one model is given of a batch."""

    token_ids: Int[Tensor, "document token"]
    attention: Bool[Tensor, "document token"]
    kept: Bool[Tensor, "document token"]
    """Tokens that are not masked: as many for every model, in the same order."""


def passes_of(pair: ModelPair, documents: Documents, batch: Batch) -> tuple[Pass, ...]:
    """A padded batch as each model reads it: the same one for all, unless their tokenizers differ."""
    passes: list[Pass] = []
    for model in range(len(pair.models)):
        if model and documents.alignment is None:
            passes.append(passes[0])
        else:
            token_ids, mask = pad(documents, batch, pair.max_positions, model)
            passes.append(Pass(token_ids, mask, kept_tokens(documents, batch, mask, model)))
    return tuple(passes)


def activations_of_passes(
    pair: ModelPair, passes: Sequence[Pass]
) -> tuple[Float[Tensor, "document token _"], ...]:
    """Each model's activations, in one go where all read the same tokens."""
    if pair.readers is None:
        return pair.activations(passes[0].token_ids, passes[0].attention)
    return tuple(pair.activations_of(model, own.token_ids, own.attention) for model, own in enumerate(passes))


def kept_tokens(
    documents: Documents, batch: Batch, mask: Bool[Tensor, "document token"], model: int = 0
) -> Bool[Tensor, "document token"]:
    """Which tokens of a padded batch are not masked: as many for both models, in the same order."""
    kept = mask.clone()
    kept[mask] = torch.from_numpy(np.concatenate([documents.kept_of(index, model) for index in batch]))
    return kept


def pad(
    documents: Documents, batch: Batch, max_positions: int | None = None, model: int = 0
) -> tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]:
    """Token ids of a batch, padded on the right to a multiple of 16 where the models read so many, and the mask."""
    rows = [documents.tokens_of(int(index), model) for index in batch]
    longest = max(map(len, rows))
    padded = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    return _stack(rows, max(longest, min(padded, max_positions or padded)))


def _stack(
    rows: Sequence[Int32[np.ndarray, " _"]], length: int
) -> tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]:
    """Token ids of some documents, padded on the right to `length`, and which of them are there."""
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = torch.from_numpy(row)
        mask[index, : len(row)] = True
    return token_ids, mask


def _common_prefix(rows: Sequence[Int32[np.ndarray, " _"]]) -> int:
    """Tokens with which all of the documents begin; at least one is left over in each."""
    prefix = rows[0][: min(map(len, rows)) - 1]
    for row in rows[1:]:
        different = np.flatnonzero(row[: len(prefix)] != prefix)
        prefix = prefix[: different[0]] if len(different) else prefix
    return len(prefix)


def _check_finite(
    norms: Float[Tensor, " token"],
    pair: ModelPair,
    model: int,
    document: Int[Tensor, " token"],
    dtype: torch.dtype,
) -> None:
    broken = ~norms.isfinite()
    if broken.any():
        first = int(document[broken][0])
        count = int((broken & (document == first)).sum())
        raise DataError(
            f"activations of the {pair.model_names[model]} model at {pair.hookpoints[model]} are NaN or infinite at {count} "
            f"positions of document {first} ({str(dtype).removeprefix('torch.')}); check the model's weights, or use "
            "a dtype with a larger range (bfloat16, float32)"
        )
