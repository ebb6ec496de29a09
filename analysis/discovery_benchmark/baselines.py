"""Searches without hypotheses, triggers or tests, for comparison: each proposes what stands out most in the same answers.

A proposal is a set of prompts, whose answers of the intervened model a person would read. There are always some, whether anything changed
or not.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from crosscoder.language_models.pair import ModelPair

from ..behaviors.logit_metrics import before_continuation
from ..behaviors.patching import INTERVENED, REFERENCE
from ..discovery.answer_features import AnswerFeature
from ..discovery.answer_table import AnswerTable
from ..discovery.search import Asked
from ..discovery.subjects import Subject, answer_batches

N_PROPOSALS = 3

_LONGEST = 3
"""Most words of an n-gram."""

_PRIOR = 0.1
"""Weight of the prior: that share of the n-grams of both models' answers."""

_BATCH_TOKENS = 1024
"""Fewer than usual: both models' distributions over the vocabulary are held at every token of an answer."""


class FirstRound(NamedTuple):
    """What a baseline reads: the prompts that were chosen before any answer, with both models' answers."""

    asked: Asked
    table: AnswerTable
    models: tuple[Subject, Subject]


Proposal = list[int]
"""Prompts, the most conspicuous first."""


def ngrams(first: FirstRound) -> list[Proposal]:
    """Return the prompts of the n-grams that are most over-represented in the intervened model's answers.

    Log-odds with an informative Dirichlet prior, in units of their standard error (Monroe, Colaresi and Quinn 2008, equations 16 and 22).
    """
    counts = [
        Counter(
            one
            for features in side
            for one in features
            if one.kind == "phrase" and one.n_words <= _LONGEST and one.has_words
        )
        for side in first.table.features
    ]
    scores = _log_odds(counts[INTERVENED], counts[REFERENCE])
    chosen: list[AnswerFeature] = []
    for feature in sorted(scores, key=lambda one: (-scores[one], one)):
        if len(chosen) == N_PROPOSALS:
            break
        # Parts of one phrase say the same.
        if not any(one.text in feature.text or feature.text in one.text for one in chosen):
            chosen.append(feature)
    return [np.flatnonzero(first.table.changed(feature, "gained")).tolist() for feature in chosen]


def perplexity(first: FirstRound) -> list[Proposal]:
    """Return the prompts whose answers by the intervened model the reference finds least likely in comparison, per token."""
    prompts, answers = [probe.prompt for probe in first.asked.probes], first.asked.intervened
    intervened = np.array([answer.log_probability for answer in answers])
    return _largest(intervened - first.models[REFERENCE].log_probability(prompts, answers))


def divergence(first: FirstRound) -> list[Proposal]:
    """Return the prompts with the largest KL(intervened ‖ reference) of the next token, on average over the reference's own answer."""
    return _largest(_mean_divergence(first.asked, first.models[0].pair))


Baseline = Callable[[FirstRound], list[Proposal]]

BASELINES: dict[str, Baseline] = {"n-grams": ngrams, "perplexity": perplexity, "KL": divergence}


def _log_odds(more: Counter[AnswerFeature], less: Counter[AnswerFeature]) -> dict[AnswerFeature, float]:
    total = more + less
    n_more, n_less, n = more.total(), less.total(), total.total()
    scores = {}
    for feature, count in total.items():
        prior = _PRIOR * count
        a, b = more[feature] + prior, less[feature] + prior
        odds = np.log(a / (n_more + _PRIOR * n - a)) - np.log(b / (n_less + _PRIOR * n - b))
        scores[feature] = float(odds / np.sqrt(1 / a + 1 / b))
    return scores


def _largest(values: Float64[np.ndarray, " prompt"]) -> list[Proposal]:
    return [[int(i)] for i in np.argsort(-values, kind="stable")[:N_PROPOSALS]]


@torch.no_grad()
def _mean_divergence(asked: Asked, pair: ModelPair) -> Float64[np.ndarray, " prompt"]:
    prompts = [probe.prompt for probe in asked.probes]
    found = np.zeros(len(asked.probes))
    for batch in answer_batches(pair, prompts, asked.reference, _BATCH_TOKENS):
        at = before_continuation(batch)
        before, after = (
            pair.logits(batch.token_ids, batch.attention, None, model, at).float().log_softmax(dim=1)
            for model in (REFERENCE, INTERVENED)
        )
        divergences = (after.exp() * (after - before)).sum(dim=1).cpu().double().numpy()
        row = at.nonzero(as_tuple=True)[0].numpy()
        counts = np.bincount(row, minlength=len(batch.prompts))
        found[batch.prompts] = np.bincount(row, divergences, len(batch.prompts)) / counts
    return found


def hits(proposals: Sequence[Proposal], shown: Sequence[bool]) -> list[bool]:
    """Return whether each proposal shows the behavior: at least half of its answers do.

    Args:
        shown: Whether the intervened model's answer to each prompt shows it.
    """
    return [bool(one) and sum(shown[i] for i in one) >= len(one) / 2 for one in proposals]
