"""From documents to activations: which documents share a batch, and the rows that the models produce."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from crosscoder.activations.batch import join_models, split_models
from crosscoder.errors import ConfigError, DataError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

# `pad` pads lengths to a multiple of this.
_LENGTH_MULTIPLE = 16

# At least `_OPENING_DOCUMENTS` documents that begin with the same `_OPENING_TOKENS` tokens are batched together.
_OPENING_TOKENS = 8
_OPENING_DOCUMENTS = 8

# A common prefix is run once if that saves at least this share of a batch, since it costs an extra short pass.
_PREFIX_SHARE = 0.1

# Documents sorted by length together: a larger window pads less, a smaller one mixes lengths more.
_WINDOW_DOCUMENTS = 1024

# Documents that the median norms are estimated on.
_NORM_DOCUMENTS = 64

# First entry of every seed, so that no two random streams coincide (documents.py has 1, sources.py 4 to 7).
_PLAN_STREAM = 2
_SAMPLE_STREAM = 3
_NORM_STREAM = 8

Batch = Int64[np.ndarray, " _"]  # indices of the documents of one batch


class Extracted(NamedTuple):
    """Activations of some documents without norm outliers. The tokens of a document are contiguous and in order."""

    values: Float[Tensor, "token width"]
    document: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    n_outliers: int


class Rows(NamedTuple):
    """Each model's activations at the unmasked tokens of a batch."""

    parts: list[Tensor]
    document: Int[Tensor, " token"]
    """Index of the document within the batch."""
    position: Int[Tensor, " token"]


Read = Callable[[ModelPair, Documents, Batch], Rows]
"""Where activations come from, if not from the models themselves."""


def plan_batches(
    documents: Documents, held_out: bool, batch_tokens: int, seed: int, pass_index: int = 0
) -> list[Batch]:
    """Pack the training or held-out documents into batches of at most `batch_tokens` tokens, padding included.

    The order is seeded: documents are shuffled, packed by `pack_documents` within windows, and the batches shuffled. The
    same arguments give the same batches, so that an interrupted harvest can resume.
    """
    generator = np.random.default_rng([seed, _PLAN_STREAM, int(held_out), pass_index])
    order = generator.permutation(documents.split(held_out))
    batches: list[Batch] = []
    for start in range(0, len(order), _WINDOW_DOCUMENTS):
        window = order[start : start + _WINDOW_DOCUMENTS]
        batches += pack_documents(window, documents, batch_tokens)
    return [batches[index] for index in generator.permutation(len(batches))]


def pack_documents(chosen: Batch, documents: Documents, batch_tokens: int) -> list[Batch]:
    """Batch documents of similar length, and documents that share an opening (e.g. a system prompt) if many do."""
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
    """Sort documents by length and split them into batches. A document longer than a batch forms its own."""
    ordered = chosen[np.argsort(lengths[chosen], kind="stable")]
    batches, begin = [], 0
    for end in range(1, len(ordered) + 1):
        # Sorted by length, so the last document determines the padded length.
        if end == len(ordered) or (end + 1 - begin) * int(lengths[ordered[end]]) > batch_tokens:
            batches.append(ordered[begin:end])
            begin = end
    return batches


def group_batches(batches: Sequence[Batch], documents: Documents, n_tokens: int) -> list[list[Batch]]:
    """Group consecutive batches up to `n_tokens` unmasked tokens; a larger batch forms its own group."""
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
    """Refuse documents that exceed the context of the models, and texts whose tokens are all masked.

    Raises:
        ConfigError: A document is too long.
        DataError: No unmasked token is left to train on, or none to hold out.
    """
    longest = int(documents.read_lengths.max())
    if pair.max_positions is not None and longest > pair.max_positions:
        raise ConfigError(
            f"text.max_length: a document has {longest} tokens, but the models read at most {pair.max_positions}; "
            f"set text.max_length to {pair.max_positions} or less"
        )
    for held_out, side in ((False, "train on"), (True, "hold out")):
        if not len(documents.split(held_out)):
            raise DataError(
                f"text.sources: every token to {side} is masked (special tokens and the first tokens.mask_first positions); "
                "add longer texts, or mask less"
            )


def sample_documents(documents: Documents, n_tokens: int, seed: int) -> Batch:
    """Draw random training documents until they hold `n_tokens` unmasked tokens; all if there are fewer."""
    order = np.random.default_rng([seed, _SAMPLE_STREAM]).permutation(documents.split(held_out=False))
    enough = int(np.searchsorted(np.cumsum(documents.unmasked[order]), n_tokens)) + 1
    return order[:enough]


