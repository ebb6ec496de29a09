"""The prompts of a behavior as token ids: which serve to find latents, which to check claims, and in which batches they are run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, Int32, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crosscoder.config import Message, TokenPolicy
from crosscoder.config.behavior import Behavior
from crosscoder.errors import DataError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.chat_templates import encode_chat
from crosscoder.text.documents import special_ids
from crosscoder.text.text_files import Text, read_file
from crosscoder.text.token_alignment import Aligner, counterpart_positions

# Padded tokens of one pass. The logits of all of them are there at once, for a gradient twice.
BATCH_TOKENS = 1024

_LENGTH_MULTIPLE = 16
_SPLIT_STREAM = 11


@dataclass(frozen=True)
class IntervenedTokens:
    """A prompt in the tokens of the intervened model, where its tokenizer is another one."""

    token_ids: Int64[np.ndarray, " own_token"]

    places: Int32[np.ndarray, " token"]
    """For each token of the reference, its counterpart here; -1 where there is none."""


@dataclass(frozen=True)
class Prompt:
    """What a model is given."""

    text: str
    """For people to read: the question of a chat, or the text."""

    token_ids: Int64[np.ndarray, " token"]

    intervened: IntervenedTokens | None = None
    """None: both models read the same tokens."""

    template: Bool[np.ndarray, " token"] | None = None
    """Tokens that a chat template wrote; None where that is not known."""

    def read_by(self, model: int) -> "Prompt":
        """As one of the models reads it."""
        if model == 0 or self.intervened is None:
            return self
        return Prompt(self.text, self.intervened.token_ids)

    def cut(self, length: int) -> "Prompt":
        """Its first tokens, in either model."""
        own = self.intervened
        if own is not None:
            places = np.where(own.counterparts[:length] < length, own.counterparts[:length], -1).astype(
                np.int32
            )
            own = IntervenedTokens(own.token_ids[:length], places)
        template = None if self.template is None else self.template[:length]
        return Prompt(self.text, self.token_ids[:length], own, template)


@dataclass(frozen=True)
class Row:
    """Tokens of one pass: those of a prompt, and of a continuation where its probability is asked for."""

    prompt: int
    """Index into the prompts."""

    token_ids: Int64[np.ndarray, " token"]

    n_prompt: int
    """How many of them are the prompt's."""

    against: bool = False
    """Whether its continuation counts against the behavior."""


@dataclass(frozen=True)
class Batch:
    """Rows that are run together, padded on the right; all rows of a prompt are in one batch."""

    prompts: Int64[np.ndarray, " prompt"]
    """Indices of its prompts, ascending."""

    place: Int[Tensor, " row"]
    """Which of `prompts` a row belongs to."""

    token_ids: Int[Tensor, "row token"]
    attention: Bool[Tensor, "row token"]

    kept: Bool[Tensor, "row token"]
    """Tokens that the dictionary reads: those that the token policy leaves in."""

    n_prompt: Int[Tensor, " row"]
    length: Int[Tensor, " row"]
    against: Bool[Tensor, " row"]


