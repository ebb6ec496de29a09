"""A behavior of a pair, ready to be measured: its prompts, on the side to find with and on the side to claim with, and its metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from crosscoder.behavior import Behavior, Pattern
from crosscoder.config import TokenPolicy
from crosscoder.pair import ModelPair

from ..observers import Observer
from .answers import AnswerMeasurement
from .measurement import LogitMeasurement, Measurement
from .metrics import LogitMetric, build_metric
from .prompts import Prompt, Row, read_prompts, split
from .reading import Reading
from .runs import REFERENCE, unchanged
from .scorers import Scorer, build_scorer


@dataclass(frozen=True)
class Side:
    """Some of the prompts, read by both models."""

    prompts: tuple[Prompt, ...]
    reading: Reading
    """For a metric with a gradient the rows that it needs, otherwise the prompts."""

    measured: LogitMeasurement | None
    """The metric that latents are found with; None where there is none with a gradient."""


class Subject:
    """A behavior of a pair."""

    def __init__(
        self, behavior: Behavior, pair: ModelPair, observer: Observer, policy: TokenPolicy, replies: Path
    ) -> None:
        """
        Args:
            replies: File that the replies of a judge are kept in.

        Raises:
            ConfigError, DataError, FormatError: Prompts or metric cannot be used.
        """
        self.behavior, self.pair, self.observer, self._policy = behavior, pair, observer, policy
        settings = behavior.gradient_metric
        self.metric: LogitMetric | None = None if settings is None else build_metric(settings, pair.tokenizer)
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
        return self._side(~self.held_out)

    @cached_property
    def claim(self) -> Side:
        """Prompts that claims are checked on."""
        return self._side(self.held_out)

    @cached_property
    def claimed(self) -> Measurement:
        """The behavior's own metric, on the prompts that claims are checked on."""
        return (
            self.claim.measured if self._scorer is None and self.claim.measured else self.answers(self.claim)
        )

    @cached_property
    def finder(self) -> Measurement:
        """What latents are found with, on the prompts to find them with."""
        return self.find.measured or self.answers(self.find)

    @property
    def exchangeable(self) -> bool:
        """Whether one model can run on from the other's activations, and directions of the two have a difference."""
        return self.observer.comparable

    def answers(self, side: Side, seed: int = 0) -> AnswerMeasurement:
        """The metric of answers, with other random numbers for another seed."""
        assert self._scorer is not None
        settings = self.behavior.metric
        assert hasattr(settings, "sampling")
        return AnswerMeasurement(
            self.pair,
            self.observer,
            self._scorer,
            "share of answers" if isinstance(settings, Pattern) or settings.kind == "judge" else "score",
            side.prompts,
            self._policy,
            settings.sampling,  # pyright: ignore[reportAttributeAccessIssue]
            self.behavior.seed + seed,
        )

    def repeated(self) -> Float64[np.ndarray, " prompt"] | None:
        """The reference's metric with other random numbers; None where it does not depend on any."""
        sampling = getattr(self.behavior.metric, "sampling", None)
        if sampling is None or sampling.temperature == 0:
            return None
        return self.answers(self.claim, seed=1).values(unchanged(REFERENCE))

    def _side(self, chosen: Bool[np.ndarray, " prompt"]) -> Side:
        prompts = tuple(prompt for prompt, own in zip(self.prompts, chosen, strict=True) if own)
        rows = _plain_rows(prompts) if self.metric is None else self.metric.rows(prompts)
        reading = Reading(self.pair, self.observer if self.exchangeable else None, rows, self._policy)
        return Side(prompts, reading, None if self.metric is None else LogitMeasurement(reading, self.metric))


def _plain_rows(prompts: Sequence[Prompt]) -> list[Row]:
    return [Row(i, prompt.token_ids, len(prompt.token_ids)) for i, prompt in enumerate(prompts)]
