"""Differentiable metrics of logits: one value per prompt, larger if the behavior is stronger. Metrics of answers are in `scorers`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crosscoder.config.behavior import Continuation, Divergence, LogOdds, Perplexity
from crosscoder.errors import ConfigError, DataError
from crosscoder.text.tokenizer_calls import encode

from .prompts import Batch, Prompt, Row

Logits = Float[Tensor, "place vocabulary"]
"""Logits at selected tokens of a batch, row by row."""

# Maximum number of float32 log-probabilities in memory at once. On a CPU, chunks that fit its cache are several times faster.
_ENTRIES = 2**20


class LogitMetric(ABC):
    """A metric of the logits of a forward pass."""

    unit: str
    needs_reference = False
    """Whether the metric compares with the logits of the unchanged reference."""

    def places(self, batch: Batch) -> Bool[Tensor, "row token"]:
        """Return the tokens whose next-token predictions the metric uses; by default all."""
        return batch.attention

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Return the rows that a forward pass needs; by default the prompts."""
        return [Row(i, prompt.token_ids, len(prompt.token_ids)) for i, prompt in enumerate(prompts)]

    @abstractmethod
    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """Return one float32 value per prompt of a batch from the logits at its `places`, differentiable if the logits are."""


class NextTokenLogOdds(LogitMetric):
    """log Σ p(tokens) - log Σ p(against), after the prompt."""

    unit = "nats"

    def __init__(self, tokens: Int[Tensor, " id"], against: Int[Tensor, " other_id"] | None) -> None:
        """`against`: None means all other tokens."""
        self._tokens, self._against = tokens, against

    def places(self, batch: Batch) -> Bool[Tensor, "row token"]:
        """Return the last token of the prompt."""
        return _ends(batch)

    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """See `LogitMetric.values`."""
        last = logits.float()
        tokens = self._tokens.to(last.device)
        if self._against is None:
            others = torch.ones(last.shape[1], dtype=torch.bool, device=last.device)
            others[tokens] = False
            against = last[:, others]
        else:
            against = last[:, self._against.to(last.device)]
        return last[:, tokens].logsumexp(dim=1) - against.logsumexp(dim=1)


class ContinuationLogProbability(LogitMetric):
    """log Σ p(texts | prompt) - log Σ p(against | prompt)."""

    unit = "nats"

    def __init__(
        self, texts: Sequence[Int64[np.ndarray, " _"]], against: Sequence[Int64[np.ndarray, " _"]]
    ) -> None:
        self._texts, self._against = texts, against

    def places(self, batch: Batch) -> Bool[Tensor, "row token"]:
        """Return the tokens before each token of the continuation."""
        return before_continuation(batch)

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Return every prompt followed by every continuation."""
        return [
            Row(i, np.concatenate([prompt.token_ids, text]), len(prompt.token_ids), against)
            for i, prompt in enumerate(prompts)
            for against, texts in ((False, self._texts), (True, self._against))
            for text in texts
        ]

    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """See `LogitMetric.values`."""
        summed = summed_log_probability(logits, batch, self.places(batch))
        n_prompts = len(batch.prompts)
        value = _log_sum(summed, ~batch.against, n_prompts)
        return value - _log_sum(summed, batch.against, n_prompts) if self._against else value


class CrossEntropy(LogitMetric):
    """Mean of -log p(token | previous tokens) over a text."""

    unit = "nats per token"

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Return the texts. Raises DataError for a text of one token, which has no next token to predict."""
        for prompt in prompts:
            if len(prompt.token_ids) < 2:
                raise DataError(
                    f"prompts: {prompt.text!r} is one token, so there is no next token to predict; give longer texts"
                )
        return super().rows(prompts)

    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """See `LogitMetric.values`."""
        # Nothing follows the last token.
        counted = self.places(batch) & ~_ends(batch)
        summed = summed_log_probability(logits[counted[self.places(batch)].to(logits.device)], batch, counted)
        return -summed / (batch.length - 1).to(summed.device)


class DivergenceFromReference(LogitMetric):
    """KL(p ‖ p_reference) of the next token, at the end of the prompt or averaged over its tokens."""

    unit = "nats"
    needs_reference = True

    def __init__(self, all_places: bool) -> None:
        self._all_places = all_places

    def places(self, batch: Batch) -> Bool[Tensor, "row token"]:
        """Return the last token of the prompt, or all its tokens."""
        return super().places(batch) if self._all_places else _ends(batch)

    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """See `LogitMetric.values`."""
        assert reference is not None
        kl = kl_divergence(logits, reference)
        return _mean_of_row(kl, batch) if self._all_places else kl