def read_prompts(behavior: Behavior, pair: ModelPair) -> list[Prompt]:
    """All prompts, each once, at most `limit`, spread over them.

    Raises:
        ConfigError, DataError, FormatError: The file cannot be read, a chat does not fit the template, or fewer than four
            different prompts are left.
    """
    if isinstance(behavior.prompts, Path):
        texts, origin = read_file(behavior.prompts, "prompts"), str(behavior.prompts)
    else:
        texts, origin = [_given(entry, place) for place, entry in enumerate(behavior.prompts)], "prompts"
    prompts = encode(texts, pair)
    once = list({prompt.token_ids.tobytes(): prompt for prompt in prompts}.values())
    if behavior.limit is not None:
        once = once[:: max(1, -(-len(once) // behavior.limit))]
    if len(once) < 4:
        raise DataError(f"{origin}: {len(once)} different prompts are too few to split; give at least 4")
    return once


def encode(texts: Sequence[Text], pair: ModelPair) -> list[Prompt]:
    """Texts and chats as both models read them. Raises DataError for one that is too long for them, or has no token."""
    if pair.readers is not None:
        return _encode_aligned(texts, pair, Aligner(pair.readers))
    prompts = []
    for text in texts:
        if text.messages is None:
            ids = np.asarray(pair.tokenizer(text.content or "", verbose=False)["input_ids"], dtype=np.int64)
            template = np.zeros(len(ids), dtype=bool)
        elif pair.chat_template is None:
            raise DataError(
                f"{text.origin}: a chat, but neither model's tokenizer has a chat template; give plain text"
            )
        else:
            ids, template = encode_chat(pair.tokenizer, pair.chat_template, text.messages, text.origin)
        _check_length(len(ids), text, pair)
        prompts.append(Prompt(text.prompt, ids.astype(np.int64), template=template))
    return prompts


def _encode_aligned(texts: Sequence[Text], pair: ModelPair, aligner: Aligner) -> list[Prompt]:
    """Texts and chats in the tokens of both models. A prompt of which they read nothing in common has nothing to attribute."""
    prompts = []
    for text in texts:
        reference, intervened = aligner.read(text)
        _check_length(max(len(side.token_ids) for side in (reference, intervened)), text, pair)
        own = IntervenedTokens(
            intervened.token_ids.astype(np.int64), counterpart_positions(reference.ends, intervened.ends)
        )
        prompts.append(Prompt(text.prompt, reference.token_ids.astype(np.int64), own, reference.template))
    return prompts


def _check_length(n_tokens: int, text: Text, pair: ModelPair) -> None:
    longest = pair.max_positions
    if not n_tokens or (longest is not None and n_tokens > longest):
        raise DataError(
            f"{text.origin}: {n_tokens} tokens, but the models read from 1 to {longest or 'any number of'}; "
            "change the prompt"
        )


def split(n_prompts: int, held_out: float, seed: int) -> Bool[np.ndarray, " prompt"]:
    """Which prompts claims are checked on; at least two on each side."""
    count = min(max(round(held_out * n_prompts), 2), n_prompts - 2)
    order = np.random.default_rng([seed, _SPLIT_STREAM]).permutation(n_prompts)
    side = np.zeros(n_prompts, dtype=bool)
    side[order[:count]] = True
    return side


def batches(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    policy: TokenPolicy,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Batch]:
    """Rows of like length together, at most `batch_tokens` of them with their padding, unless one prompt has more."""
    return form_batches(rows, grouped([rows], batch_tokens), tokenizer, policy)


def grouped(rows: Sequence[Sequence[Row]], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Prompts that are run together, those of like length: no model's batch has more than `batch_tokens` tokens with their padding,
    unless one prompt has more.

    Args:
        rows: Of each model that is run; each has as many of a prompt.
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
) -> list[Batch]:
    """One batch for each group of prompts, of the rows of one model."""
    of_prompt: dict[int, list[Row]] = {}
    for row in rows:
        of_prompt.setdefault(row.prompt, []).append(row)
    special = torch.tensor(special_ids(tokenizer) if policy.mask_special else [], dtype=torch.long)
    return [_batch(group, of_prompt, special, policy.mask_first) for group in groups]


def _batch(
    prompts: Sequence[int], of_prompt: dict[int, list[Row]], special: Int[Tensor, " id"], mask_first: int
) -> Batch:
    rows = [(place, row) for place, prompt in enumerate(prompts) for row in of_prompt[prompt]]
    length = torch.tensor([len(row.token_ids) for _, row in rows])
    token_ids = torch.zeros(len(rows), _padded(int(length.max())), dtype=torch.long)
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
    """Matrix products on a CPU prefer multiples of 16."""
    return -(-length // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE


def _given(entry: str | tuple[Message, ...], place: int) -> Text:
    origin = f"prompts, entry {place}"
    if isinstance(entry, str):
        return Text(entry, None, origin)
    return Text(None, tuple(message.model_dump() for message in entry), origin)
