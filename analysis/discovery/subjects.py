"""The models under comparison, as what answers prompts."""

import time
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Float64

from crosscoder.config import DiscoveryConfig, TokenPolicy
from crosscoder.config.behavior import Sampling
from crosscoder.language_models.pair import ModelPair
from crosscoder.language_models.rounding import rounded
from crosscoder.text.tokenizer_rules import ids_of

from ..behaviors.generation import Generator, answer_text
from ..behaviors.logit_metrics import before_continuation, summed_log_probability
from ..behaviors.patching import unchanged
from ..behaviors.prompts import BATCH_TOKENS, Batch, Prompt, Row, batches
from .answer_features import Answer
from .answer_store import AnswerStore

_STORE_EVERY = 80
"""Prompts after which answers are written to disk."""

_ALL_TOKENS = TokenPolicy(mask_special=False, mask_first=0)


class TimeSpent(Exception):
    """The search has no time left."""


class Clock:
    """The time that a search may take."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def check(self) -> None:
        """Raise TimeSpent if no time is left."""
        if time.monotonic() > self._end:
            raise TimeSpent


def answer_batches(
    pair: ModelPair, prompts: Sequence[Prompt], answers: Sequence[Answer], batch_tokens: int = BATCH_TOKENS
) -> list[Batch]:
    """Return batches of prompts followed by their answers, without those whose answer has no tokens."""
    rows = [
        Row(
            index,
            np.concatenate([prompt.token_ids, answer.token_ids]).astype(np.int64),
            len(prompt.token_ids),
        )
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        if answer.token_ids
    ]
    return batches(rows, pair.tokenizer, _ALL_TOKENS, pair.max_positions, batch_tokens) if rows else []


class Subject:
    """One model, or a variant of it for a null. It answers each prompt once."""

    def __init__(
        self,
        name: str,
        pair: ModelPair,
        model: int,
        settings: DiscoveryConfig,
        seed: int,
        store: AnswerStore,
        clock: Clock,
        bits: int | None = None,
    ) -> None:
        """
        Args:
            name: Names the answers in the store, and makes its draws independent of those of other subjects.
            model: 0 for the reference, 1 for the intervened model.
            bits: Round the weights to this many bits; None leaves them.
        """
        self.name, self.pair, self.model = name, pair, model
        self._settings, self._store, self._clock, self._bits = settings, store, clock, bits
        self._seed = zlib.crc32(f"{seed} {name}".encode())

    def answers(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return the sampled answer to each prompt; those in the store are not sampled again.

        Raises:
            TimeSpent: No time is left. Finished answers are in the store.
        """
        missing = [prompt for prompt in prompts if self._store.get(self.name, prompt.text) is None]
        # A batch takes as long as its longest prompt.
        missing.sort(key=lambda prompt: len(prompt.token_ids))
        for start in range(0, len(missing), _STORE_EVERY):
            part = missing[start : start + _STORE_EVERY]
            self._store.add(self.name, [prompt.text for prompt in part], self._sample(part))
        found = [self._store.get(self.name, prompt.text) for prompt in prompts]
        return [answer for answer in found if answer is not None]

    @torch.no_grad()
    def log_probability(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> Float64[np.ndarray, " prompt"]:
        """Return the mean log-probability of an answer's tokens in nats, given its prompt; 0 for an empty answer.

        The models must read the same tokens.

        Raises:
            TimeSpent: No time is left.
        """
        found = np.zeros(len(prompts))
        with self._changed():
            for batch in answer_batches(self.pair, prompts, answers):
                self._clock.check()
                at = before_continuation(batch)
                logits = self.pair.logits(batch.token_ids, batch.attention, None, self.model, at)
                sums = summed_log_probability(logits, batch, at).cpu()
                found[batch.prompts] = (sums / (batch.length - batch.n_prompt)).double().numpy()
        return found

    def continuations(self, texts: Sequence[str], sampling: Sampling) -> list[list[str]]:
        """Return sampled continuations of plain text, without a chat template.

        Raises:
            TimeSpent: No time is left.
            DataError: A text with its continuation is longer than the models can read.
        """
        tokenizer = self.pair.tokenizer_of(self.model)
        prompts = [Prompt(text, np.array(ids_of(tokenizer, text), dtype=np.int64)) for text in texts]
        with self._changed():
            return self._generator(prompts, sampling).answers(unchanged(self.model))

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens of an answer."""
        return answer_text(self.pair, token_ids, self.model)

    def _sample(self, prompts: Sequence[Prompt]) -> list[Answer]:
        read = [prompt.read_by(self.model) for prompt in prompts]
        most = self._settings.answer_tokens
        sampling = Sampling(max_new_tokens=most, samples=1, temperature=self._settings.temperature)
        generator = self._generator(read, sampling)
        with self._changed():
            rows = [row for (row,) in generator.sampled(unchanged(self.model))]
        return [
            Answer(
                self.text_of(row.token_ids),
                len(row.token_ids) < most,
                tuple(row.token_ids),
                row.log_probability / max(1, len(row.token_ids)),
            )
            for row in rows
        ]

    def _generator(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator:
        seed = zlib.crc32(f"{self._seed} {prompts[0].text}".encode())
        return Generator(self.pair, None, prompts, _ALL_TOKENS, sampling, seed, self._clock.check)

    def _changed(self) -> AbstractContextManager[None]:
        return nullcontext() if self._bits is None else rounded(self.pair.models[self.model], self._bits)