def build_metric(
    settings: LogOdds | Continuation | Perplexity | Divergence, tokenizer: PreTrainedTokenizerBase
) -> LogitMetric:
    """Return the metric for these settings.

    Raises:
        ConfigError: A text that must be one token is several, or a continuation has no tokens.
    """
    match settings:
        case LogOdds():
            against = _single_tokens(settings.against, tokenizer) if settings.against else None
            return NextTokenLogOdds(_single_tokens(settings.tokens, tokenizer), against)
        case Continuation():
            return ContinuationLogProbability(
                *(_continuations(texts, tokenizer) for texts in (settings.texts, settings.against))
            )
        case Perplexity():
            return CrossEntropy()
        case Divergence():
            return DivergenceFromReference(settings.places == "all")
        case _:
            assert_never(settings)


def next_token_divergence(logits: Logits, other: Logits, batch: Batch) -> Float[Tensor, " row"]:
    """Return KL(p ‖ p_other) of the next token in nats, averaged over the tokens of each row, from logits at all tokens."""
    return _mean_of_row(kl_divergence(logits, other), batch)


def _mean_of_row(values: Float[Tensor, " place"], batch: Batch) -> Float[Tensor, " row"]:
    """Return the mean over all tokens of each row."""
    row = batch.attention.nonzero()[:, 0].to(values.device)
    return values.new_zeros(len(batch.length)).index_add(0, row, values) / batch.length.to(values.device)


def _ends(batch: Batch) -> Bool[Tensor, "row token"]:
    """Return the last token of each row."""
    return torch.arange(batch.token_ids.shape[1]) == batch.length[:, None] - 1


def before_continuation(batch: Batch) -> Bool[Tensor, "row token"]:
    """Return the tokens before each token that follows a prompt."""
    place = torch.arange(1, batch.token_ids.shape[1] + 1)
    return (place >= batch.n_prompt[:, None]) & (place < batch.length[:, None])


def summed_log_probability(
    logits: Logits, batch: Batch, places: Bool[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """Return Σ log p(token after a place | previous tokens) of each row; no place may be the last token of its row."""
    row, place = places.nonzero(as_tuple=True)
    targets = batch.token_ids[row, place + 1].to(logits.device)
    n_places, chunks = _chunk_size(logits), []
    for part, ids in zip(logits.split(n_places), targets.split(n_places), strict=True):
        chunk = part.float()
        chunks.append(chunk.gather(1, ids[:, None])[:, 0] - chunk.logsumexp(dim=1))
    summed = torch.zeros(len(places), device=logits.device)
    return summed.index_add(0, row.to(logits.device), torch.cat(chunks))


def _chunk_size(logits: Logits) -> int:
    """Return the number of places whose log-probabilities are computed at once."""
    return max(1, _ENTRIES // logits.shape[1])


def _log_sum(
    summed: Float[Tensor, " row"], selected: Bool[Tensor, " row"], n_prompts: int
) -> Float[Tensor, " prompt"]:
    """Return log Σ exp over the selected rows of each prompt. Prompts have equal numbers of selected rows, in order."""
    return summed[selected.to(summed.device)].view(n_prompts, -1).logsumexp(dim=1)


def kl_divergence(logits: Logits, other: Logits) -> Float[Tensor, " place"]:
    """Return KL(p ‖ p_other) of the next token at each place, in nats, from logits."""
    n_places, chunks = _chunk_size(logits), []
    for one, two in zip(logits.split(n_places), other.split(n_places), strict=True):
        log_one, log_two = one.float().log_softmax(dim=1), two.float().log_softmax(dim=1)
        chunks.append((log_one.exp() * (log_one - log_two)).sum(dim=1))
    return torch.cat(chunks)


def _single_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " id"]:
    ids = []
    for text in texts:
        token_ids = encode(tokenizer, text, add_special_tokens=False)["input_ids"]
        if len(token_ids) != 1:
            pieces = ", ".join(repr(piece) for piece in map(_decoder(tokenizer), token_ids))
            raise ConfigError(
                f"metric: {text!r} is {len(token_ids)} tokens ({pieces}), but log_odds needs single tokens; "
                "give one of them, or use kind: continuation"
            )
        ids.append(token_ids[0])
    return torch.tensor(ids)


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    return lambda token: str(tokenizer.decode([token]))


def _continuations(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Int64[np.ndarray, " _"]]:
    continuations = []
    for text in texts:
        ids = np.asarray(encode(tokenizer, text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        if not len(ids):
            raise ConfigError(f"metric: the continuation {text!r} has no tokens; give some text")
        continuations.append(ids)
    return continuations
