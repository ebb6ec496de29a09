"""Metrics that are read off logits and have a gradient: one number a prompt, larger where the behavior is stronger."""

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

from .prompts import Batch, Prompt, Row

Logits = Float[Tensor, "place vocabulary"]
"""Of some tokens of a batch, row by row."""

# Entries of log-probabilities, in float32, that are there at once. On a CPU what stays in its cache is several times faster.
_ENTRIES = 2**20


class LogitMetric(ABC):
    """What is read off the logits of a pass."""

    unit: str
    needs_reference = False
    """Whether it compares with the logits of the unchanged reference."""

    def places(self, batch: Batch) -> Bool[Tensor, "row token"]:
        """Tokens after which it is read what is predicted; here all."""
        return batch.attention

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """The rows that a pass needs; here the prompts as they are."""
        return [Row(i, prompt.token_ids, len(prompt.token_ids)) for i, prompt in enumerate(prompts)]

    @abstractmethod
    def values(
        self, logits: Logits, batch: Batch, reference: Logits | None = None
    ) -> Float[Tensor, " prompt"]:
        """One number for each prompt of a batch, in float32, with a gradient where the logits have one; logits of its `places`."""


class NextTokenLogOdds(LogitMetric):
    """log Σ p(tokens) - log Σ p(against), after the prompt."""

    unit = "nats"

    def __init__(self, tokens: Int[Tensor, " id"], against: Int[Tensor, " other_id"] | None) -> None:
        """`against`: None stands for all other tokens."""
        self._tokens, self._against = tokens, against

    def places(self, batch: Batch) -> Bool[Tensor, "row token"]:
        """The end of the prompt."""
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
        """Before each token of the continuation."""
        place = torch.arange(1, batch.token_ids.shape[1] + 1)
        return (place >= batch.n_prompt[:, None]) & (place < batch.length[:, None])

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
        summed = _log_probability(logits, batch, self.places(batch))
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
        # The last token predicts none.
        counted = self.places(batch) & ~_ends(batch)
        summed = _log_probability(logits[counted[self.places(batch)].to(logits.device)], batch, counted)
        return -summed / (batch.length - 1).to(summed.device)


class DivergenceFromReference(LogitMetric):
    """KL(p ‖ p_reference) of the next token, after the prompt or on average after each of its tokens."""

    unit = "nats"
    needs_reference = True

    def __init__(self, all_places: bool) -> None:
        self._all_places = all_places

    def places(self, batch: Batch) -> Bool[Tensor, "row token"]:
        """The end of the prompt, or all its tokens."""
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
    """KL(p ‖ p_other) of the next token, on average over the tokens of each row, in nats; logits of all of them."""
    return _mean_of_row(kl_divergence(logits, other), batch)


def _mean_of_row(values: Float[Tensor, " place"], batch: Batch) -> Float[Tensor, " row"]:
    """Mean over all tokens of each row."""
    row = batch.attention.nonzero()[:, 0].to(values.device)
    return values.new_zeros(len(batch.length)).index_add(0, row, values) / batch.length.to(values.device)


def _ends(batch: Batch) -> Bool[Tensor, "row token"]:
    """The last token of each row."""
    return torch.arange(batch.token_ids.shape[1]) == batch.length[:, None] - 1


def _log_probability(
    logits: Logits, batch: Batch, places: Bool[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """Σ log p(token after a place | before) of each row; no place is the last token of its row."""
    row, place = places.nonzero(as_tuple=True)
    targets = batch.token_ids[row, place + 1].to(logits.device)
    n_places, found = _at_once(logits), []
    for part, own in zip(logits.split(n_places), targets.split(n_places), strict=True):
        chosen = part.float()
        found.append(chosen.gather(1, own[:, None])[:, 0] - chosen.logsumexp(dim=1))
    summed = torch.zeros(len(places), device=logits.device)
    return summed.index_add(0, row.to(logits.device), torch.cat(found))


def _at_once(logits: Logits) -> int:
    """Places whose log-probabilities are there at once."""
    return max(1, _ENTRIES // logits.shape[1])


def _any_of(
    summed: Float[Tensor, " row"], chosen: Bool[Tensor, " row"], n_prompts: int
) -> Float[Tensor, " prompt"]:
    """log Σ exp over the chosen rows of each prompt. Every prompt has as many, in order."""
    return summed[chosen.to(summed.device)].view(n_prompts, -1).logsumexp(dim=1)


def kl_divergence(logits: Logits, other: Logits) -> Float[Tensor, " place"]:
    """KL(p ‖ p_other) of the next token at each place, in nats, from logits."""
    n_places, found = _at_once(logits), []
    for one, two in zip(logits.split(n_places), other.split(n_places), strict=True):
        log_one, log_two = one.float().log_softmax(dim=1), two.float().log_softmax(dim=1)
        found.append((log_one.exp() * (log_one - log_two)).sum(dim=1))
    return torch.cat(found)


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
