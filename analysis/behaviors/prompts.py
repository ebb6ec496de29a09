"""The prompts of a behavior as token ids, their split into a find set and a claim set, and their batches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int, Int32, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crosscoder.config import Message, TokenPolicy
from crosscoder.config.behavior import Behavior
from crosscoder.errors import DataError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text import tokenizer_calls
from crosscoder.text.chat_templates import encode_chat
from crosscoder.text.documents import special_ids
from crosscoder.text.text_files import Text, read_file
from crosscoder.text.token_alignment import Aligner, counterpart_positions

Item = TypeVar("Item")

# Maximum number of padded tokens per forward pass. Their logits are all in memory, twice for a gradient.
BATCH_TOKENS = 1024

_LENGTH_MULTIPLE = 16
_SPLIT_STREAM = 11


@dataclass(frozen=True)
class IntervenedTokens:
    """A prompt in the tokens of the intervened model, if its tokenizer differs."""

    token_ids: Int64[np.ndarray, " own_token"]

    counterparts: Int32[np.ndarray, " token"]
    """For each token of the reference, the index of its counterpart here; -1 without one."""


@dataclass(frozen=True)
class Prompt:
    """A prompt in the tokens of the reference."""

    text: str
    """For display: the question of a chat, or the text."""

    token_ids: Int64[np.ndarray, " token"]

    intervened: IntervenedTokens | None = None
    """None if both models read the same tokens."""

    template: Bool[np.ndarray, " token"] | None = None
    """Tokens that come from a chat template; None if unknown."""

    def read_by(self, model: int) -> "Prompt":
        """Return the prompt as a model reads it."""
        if model == 0 or self.intervened is None:
            return self
        return Prompt(self.text, self.intervened.token_ids)

    def cut(self, length: int) -> "Prompt":
        """Return the first `length` tokens, in either model."""
        intervened = self.intervened
        if intervened is not None:
            counterparts = intervened.counterparts[:length]
            counterparts = np.where(counterparts < length, counterparts, -1).astype(np.int32)
            intervened = IntervenedTokens(intervened.token_ids[:length], counterparts)
        template = None if self.template is None else self.template[:length]
        return Prompt(self.text, self.token_ids[:length], intervened, template)


@dataclass(frozen=True)
class Row:
    """Tokens of one forward pass: a prompt, followed by a continuation if its probability is measured."""

    prompt: int
    """Index of the prompt."""

    token_ids: Int64[np.ndarray, " token"]

    n_prompt: int
    """Number of tokens of the prompt."""

    against: bool = False
    """Whether the continuation counts against the behavior."""


@dataclass(frozen=True)
class Batch:
    """Rows run together, padded on the right. All rows of a prompt are in one batch."""

    prompts: Int64[np.ndarray, " prompt"]
    """Indices of the prompts, ascending."""

    place: Int[Tensor, " row"]
    """Index of each row's prompt in `prompts`."""

    token_ids: Int[Tensor, "row token"]
    attention: Bool[Tensor, "row token"]

    kept: Bool[Tensor, "row token"]
    """Tokens that the dictionary reads: those that the token policy keeps."""

    n_prompt: Int[Tensor, " row"]
    length: Int[Tensor, " row"]
    against: Bool[Tensor, " row"]


def read_prompts(behavior: Behavior, pair: ModelPair) -> list[Prompt]:
    """Return the distinct prompts, at most `limit`, taken at even steps.

    Raises:
        ConfigError, DataError, FormatError: The file cannot be read, a chat does not fit the template, or there are fewer than four
            distinct prompts.
    """
    texts, origin = _texts_of(behavior)
    prompts = encode(texts, pair)
    unique = list({prompt.token_ids.tobytes(): prompt for prompt in prompts}.values())
    if behavior.limit is not None:
        unique = evenly_spaced(unique, behavior.limit)
    _require_enough(len(unique), origin)
    return unique


def n_claim_prompts(behavior: Behavior) -> int:
    """Return how many prompts will carry the claims on a behavior: the size of its claim set if different texts have different tokens.

    Raises:
        ConfigError, DataError, FormatError: As `read_prompts`, without what only the models know.
    """
    texts, origin = _texts_of(behavior)
    n_prompts = len({repr((text.content, text.messages, text.tools)) for text in texts})
    n_prompts = min(n_prompts, behavior.limit or n_prompts)
    _require_enough(n_prompts, origin)
    return int(split(n_prompts, behavior.held_out, behavior.seed).sum())


def _texts_of(behavior: Behavior) -> tuple[Sequence[Text], str]:
    """Return the texts of a behavior's prompts, and where they stand."""
    if isinstance(behavior.prompts, Path):
        return read_file(behavior.prompts, "prompts"), str(behavior.prompts)
    return [_text_of(entry, index) for index, entry in enumerate(behavior.prompts)], "prompts"


def _require_enough(n_prompts: int, origin: str) -> None:
    if n_prompts < 4:
        raise DataError(f"{origin}: {n_prompts} distinct prompts are too few to split; give at least 4")


