"""Metrics that are read off logits and have a gradient: one number a prompt, larger where the behavior is stronger."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crosscoder.behavior import Continuation, Divergence, LogOdds, Perplexity
from crosscoder.errors import ConfigError, DataError

from .prompts import Batch, Prompt, Row

Logits = Float[Tensor, "row last_token vocabulary"]


class LogitMetric(ABC):
    """What is read off the logits of a pass."""

    unit: str
    needs_reference = False
    """Whether it compares with the logits of the unchanged reference."""

    def n_last(self, batch: Batch) -> int:
        """Logits of how many tokens at the end of the padded rows are needed; here of all."""
        return batch.token_ids.shape[1]

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """The rows that a pass needs; here the prompts as they are."""
        return [Row(i, prompt.token_ids, len(prompt.token_ids)) for i, prompt in enumerate(prompts)]

    @abstractmethod
    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """One number for each prompt of a batch, in float32, with a gradient where the logits have one; the logits are those of the
        last `n_last` tokens."""


class NextTokenLogOdds(LogitMetric):
    """log Σ p(tokens) - log Σ p(against), after the prompt."""

    unit = "nats"

    def __init__(self, tokens: Int[Tensor, " id"], against: Int[Tensor, " other_id"] | None) -> None:
        """`against`: None stands for all other tokens."""
        self._tokens, self._against = tokens, against

    def n_last(self, batch: Batch) -> int:
        """From the end of the shortest prompt."""
        return _from(batch, batch.length - 1)

    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """See `LogitMetric.values`."""
        last = _after(logits, batch, batch.length - 1)
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

    def n_last(self, batch: Batch) -> int:
        """From the end of the shortest prompt."""
        return _from(batch, batch.n_prompt - 1)

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Every prompt before every continuation."""
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
        place = torch.arange(1, batch.token_ids.shape[1])
        counted = (place >= batch.n_prompt[:, None]) & (place < batch.length[:, None])
        summed = _log_probabilities(logits, batch, counted).sum(dim=1)
        n_prompts = len(batch.prompts)
        value = _any_of(summed, ~batch.against, n_prompts)
        return value - _any_of(summed, batch.against, n_prompts) if self._against else value


class CrossEntropy(LogitMetric):
    """Mean of -log p(token | before) over a text."""

    unit = "nats a token"

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """The texts. Raises DataError for one of a single token, which predicts nothing."""
        for prompt in prompts:
            if len(prompt.token_ids) < 2:
                raise DataError(
                    f"prompts: {prompt.text!r} is one token, which predicts none; give longer texts"
                )
        return super().rows(prompts)

    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """See `LogitMetric.values`."""
        counted = batch.attention[:, 1:]
        summed = _log_probabilities(logits, batch, counted).sum(dim=1)
        return -summed / (batch.length - 1).to(summed.device)


class DivergenceFromReference(LogitMetric):
    """KL(p ‖ p_reference) of the next token, after the prompt or on average after each of its tokens."""

    unit = "nats"
    needs_reference = True

    def __init__(self, all_places: bool) -> None:
        self._all_places = all_places

    def n_last(self, batch: Batch) -> int:
        """From the end of the shortest prompt, or all."""
        return super().n_last(batch) if self._all_places else _from(batch, batch.length - 1)

    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """See `LogitMetric.values`."""
        assert reference is not None
        if not self._all_places:
            return kl_divergence(*(_after(one, batch, batch.length - 1) for one in (logits, reference)))
        row, place = batch.attention.to(logits.device).nonzero(as_tuple=True)
        kl = kl_divergence(logits[row, place].float(), reference[row, place].float())
        summed = kl.new_zeros(len(logits)).index_add(0, row, kl)
        return summed / batch.length.to(summed.device)


def build_metric(
    settings: LogOdds | Continuation | Perplexity | Divergence, tokenizer: PreTrainedTokenizerBase
) -> LogitMetric:
    """The metric that these settings describe.

    Raises:
        ConfigError: A text that has to be one token is several, or a continuation has no token.
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
    """KL(p ‖ p_other) of the next token, on average over the tokens of each row, in nats."""
    row, place = batch.attention.to(logits.device).nonzero(as_tuple=True)
    kl = torch.cat(
        [
            kl_divergence(logits[part_row, part_place].float(), other[part_row, part_place].float())
            for part_row, part_place in zip(row.split(256), place.split(256), strict=True)
        ]
    )
    return kl.new_zeros(len(logits)).index_add(0, row, kl) / batch.length.to(kl.device)


def _from(batch: Batch, place: Int[Tensor, " row"]) -> int:
    """How many tokens there are from the smallest of these places on."""
    return batch.token_ids.shape[1] - int(place.min())


def _skipped(logits: Logits, batch: Batch) -> int:
    """Tokens whose logits were left out."""
    return batch.token_ids.shape[1] - logits.shape[1]


def _after(logits: Logits, batch: Batch, place: Int[Tensor, " row"]) -> Float[Tensor, "row vocabulary"]:
    return logits[torch.arange(len(logits)), place.to(logits.device) - _skipped(logits, batch)].float()


def _log_probabilities(
    logits: Logits, batch: Batch, counted: Bool[Tensor, "row predicted"]
) -> Float[Tensor, "row predicted"]:
    """log p of every token but the first, given those before it; 0 where it does not count."""
    row, place = counted.to(logits.device).nonzero(as_tuple=True)
    targets = batch.token_ids[:, 1:].to(logits.device)[row, place]
    chosen = logits[row, place - _skipped(logits, batch)].float()
    found = chosen.gather(1, targets[:, None])[:, 0] - chosen.logsumexp(dim=1)
    return found.new_zeros(counted.shape).index_put((row, place), found)


def _any_of(
    summed: Float[Tensor, " row"], chosen: Bool[Tensor, " row"], n_prompts: int
) -> Float[Tensor, " prompt"]:
    """log Σ exp over the chosen rows of each prompt. Every prompt has as many, in order."""
    return summed[chosen.to(summed.device)].view(n_prompts, -1).logsumexp(dim=1)


def kl_divergence(
    one: Float[Tensor, "place vocabulary"], other: Float[Tensor, "place vocabulary"]
) -> Float[Tensor, " place"]:
    """KL(p ‖ p_other) of the next token at each place, in nats, from logits."""
    log_one, log_other = one.log_softmax(dim=1), other.log_softmax(dim=1)
    return (log_one.exp() * (log_one - log_other)).sum(dim=1)


def _single_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " id"]:
    ids = []
    for text in texts:
        own = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(own) != 1:
            pieces = ", ".join(repr(piece) for piece in map(_decoded(tokenizer), own))
            raise ConfigError(
                f"metric: {text!r} is {len(own)} tokens ({pieces}), but log_odds needs single ones; "
                "give one of them, or use kind: continuation"
            )
        ids.append(own[0])
    return torch.tensor(ids)


def _decoded(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    return lambda token: str(tokenizer.decode([token]))


def _continuations(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Int64[np.ndarray, " _"]]:
    found = []
    for text in texts:
        ids = np.asarray(
            tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64
        )
        if not len(ids):
            raise ConfigError(f"metric: the continuation {text!r} has no token; give some text")
        found.append(ids)
    return found
