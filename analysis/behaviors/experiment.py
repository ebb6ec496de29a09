"""A behavior of a pair, ready to be measured: its prompts, split into a find set and a claim set, and its metrics."""

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
from .answers import AnswerMeasurement, answer_bounds
from .logit_metrics import LogitMetric, build_metric
from .measurement import LogitMeasurement, Measurement
from .patching import REFERENCE, unchanged
from .prompts import Prompt, Row, read_prompts, split
from .scorers import Scorer, build_scorer, settled_by
from .unshared_space.activations import Baseline, PerModelActivations


@dataclass(frozen=True)
class Side:
    """The find set or the claim set of prompts, read by both models."""

    prompts: tuple[Prompt, ...]
    activations: PromptActivations
    """On the rows that the differentiable metric needs; without such a metric, on the prompts."""

    gradient_measurement: LogitMeasurement | None
    """The differentiable metric that latents are found with; None without one."""


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
            replies: File of a judge's cached replies.
            baseline: Start of the attribution path in each model, for models without a shared space.

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
        # Here, because a scorer that is not available should be reported before any long work.
        self._scorer: Scorer | None = (
            None if settings is behavior.metric else build_scorer(behavior.metric, replies)  # pyright: ignore[reportArgumentType]
        )
        self.prompts = read_prompts(behavior, pair)
        self.held_out: Bool[np.ndarray, " prompt"] = split(
            len(self.prompts), behavior.held_out, behavior.seed
        )

    @cached_property
    def find(self) -> Side:
        """The prompts that latents are found on."""
        return self._side(held_out=False)

    @cached_property
    def claim(self) -> Side:
        """The prompts that claims are checked on."""
        return self._side(held_out=True)

    @cached_property
    def unshared_find(self) -> PerModelActivations | None:
        """`find` for models without a shared space; None if the metric has no gradient."""
        return self._per_model_activations(self.prompts_of(held_out=False))

    @cached_property
    def unshared_claim(self) -> PerModelActivations | None:
        """`claim` for models without a shared space; None if the metric has no gradient."""
        return self._per_model_activations(self.prompts_of(held_out=True))

    @property
    def gradient_measurement(self) -> Measurement | None:
        """The metric that latents are found with, on the claim set; None if it has no gradient."""
        return self.claim.gradient_measurement if self.has_shared_space else self.unshared_claim

    @cached_property
    def behavior_measurement(self) -> Measurement:
        """The metric of the behavior, on the claim set."""
        differentiable = self.gradient_measurement if self._scorer is None else None
        return differentiable or self.answers(self.prompts_of(held_out=True))

    @cached_property
    def find_measurement(self) -> Measurement:
        """The metric that latents are found with, on the find set."""
        return self.find.gradient_measurement or self.answers(self.find.prompts)

    @property
    def metrics(self) -> tuple[LogitMetric, LogitMetric] | None:
        """The metric that latents are found with, over the vocabulary of each model; None if it has no gradient."""
        if self.metric is None or self._intervened_metric is None:
            return None
        return self.metric, self._intervened_metric

    @property
    def has_shared_space(self) -> bool:
        """Whether each model can be run from the other's activations."""
        return has_shared_space(self.pair, self.view)

    def answers(self, prompts: Sequence[Prompt], seed: int = 0) -> AnswerMeasurement:
        """Return the metric of generated answers; `seed` changes the random numbers."""
        assert self._scorer is not None
        settings = self.behavior.metric
        assert isinstance(settings, Pattern | UserFunction | Judged)
        return AnswerMeasurement(
            self.pair,
            self.view,
            self._scorer,
            "score" if isinstance(settings, UserFunction) else "share of answers",
            answer_bounds(settings),
            prompts,
            self._policy,
            settings.sampling,
            self.behavior.seed + seed,
            settled_by(settings),
        )

    def repeated(self) -> Float64[np.ndarray, " prompt"] | None:
        """Return the reference's metric with other random numbers; None if it does not depend on any."""
        sampling = getattr(self.behavior.metric, "sampling", None)
        if sampling is None or sampling.temperature == 0:
            return None
        return self.answers(self.prompts_of(held_out=True), seed=1).values(unchanged(REFERENCE))

    def prompts_of(self, held_out: bool) -> tuple[Prompt, ...]:
        """Return the claim set of prompts if `held_out`, else the find set."""
        return tuple(
            prompt
            for prompt, is_held_out in zip(self.prompts, self.held_out, strict=True)
            if is_held_out == held_out
        )

    def _per_model_activations(self, prompts: Sequence[Prompt]) -> PerModelActivations | None:
        metrics = self.metrics
        if metrics is None:
            return None
        assert self._baseline is not None
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
    """Whether both models have the same width and the same tokenizer."""
    return view.comparable and pair.readers is None


def _check_two_tokenizers(behavior: Behavior) -> None:
    """Raise ConfigError for a metric that is undefined between two tokenizers."""
    settings = behavior.gradient_metric
    if settings is not behavior.metric:
        raise ConfigError(
            f"metric.kind: {behavior.metric.kind} scores generated answers, which are not compared between two tokenizers; use "
            "log_odds or continuation"
        )
    if isinstance(settings, Perplexity | Divergence):
        raise ConfigError(
            f"metric.kind: {settings.kind} depends on tokens or vocabulary, which differ between two tokenizers; use log_odds or "
            "continuation"
        )