def evenly_spaced(items: Sequence[Item], limit: int) -> list[Item]:
    """Return `limit` of the items at even distances, in their order; all if there are no more."""
    return (
        [items[len(items) * place // limit] for place in range(limit)] if len(items) > limit else list(items)
    )


def encode(texts: Sequence[Text], pair: ModelPair) -> list[Prompt]:
    """Tokenize texts and chats for both models. Raises DataError for one that is too long or has no tokens."""
    if pair.readers is not None:
        return _encode_aligned(texts, pair, Aligner(pair.readers))
    prompts = []
    for text in texts:
        if text.messages is None:
            ids = np.asarray(
                tokenizer_calls.encode(pair.tokenizer, text.content or "")["input_ids"], dtype=np.int64
            )
            template = np.zeros(len(ids), dtype=bool)
        elif pair.chat_template is None:
            raise DataError(
                f"{text.origin}: is a chat, but neither model's tokenizer has a chat template; give plain text"
            )
        else:
            ids, template = encode_chat(
                pair.tokenizer, pair.chat_template, text.messages, text.origin, text.tools
            )
        _check_length(len(ids), text, pair)
        prompts.append(Prompt(text.prompt, ids.astype(np.int64), template=template))
    return prompts


def _encode_aligned(texts: Sequence[Text], pair: ModelPair, aligner: Aligner) -> list[Prompt]:
    """Tokenize texts and chats with each model's tokenizer and align the tokens."""
    prompts = []
    for text in texts:
        reference, intervened = aligner.read(text)
        _check_length(max(len(side.token_ids) for side in (reference, intervened)), text, pair)
        aligned = IntervenedTokens(
            intervened.token_ids.astype(np.int64), counterpart_positions(reference.ends, intervened.ends)
        )
        prompts.append(Prompt(text.prompt, reference.token_ids.astype(np.int64), aligned, reference.template))
    return prompts


def _check_length(n_tokens: int, text: Text, pair: ModelPair) -> None:
    longest = pair.max_positions
    if not n_tokens or (longest is not None and n_tokens > longest):
        raise DataError(
            f"{text.origin}: {n_tokens} tokens, but the models read from 1 to {longest or 'any number of'}; "
            "change the prompt"
        )


def split(n_prompts: int, held_out: float, seed: int) -> Bool[np.ndarray, " prompt"]:
    """Return the mask of the claim set; both sets have at least two prompts."""
    count = min(max(round(held_out * n_prompts), 2), n_prompts - 2)
    order = np.random.default_rng([seed, _SPLIT_STREAM]).permutation(n_prompts)
    mask = np.zeros(n_prompts, dtype=bool)
    mask[order[:count]] = True
    return mask


def batches(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    policy: TokenPolicy,
    longest: int | None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Batch]:
    """Batch rows of similar length, at most `batch_tokens` tokens with padding unless a single prompt has more.

    Args:
        longest: As in `form_batches`.
    """
    return form_batches(rows, group_by_length([rows], batch_tokens), tokenizer, policy, longest)


def group_by_length(rows: Sequence[Sequence[Row]], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Group prompts of similar length; each model's batch has at most `batch_tokens` tokens with padding, unless a single prompt has more.

    Args:
        rows: The rows of each model; all models have the same number of rows per prompt.
    """
    longest: dict[int, int] = {}
    for row in chain.from_iterable(rows):
        longest[row.prompt] = max(longest.get(row.prompt, 0), len(row.token_ids))
    count = Counter(row.prompt for row in rows[0])
    groups: list[list[int]] = [[]]
    n_rows = 0
    for prompt in sorted(longest, key=lambda prompt: longest[prompt]):
        n_rows += count[prompt]
        if groups[-1] and n_rows * _padded(longest[prompt]) > batch_tokens:
            groups.append([])
            n_rows = count[prompt]
        groups[-1].append(prompt)
    return [sorted(group) for group in groups if group]


def form_batches(
    rows: Sequence[Row],
    groups: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    policy: TokenPolicy,
    longest: int | None,
) -> list[Batch]:
    """Form one batch of one model's rows for each group of prompts.

    Args:
        longest: Positions that the models have (`ModelPair.max_positions`), which padding must not exceed either; None: no limit.
    """
    rows_of_prompt: dict[int, list[Row]] = {}
    for row in rows:
        rows_of_prompt.setdefault(row.prompt, []).append(row)
    special = torch.tensor(special_ids(tokenizer) if policy.mask_special else [], dtype=torch.long)
    return [_batch(group, rows_of_prompt, special, policy.mask_first, longest) for group in groups]


def _batch(
    prompts: Sequence[int],
    rows_of_prompt: dict[int, list[Row]],
    special: Int[Tensor, " id"],
    mask_first: int,
    longest: int | None,
) -> Batch:
    rows = [(place, row) for place, prompt in enumerate(prompts) for row in rows_of_prompt[prompt]]
    length = torch.tensor([len(row.token_ids) for _, row in rows])
    n_tokens = int(length.max())
    width = _padded(n_tokens) if longest is None else max(n_tokens, min(_padded(n_tokens), longest))
    token_ids = torch.zeros(len(rows), width, dtype=torch.long)
    for index, (_, row) in enumerate(rows):
        token_ids[index, : len(row.token_ids)] = torch.from_numpy(row.token_ids)
    attention = torch.arange(token_ids.shape[1]) < length[:, None]
    kept = attention & ~torch.isin(token_ids, special)
    kept[:, :mask_first] = False
    return Batch(
        np.array(prompts, dtype=np.int64),
        torch.tensor([place for place, _ in rows]),
        token_ids,
        attention,
        kept,
        torch.tensor([row.n_prompt for _, row in rows]),
        length,
        torch.tensor([row.against for _, row in rows]),
    )


def _padded(length: int) -> int:
    """Round up to a multiple of 16, which is faster for matrix products on a CPU."""
    return -(-length // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE


def _text_of(entry: str | tuple[Message, ...], index: int) -> Text:
    origin = f"prompts, entry {index}"
    if isinstance(entry, str):
        return Text(entry, None, origin)
    return Text(None, tuple(message.model_dump() for message in entry), origin)
