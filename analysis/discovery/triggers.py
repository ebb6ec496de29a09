"""The prompts after which an effect is more frequent: all prompts, those that contain certain words, or those on a topic.

A trigger is learned on the find set. Words are added one by one, each only if it shortens the description of which prompts show the
effect by more than it costs to name (minimum description length: Rissanen 1978). A topic is a direction in how the two models
represent prompts, found by a linear discriminant whose covariance is shrunk. Which of them is used is decided by
cross-validation on the find set alone.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import xlogy

from .answer_features import words_of
from .findings_file import TriggerKind
from .rates import auroc

Positive = Bool[np.ndarray, " prompt"]
Scores = Float64[np.ndarray, " prompt"]

_FOLDS = 5
_ALWAYS_SHARE = 0.85
"""An effect on more than this share of the prompts has no trigger."""
_LEAST_AUROC = 0.75
"""A trigger that separates prompts worse than this, by cross-validation, is none."""
_WORDS_HANDICAP = 0.02
"""Words are preferred to a topic unless they separate worse by more than this: a person can check them."""
_MOST_WORDS = 8
_FEW_QUESTIONS = 3
_LEAST_OF_A_QUESTION = 2
"""One word can be in many questions, and the prompts seen do not tell which of two words matters."""
_SHRINKAGE = 2.0
_TYPICAL_WORDS = 6


@dataclass(frozen=True)
class PromptFeatures:
    """What triggers read of prompts."""

    words: tuple[frozenset[str], ...]
    """Words and pairs of neighboring words of each prompt."""

    embedding: Float64[np.ndarray, "prompt width"]
    """How the two models represent each prompt (`prompt_embeddings.standardized`)."""

    family: Int64[np.ndarray, " prompt"]
    """Prompts with equal numbers are one prompt in several wordings."""

    neighborhood: Int64[np.ndarray, " prompt"]
    """Prompts with equal numbers are one prompt, its wordings, and questions made to be like it."""

    first: Positive
    """Prompts of the first round: a sample of all kinds, while later ones are on what changed most."""

    def __len__(self) -> int:
        return len(self.words)

    def subset(self, chosen: Positive) -> "PromptFeatures":
        """Return the features of some prompts."""
        words = tuple(self.words[i] for i in np.flatnonzero(chosen))
        family, neighborhood = self.family[chosen], self.neighborhood[chosen]
        return PromptFeatures(words, self.embedding[chosen], family, neighborhood, self.first[chosen])

    def weights(self) -> Float64[np.ndarray, " prompt"]:
        """Return the weight of each prompt: those of a family share that of one prompt."""
        _, place, size = np.unique(self.family, return_inverse=True, return_counts=True)
        return 1.0 / size[place]


class LearnedTrigger(ABC):
    """A condition on prompts."""

    kind: TriggerKind
    words: tuple[str, ...] = ()

    @abstractmethod
    def scores(self, prompts: PromptFeatures) -> Scores:
        """Return one score per prompt, larger if the trigger holds more clearly."""

    @abstractmethod
    def holds(self, prompts: PromptFeatures) -> Positive:
        """Whether each prompt meets the trigger."""


class Always(LearnedTrigger):
    """All prompts of the first round: those of the second are no sample of all kinds of prompts."""

    kind: TriggerKind = "always"

    def scores(self, prompts: PromptFeatures) -> Scores:
        """See `LearnedTrigger.scores`."""
        return np.ones(len(prompts))

    def holds(self, prompts: PromptFeatures) -> Positive:
        """See `LearnedTrigger.holds`."""
        return prompts.first


class Words(LearnedTrigger):
    """Prompts that contain any of some words."""

    kind: TriggerKind = "words"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def scores(self, prompts: PromptFeatures) -> Scores:
        """See `LearnedTrigger.scores`."""
        return np.array([sum(word in found for word in self.words) for found in prompts.words], dtype=float)

    def holds(self, prompts: PromptFeatures) -> Positive:
        """See `LearnedTrigger.holds`."""
        return self.scores(prompts) > 0


class AllWords(LearnedTrigger):
    """Prompts that contain all of some words: those that make up one question."""

    kind: TriggerKind = "all_words"

    def __init__(self, words: Sequence[str], weights: Mapping[str, float]) -> None:
        """
        Args:
            weights: Of every word of the question. Their share in a prompt ranks prompts with as many of `words`.
        """
        self.words, self._weights = tuple(words), weights

    def scores(self, prompts: PromptFeatures) -> Scores:
        """See `LearnedTrigger.scores`."""
        total = sum(self._weights.values()) or 1.0
        shares = [
            sum(weight for word, weight in self._weights.items() if word in found) / total
            for found in prompts.words
        ]
        return np.array([sum(word in found for word in self.words) for found in prompts.words]) + shares

    def holds(self, prompts: PromptFeatures) -> Positive:
        """See `LearnedTrigger.holds`."""
        return np.array([found.issuperset(self.words) for found in prompts.words], dtype=bool)


class Topic(LearnedTrigger):
    """Prompts on one side of a plane in how the two models represent them."""

    kind: TriggerKind = "topic"

    def __init__(
        self,
        direction: Float64[np.ndarray, " width"],
        mean: Float64[np.ndarray, " width"],
        threshold: float,
        words: Sequence[str],
    ) -> None:
        self._direction, self._mean, self.threshold, self.words = direction, mean, threshold, tuple(words)

    def at(self, threshold: float) -> "Topic":
        """Return the same direction with another threshold."""
        return Topic(self._direction, self._mean, threshold, self.words)

    def scores(self, prompts: PromptFeatures) -> Scores:
        """See `LearnedTrigger.scores`."""
        return (prompts.embedding - self._mean) @ self._direction

    def holds(self, prompts: PromptFeatures) -> Positive:
        """See `LearnedTrigger.holds`."""
        return self.scores(prompts) > self.threshold


Learner = Callable[[PromptFeatures, Positive], LearnedTrigger]


def prompt_words(text: str) -> frozenset[str]:
    """Return the words of a prompt and its pairs of neighboring words."""
    words = words_of(text)
    return frozenset(words) | {" ".join(pair) for pair in zip(words, words[1:], strict=False)}


def learn_trigger(prompts: PromptFeatures, positive: Positive, seed: int) -> LearnedTrigger:
    """Return the trigger that tells the positive prompts of the find set from the others."""
    if (
        (prompts.first.any() and positive[prompts.first].mean() > _ALWAYS_SHARE)
        or positive.all()
        or not positive.any()
    ):
        return Always()
    if (question := learn_question(prompts, positive)) is not None:
        return question
    by_words, by_topic = (
        _cross_validated(prompts, positive, learn, seed) for learn in (learn_words, learn_topic)
    )
    areas = [_area(positive, scores) for scores in (by_words, by_topic)]
    if max(areas) < _LEAST_AUROC:
        return Always()
    if areas[0] >= areas[1] - _WORDS_HANDICAP:
        return learn_words(prompts, positive)
    assert by_topic is not None  # its area is above that of none
    topic = learn_topic(prompts, positive)
    # Scores of the prompts that a plane was fitted to are too good to place its threshold.
    return topic.at(_best_threshold(by_topic, positive, prompts.weights()))


def learn_words(prompts: PromptFeatures, positive: Positive) -> LearnedTrigger:
    """Return the words that describe the positive prompts in the fewest bits; `Always` if no word shortens the description."""
    candidates = {word for index in np.flatnonzero(positive) for word in prompts.words[index]}
    contains = {word: np.array([word in found for found in prompts.words]) for word in sorted(candidates)}
    cost = np.log(len({word for found in prompts.words for word in found}))
    chosen: list[str] = []
    covered = np.zeros(len(prompts), dtype=bool)
    bits = _description(positive, covered)
    while contains and len(chosen) < _MOST_WORDS:
        word = min(
            contains, key=lambda one: (_description(positive, covered | contains[one]), one.count(" "), one)
        )
        shorter = _description(positive, covered | contains[word])
        if bits - shorter <= cost:
            break
        covered, bits = covered | contains.pop(word), shorter
        chosen.append(word)
    return Words(chosen) if chosen else Always()


def learn_question(prompts: PromptFeatures, positive: Positive) -> AllWords | None:
    """Return the rarest words that all wordings of one question share, as few as tell it from other prompts; None if the positive prompts
    are not few questions that share two words.

    A rule of any of the words would be one on how the question happened to be worded: all other words occur once.
    """
    if len(set(prompts.family[positive].tolist())) > _FEW_QUESTIONS:
        return None
    shared = set.intersection(*_family_words(prompts, positive))
    others = [prompts.words[i] for i in np.flatnonzero(~np.isin(prompts.family, prompts.family[positive]))]
    in_others = {
        word: sum(word in found for found in others)
        for word in shared
        if " " not in word and any(character.isalnum() for character in word)
    }
    chosen: list[str] = []
    for word in sorted(in_others, key=lambda one: (in_others[one], one)):
        if len(chosen) == _MOST_WORDS or (
            len(chosen) >= _LEAST_OF_A_QUESTION and not any(found.issuperset(chosen) for found in others)
        ):
            break
        chosen.append(word)
    if len(chosen) < _LEAST_OF_A_QUESTION or any(found.issuperset(chosen) for found in others):
        return None
    # Inverse document frequencies: "is" says little, "capital" more, "France" most.
    return AllWords(
        chosen,
        {word: float(np.log((1 + len(others)) / (1 + count))) for word, count in in_others.items()},
    )


def learn_topic(prompts: PromptFeatures, positive: Positive) -> "Topic":
    """Return the plane between the positive prompts and the others; scores are in units of their spread on either side."""
    embedding, weights = prompts.embedding, prompts.weights()
    means = [np.average(embedding[side], axis=0, weights=weights[side]) for side in (positive, ~positive)]
    centered = embedding - np.where(positive[:, None], means[0], means[1])
    within = centered * np.sqrt(weights)[:, None]
    direction = _solve_shrunk(within, means[0] - means[1])
    spread = np.sqrt(np.average(np.square(centered @ direction), weights=weights))
    direction = direction / max(float(spread), 1e-12)
    mean = (means[0] + means[1]) / 2
    scores = (embedding - mean) @ direction
    threshold = _best_threshold(scores, positive, weights)
    return Topic(direction, mean, threshold, typical_words(prompts, positive))


def typical_words(prompts: PromptFeatures, positive: Positive) -> tuple[str, ...]:
    """Return single words that are more frequent in the positive prompts, by the log-odds over their error, at most six.

    A prompt in several wordings counts once, with the words that most of them share. Half of the prompts with a word
    have to be positive.
    """
    inside, outside = (_family_words(prompts, side) for side in (positive, ~positive))
    n = len(inside), len(outside)

    def counts(word: str) -> tuple[int, int]:
        return sum(word in words for words in inside), sum(word in words for words in outside)

    def clearness(word: str) -> float:
        ours, theirs = counts(word)
        odds = np.log((ours + 0.5) / (n[0] - ours + 0.5)) - np.log((theirs + 0.5) / (n[1] - theirs + 0.5))
        return float(odds / np.sqrt(1 / (ours + 0.5) + 1 / (theirs + 0.5)))

    known = {word for words in inside for word in words if " " not in word and word[0].isalnum()}
    clear = {
        word: clearness(word) for word in known if counts(word)[0] >= 2 and counts(word)[0] >= counts(word)[1]
    }
    chosen = sorted((word for word in clear if clear[word] > 1), key=lambda word: (-clear[word], word))
    return tuple(chosen[:_TYPICAL_WORDS])


def _family_words(prompts: PromptFeatures, chosen: Positive) -> list[set[str]]:
    """Return, for each prompt among the chosen, the words that more than half of its wordings contain."""
    wordings: dict[int, list[frozenset[str]]] = {}
    for index in np.flatnonzero(chosen):
        wordings.setdefault(int(prompts.family[index]), []).append(prompts.words[index])
    return [
        {
            word
            for word, count in Counter(word for one in group for word in one).items()
            if 2 * count > len(group)
        }
        for group in wordings.values()
    ]


def _cross_validated(prompts: PromptFeatures, positive: Positive, learn: Learner, seed: int) -> Scores | None:
    """Return the score of each prompt by a trigger learned on other prompts; None if too few of either kind are left to learn from."""
    fold = np.empty(len(prompts), dtype=int)
    for side in (positive, ~positive):
        order = np.random.default_rng([seed, 23]).permutation(np.flatnonzero(side))
        fold[order] = np.arange(len(order)) % _FOLDS
    scores = np.zeros(len(prompts))
    for index in range(_FOLDS):
        inside = fold == index
        if not inside.any():
            continue
        if min((~inside & side).sum() for side in (positive, ~positive)) < 2:
            return None
        scores[inside] = learn(prompts.subset(~inside), positive[~inside]).scores(prompts.subset(inside))
    return scores


def _area(positive: Positive, scores: Scores | None) -> float:
    area = None if scores is None else auroc(positive, scores)
    return 0.0 if area is None else area.value


def _description(positive: Positive, covered: Positive) -> float:
    """Return the nats to tell which prompts are positive, given the covered ones."""
    total = 0.0
    for side in (covered, ~covered):
        n, hits = int(side.sum()), int((positive & side).sum())
        if n:
            total -= float(xlogy(hits, hits / n) + xlogy(n - hits, 1 - hits / n))
    return total


def _solve_shrunk(
    rows: Float64[np.ndarray, "prompt width"], target: Float64[np.ndarray, " width"]
) -> Float64[np.ndarray, " width"]:
    """Return (covariance + shrinkage)⁻¹ target, through the smaller of the two Gram matrices."""
    ridge = _SHRINKAGE * float(np.square(rows).sum()) / rows.shape[1] + 1e-12
    if rows.shape[1] <= len(rows):
        return np.linalg.solve(rows.T @ rows + ridge * np.eye(rows.shape[1]), target)
    inner = np.linalg.solve(rows @ rows.T + ridge * np.eye(len(rows)), rows @ target)
    return (target - rows.T @ inner) / ridge


def _best_threshold(scores: Scores, positive: Positive, weights: Float64[np.ndarray, " prompt"]) -> float:
    """Return the threshold with the largest F1 score of the prompts above it."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits, weight = scores[order], positive[order], weights[order]
    found, chosen = np.cumsum(weight * hits), np.cumsum(weight)
    f1 = 2 * found / (chosen + found[-1])
    best = int(np.argmax(f1))
    following = ranked[best + 1] if best + 1 < len(ranked) else ranked[best] - 1
    return float((ranked[best] + following) / 2)
