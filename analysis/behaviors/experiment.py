"""A behavior of a pair, ready to be measured: its prompts, on the side to find with and on the side to claim with, and its metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from crosscoder.config import TokenPolicy
from crosscoder.config.behavior import (
    Behavior,
    Divergence,
    Judged,
    Pattern,
    Perplexity,
    UserFunction,
)
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair

from ..latents.dictionary_view import DictionaryView
from .activations import PromptActivations
from .answers import AnswerMeasurement
from .measurement import LogitMeasurement, Measurement
from .metrics import LogitMetric, build_metric
from .patching import REFERENCE, unchanged
from .prompts import Prompt, Row, read_prompts, split
from .scorers import Scorer, build_scorer
from .unshared_space.activations import Baseline, PerModelActivations


@dataclass(frozen=True)
class Side:
    """Some of the prompts, read by both models."""

    prompts: tuple[Prompt, ...]
    activations: PromptActivations
    """For a metric with a gradient the rows that it needs, otherwise the prompts."""

    gradient_measurement: LogitMeasurement | None
    """The metric that latents are found with; None where there is none with a gradient."""


class Experiment:
    """A behavior of a pair."""

    def __init__(
        self,
        behavior: Behavior,
        pair: ModelPair,
        view: DictionaryView,
        policy: TokenPolicy,
        replies: Path,
        baseline: Baseline | None = None,
    ) -> None:
        """
        Args:
            replies: File that the replies of a judge are kept in.
            baseline: Where attributions begin, in each model; for models that are not `has_shared_space`.

        Raises:
            ConfigError, DataError, FormatError: Prompts or metric cannot be used.
        """
        self.behavior, self.pair, self.view, self._policy = behavior, pair, view, policy
        self._baseline = baseline
        settings = behavior.gradient_metric
        if pair.readers is not None:
            _check_two_tokenizers(behavior)
        self.metric: LogitMetric | None = None if settings is None else build_metric(settings, pair.tokenizer)
        self._intervened_metric = None if settings is None else build_metric(settings, pair.tokenizer_of(1))
        # Before any long work: a scorer that cannot be had is told at once.
        self._scorer: Scorer | None = (
            None if settings is behavior.metric else build_scorer(behavior.metric, replies)  # pyright: ignore[reportArgumentType]
        )
        self.prompts = read_prompts(behavior, pair)
        self.held_out: Bool[np.ndarray, " prompt"] = split(
            len(self.prompts), behavior.held_out, behavior.seed
        )

    @cached_property
    def find(self) -> Side:
        """Prompts that latents are found with."""
        return self._side(held_out=False)

    @cached_property
    def claim(self) -> Side:
        """Prompts that claims are checked on."""
        return self._side(held_out=True)

    @cached_property
    def unshared_find(self) -> PerModelActivations | None:
        """`find` of models that are not has_shared_space; None where the metric has no gradient."""
        return self._own(self.prompts_of(held_out=False))

    @cached_property
    def unshared_claim(self) -> PerModelActivations | None:
        """`claim` of models that are not has_shared_space; None where the metric has no gradient."""
        return self._own(self.prompts_of(held_out=True))

    @property
    def gradient_measurement(self) -> Measurement | None:
        """The metric that latents are found with, on the prompts that claims are checked on."""
        return self.claim.gradient_measurement if self.has_shared_space else self.unshared_claim

    @cached_property
    def behavior_measurement(self) -> Measurement:
        """The behavior's own metric, on the prompts that claims are checked on."""
        measured = self.gradient_measurement if self._scorer is None else None
        return measured or self.answers(self.prompts_of(held_out=True))

    @cached_property
    def find_measurement(self) -> Measurement:
        """What latents are found with, on the prompts to find them with."""
        return self.find.gradient_measurement or self.answers(self.find.prompts)

    @property
    def has_shared_space(self) -> bool:
        """Whether one model can run on from the other's activations, and directions of the two have a difference."""
        return has_shared_space(self.pair, self.view)

    def answers(self, prompts: Sequence[Prompt], seed: int = 0) -> AnswerMeasurement:
        """The metric of answers, with other random numbers for another seed."""
        assert self._scorer is not None
        settings = self.behavior.metric
        assert isinstance(settings, Pattern | UserFunction | Judged)
        shares = not isinstance(settings, UserFunction)
        return AnswerMeasurement(
            self.pair,
            self.view,
            self._scorer,
            "share of answers" if shares else "score",
            (0.0, 1.0) if shares else settings.bounds,
            prompts,
            self._policy,
            settings.sampling,
            self.behavior.seed + seed,
        )

    def repeated(self) -> Float64[np.ndarray, " prompt"] | None:
        """The reference's metric with other random numbers; None where it does not depend on any."""
        sampling = getattr(self.behavior.metric, "sampling", None)
        if sampling is None or sampling.temperature == 0:
            return None
        return self.answers(self.prompts_of(held_out=True), seed=1).values(unchanged(REFERENCE))

    def prompts_of(self, held_out: bool) -> tuple[Prompt, ...]:
        """Prompts to find latents with, or those that claims are checked on."""
        return tuple(
            prompt for prompt, own in zip(self.prompts, self.held_out, strict=True) if own == held_out
        )

    def _own(self, prompts: Sequence[Prompt]) -> PerModelActivations | None:
        if self.metric is None or self._intervened_metric is None:
            return None
        assert self._baseline is not None
        metrics = self.metric, self._intervened_metric
        return PerModelActivations(self.pair, self.view, metrics, prompts, self._policy, self._baseline)

    def _side(self, held_out: bool) -> Side:
        prompts = self.prompts_of(held_out)
        rows = _plain_rows(prompts) if self.metric is None else self.metric.rows(prompts)
        activations = PromptActivations.from_rows(self.pair, self.view, rows, self._policy)
        return Side(
            prompts, activations, None if self.metric is None else LogitMeasurement(activations, self.metric)
        )


def _plain_rows(prompts: Sequence[Prompt]) -> list[Row]:
    return [Row(i, prompt.token_ids, len(prompt.token_ids)) for i, prompt in enumerate(prompts)]


def has_shared_space(pair: ModelPair, view: DictionaryView) -> bool:
    """Whether both models have one width and one tokenizer."""
    return view.comparable and pair.readers is None


def _check_two_tokenizers(behavior: Behavior) -> None:
    """Raises ConfigError for a metric that is undefined where the two models read other tokens."""
    settings = behavior.gradient_metric
    if settings is not behavior.metric:
        raise ConfigError(
            f"metric.kind: {behavior.metric.kind} is of generated answers, which are not compared between two tokenizers; use "
            "log_odds or continuation"
        )
    if isinstance(settings, Perplexity | Divergence):
        raise ConfigError(
            f"metric.kind: {settings.kind} is told per token or per vocabulary, which differ between two tokenizers; use log_odds or "
            "continuation"
        )