def median_norms(
    pair: ModelPair, documents: Documents, batch_tokens: int, seed: int, read: Read | None = None
) -> tuple[float, ...]:
    """Median norm of each model's activations over the unmasked tokens of some training documents. `read`: see `extract`."""
    order = np.random.default_rng([seed, _NORM_STREAM]).permutation(documents.split(held_out=False))
    chosen = order[:_NORM_DOCUMENTS]
    norms = []
    for batch in pack_documents(chosen, documents, batch_tokens):
        rows = extract(pair, documents, batch, read=read)
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
    read: Read | None = None,
) -> Extracted:
    """Activations of all models on the unmasked tokens of a batch, on the CPU.

    Args:
        max_norms: One for each model; a token that exceeds it in any model is dropped as a norm outlier.
        dtype: Precision of the rows; that of the models if not given.
        read: Where the activations come from; None: the models compute them.

    Raises:
        DataError: Activations are NaN or infinite.
    """
    if read is None:
        read = _read_shared_tokens if documents.alignment is None else _read_aligned_tokens
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


def _read_shared_tokens(pair: ModelPair, documents: Documents, batch: Batch) -> Rows:
    """Run all models on the same tokens, a common prefix of the documents only once."""
    rows = [documents.tokens_of(index) for index in batch]
    token_ids, mask = _stack(rows, max(map(len, rows)))
    document, position = kept_tokens(documents, batch, mask).nonzero(as_tuple=True)
    n_prefix = _common_prefix(rows)
    saved = n_prefix * (len(rows) - 1) / token_ids.numel()
    outputs = pair.activations(token_ids, mask, n_prefix if saved >= _PREFIX_SHARE else 0)
    parts = [output[document.to(output.device), position.to(output.device)].cpu() for output in outputs]
    return Rows(parts, document, position)


def _read_aligned_tokens(pair: ModelPair, documents: Documents, batch: Batch) -> Rows:
    """Run each model on its own tokens, and keep the aligned ones."""
    inputs = model_inputs(pair, documents, batch)
    outputs = read_activations(pair, inputs)
    parts = [output[one.kept.to(output.device)].cpu() for output, one in zip(outputs, inputs, strict=True)]
    document, position = inputs[0].kept.nonzero(as_tuple=True)
    return Rows(parts, document, position)


class ModelInputs(NamedTuple):
    """A padded batch as one model reads it."""

    token_ids: Int[Tensor, "document token"]
    attention: Bool[Tensor, "document token"]
    kept: Bool[Tensor, "document token"]
    """Unmasked tokens: equally many for every model, in the same order."""


def model_inputs(pair: ModelPair, documents: Documents, batch: Batch) -> tuple[ModelInputs, ...]:
    """Pad a batch for each model. All models share the inputs unless their tokenizers differ."""
    inputs: list[ModelInputs] = []
    for model in range(len(pair.models)):
        if model and documents.alignment is None:
            inputs.append(inputs[0])
        else:
            token_ids, mask = pad(documents, batch, pair.max_positions, model)
            inputs.append(ModelInputs(token_ids, mask, kept_tokens(documents, batch, mask, model)))
    return tuple(inputs)


def read_activations(
    pair: ModelPair, inputs: Sequence[ModelInputs]
) -> tuple[Float[Tensor, "document token _"], ...]:
    """Each model's activations, with a single call if all models read the same tokens."""
    if pair.readers is None:
        return pair.activations(inputs[0].token_ids, inputs[0].attention)
    return tuple(pair.activations_of(model, one.token_ids, one.attention) for model, one in enumerate(inputs))


def kept_tokens(
    documents: Documents, batch: Batch, mask: Bool[Tensor, "document token"], model: int = 0
) -> Bool[Tensor, "document token"]:
    """Which tokens of a padded batch are unmasked: equally many for every model, in the same order."""
    kept = mask.clone()
    kept[mask] = torch.from_numpy(
        np.concatenate([documents.compared_tokens(index, model) for index in batch])
    )
    return kept


def pad(
    documents: Documents, batch: Batch, max_positions: int | None = None, model: int = 0
) -> tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]:
    """Token ids and mask of a batch, right-padded to a multiple of 16, or to at most `max_positions`."""
    rows = [documents.tokens_of(int(index), model) for index in batch]
    longest = max(map(len, rows))
    padded = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    return _stack(rows, max(longest, min(padded, max_positions or padded)))


def _stack(
    rows: Sequence[Int32[np.ndarray, " _"]], length: int
) -> tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]:
    """Token ids of some documents, right-padded to `length`, and the mask of real tokens."""
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = torch.from_numpy(row)
        mask[index, : len(row)] = True
    return token_ids, mask


def _common_prefix(rows: Sequence[Int32[np.ndarray, " _"]]) -> int:
    """Length of the longest common prefix that leaves at least one token in each document."""
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
