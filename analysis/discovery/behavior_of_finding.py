"""A finding as a behavior: a file that `crosscoder attribute` reads, and that a person can edit."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from crosscoder.config.yaml_1_2 import write_yaml
from crosscoder.runtime.files import write_atomic

from .answer_features import Answer, AnswerFeature
from .answer_table import sides
from .findings_file import Finding
from .held_out_tests import HypothesisTest
from .search import Asked, SearchResult
from .subjects import Subject

_MOST_PROMPTS = 60
_LONGEST = 16
"""Most words of a continuation that latents are found with."""
_COMMON = 0.25
"""Share of the changed answers that have to begin alike."""

_AFTER_OPENING = 2
"""Tokens after an opening, so that its last word ends, and another spelling fits."""

_CHECKS = {"draws": 59, "latent_draws": 219, "answer_draws": 39}
"""The fewest random sets that can show ten latents to be causal, so that `run` takes minutes."""


def write_behavior(
    path: Path,
    finding: Finding,
    tested: HypothesisTest,
    result: SearchResult,
    models: tuple[Subject, Subject],
) -> None:
    """Write the YAML file of a finding."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = write_yaml(_behavior(finding, tested, result, models))
    write_atomic(path, f"# Found by crosscoder discover; edit it freely.\n{text}")


def _behavior(
    finding: Finding, tested: HypothesisTest, result: SearchResult, models: tuple[Subject, Subject]
) -> dict[str, Any]:
    asked = result.asked
    return {
        "name": finding.name,
        "description": _description(finding),
        "prompts": _prompts(tested, result),
        "metric": {
            "kind": "pattern",
            "pattern": finding.effect.pattern,
            "sampling": {"max_new_tokens": _answer_tokens(tested.hypothesis.effect, asked, models)},
        },
        "find_with": _find_with(tested, asked),
        "checks": dict(_CHECKS),
    }


def _description(finding: Finding) -> str:
    verb = {"opening": "Begins its answer with", "ending": "Ends its answer with"}.get(
        finding.effect.kind, "Says"
    )
    return f"{verb} “{finding.effect.text}”."


def _prompts(tested: HypothesisTest, result: SearchResult) -> list[Any]:
    """Return prompts to measure the behavior on: those on which the search saw it, then others that meet the trigger, those of the second round last.

    The rates of a finding come from prompts that nobody chose. Here the behavior has to show, so that what carries it can be measured.
    """
    asked, hypothesis = result.asked, tested.hypothesis
    changed = result.table.changed(hypothesis.effect, hypothesis.direction)
    holds = np.zeros(len(asked.probes), dtype=bool)
    holds[~asked.in_find] = tested.holds
    order = sorted(
        np.flatnonzero(changed | holds).tolist(),
        key=lambda i: (not changed[i], asked.probes[i].near is not None, i),
    )
    texts = [asked.probes[i].text for i in order[:_MOST_PROMPTS]]
    return [
        text.content if text.messages is None else [dict(message) for message in text.messages]
        for text in texts
    ]


def _answer_tokens(effect: AnswerFeature, asked: Asked, models: tuple[Subject, Subject]) -> int:
    """Return the number of tokens after which the effect is in an answer: as many as the search sampled, or, for an opening, as many as it took
    in the answers that begin with it."""
    answers = asked.half(find=False)
    sampled = max(len(answer.token_ids) for side in answers for answer in side) or 1
    if effect.kind != "opening" or effect.pattern is None:
        return sampled
    expression = re.compile(effect.pattern, re.IGNORECASE)
    needed = [
        _tokens_until(expression, answer, model)
        for side, model in zip(answers, models, strict=True)
        for answer in side
        if answer.token_ids and expression.search(answer.text)
    ]
    return min(sampled, max(needed, default=sampled) + _AFTER_OPENING)


def _tokens_until(expression: re.Pattern[str], answer: Answer, model: Subject) -> int:
    """Return the number of first tokens of an answer in which an expression is found."""
    lengths = range(1, len(answer.token_ids))
    shown = (n for n in lengths if expression.search(model.text_of(answer.token_ids[:n])))
    return next(shown, len(answer.token_ids))


def _find_with(tested: HypothesisTest, asked: Asked) -> dict[str, Any]:
    """Return a metric with a gradient: the most frequent beginning of the changed answers, up to the effect, against what it replaced; the
    divergence of the first token if the answers begin in too many ways."""
    more, less = sides(tested.hypothesis.direction)
    answers = asked.half(find=False)
    changed = np.flatnonzero(tested.changed & tested.holds).tolist()
    pattern = tested.hypothesis.effect.pattern
    assert pattern is not None  # a finding without one has no behavior
    matches = [
        (answers[more][i].text, re.search(pattern, answers[more][i].text, re.IGNORECASE)) for i in changed
    ]
    new = _frequent([text[: match.end()] for text, match in matches if match is not None])
    if new is None or len(new.split()) > _LONGEST:
        return {"kind": "divergence"}
    n_words = len(new.split())
    old = _frequent([" ".join(answers[less][i].text.split()[:n_words]) for i in changed])
    against = {"against": [old]} if old and old != new else {}
    return {"kind": "continuation", "texts": [new], **against}


def _frequent(texts: list[str]) -> str | None:
    """Return the most frequent of some texts; None if it is too rare."""
    counts = Counter(text.strip() for text in texts if text.strip()).most_common(1)
    return counts[0][0] if counts and counts[0][1] >= _COMMON * len(texts) else None
