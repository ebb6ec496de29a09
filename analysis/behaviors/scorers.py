"""Scorers of generated answers: a pattern, a user function, or the verdict of another model."""

import importlib.util
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

from tqdm.auto import tqdm

from crosscoder.config.behavior import EndpointJudge, Judged, Pattern, UserFunction
from crosscoder.errors import ConfigError, DataError, ResourceError, did_you_mean
from crosscoder.runtime.expressions import Expression

from ..judges.chat_models import Question, open_model, verdict_of
from ..judges.reply_cache import ReplyCache

logger = logging.getLogger(__name__)

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]
"""Maps prompts and as many answers to one score per answer."""

Settled = Callable[[str], bool]
"""Whether the score of an answer that begins so is 0, however it goes on."""

_UNCLEAR_SHARE = 0.05
"""Maximum share of a judge's replies that are neither yes nor no; they count as no."""


def build_scorer(settings: Pattern | UserFunction | Judged, cache: Path) -> Scorer:
    """Return the scorer for these settings.

    Args:
        cache: File of a judge's cached replies.

    Raises:
        ConfigError: The function or the judge is not available.
    """
    match settings:
        case Pattern():
            expression = _expression(settings)
            return lambda _, answers: [float(span is not None) for span in expression.find_each(answers)]
        case UserFunction():
            return _UserScorer(settings)
        case Judged():
            return _Judge(settings, cache)
        case _:
            assert_never(settings)


def settled_by(settings: Pattern | UserFunction | Judged) -> Settled | None:
    """Return what tells early that an answer scores 0: a pattern does, as one for how answers begin is decided by their first words. None for
    scorers that need whole answers."""
    return _expression(settings).excludes if isinstance(settings, Pattern) else None


def _expression(settings: Pattern) -> Expression:
    return Expression(settings.pattern, "metric.pattern", ignore_case=settings.ignore_case)


class _UserScorer:
    """A function in a user's Python file."""

    def __init__(self, settings: UserFunction) -> None:
        file, name = settings.file.expanduser(), settings.function
        self._lower, self._upper = settings.bounds or (-math.inf, math.inf)
        if not file.is_file() or file.suffix != ".py":
            raise ConfigError(f"metric.file: {str(file)!r} is not a Python file; give the path of one")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None  # its name ends in .py
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._function, self._name = getattr(module, name, None), name
        if not callable(self._function):
            known = [key for key, value in vars(module).items() if callable(value)]
            raise ConfigError(f"metric.function: {file} has no function {name!r}{did_you_mean(name, known)}")

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        assert callable(self._function)
        returned: Any = self._function(list(prompts), list(answers))
        values = [float(value) for value in returned]
        if len(values) != len(answers) or not all(map(math.isfinite, values)):
            raise DataError(
                f"metric.function: {self._name!r} returned {len(values)} numbers for {len(answers)} answers, or one that is not "
                "finite; it must return one finite number per answer"
            )
        outside = [value for value in values if not self._lower <= value <= self._upper]
        if outside:
            raise DataError(
                f"metric.bounds: {self._name!r} returned {outside[0]:g}, outside of {self._lower:g} to {self._upper:g}; give the lowest and the "
                "highest value that it can return"
            )
        return values


class _Judge:
    """A chat model that answers yes or no."""

    def __init__(self, settings: Judged, cache: Path) -> None:
        self._settings, self._cache = settings, ReplyCache(cache)
        self._asked = 0
        self._model = open_model(settings.judge, "metric.judge")

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        values = {"{prompt}": prompts, "{answer}": answers}
        questions = [
            Question(
                re.sub(
                    r"\{prompt\}|\{answer\}",
                    lambda match, i=i: values[match.group()][i],
                    self._settings.question,
                )
            )
            for i in range(len(answers))
        ]
        replies = self._replies(questions)
        unclear = [reply for reply in replies if verdict_of(reply) is None]
        if len(unclear) > _UNCLEAR_SHARE * len(replies):
            raise DataError(
                f"metric.judge: {len(unclear)} of {len(replies)} replies are neither yes nor no, e.g. {unclear[0][:60]!r}; "
                "ask for yes or no in the question, or use another judge"
            )
        if unclear:
            logger.warning(
                "%d of %d replies of the judge are neither yes nor no; they count as no",
                len(unclear),
                len(replies),
            )
        return [float(verdict_of(reply) or False) for reply in replies]

    def _replies(self, questions: Sequence[Question]) -> list[str]:
        new = self._cache.unknown(self._model, questions)
        judge = self._settings.judge
        if isinstance(judge, EndpointJudge) and new:
            if self._asked + len(new) > judge.max_requests:
                raise ResourceError(
                    f"metric.judge.max_requests: {self._asked + len(new)} questions are needed so far, but the limit is "
                    f"{judge.max_requests}; raise it, or give fewer prompts"
                )
            logger.info("judge: sending %d prompts with their answers to %s", len(new), judge.url)
        for question in tqdm(new, desc="judge", leave=False):
            self._cache.ask(self._model, question)
        self._asked += len(new)
        return [self._cache.ask(self._model, question).text for question in questions]
