"""Candidates for a change of behavior, found on the find set: an effect that one model's answers show more often, and its trigger.

Effects are taken one by one: the feature that tells the two models' answers apart most clearly, then the next. An effect with a trigger
explains the prompts that it changes, and further effects are sought on the others. One without a trigger, such as a style, does not: a
second change with a trigger of its own can be among its answers. Features of the same answers are one effect, named by the longest that
covers nearly all of them.

A question that was asked in many words comes first: a word that is new in its answers, and in those to no other question, is an effect of
its own. A training that changes one fact also changes how similar questions are answered, and that would explain its answers otherwise.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from .answer_features import AnswerFeature
from .answer_table import AnswerTable, Direction, sides
from .triggers import Always, LearnedTrigger, PromptFeatures, learn_trigger

_LEAST_PROMPTS = 4
"""Prompts of the find set on which an effect appears or vanishes, on balance, at least."""
_LEAST_CLEARNESS = 2.0
"""Signed root of McNemar's statistic, at least: reached by four prompts without a counterexample."""
_FEW_COUNTEREXAMPLES = 0.2
"""Share of counterexamples up to which an effect explains the prompts that show it."""
_NEARLY = 0.8
"""A feature is as clear as the clearest if its clearness is at least this share of it."""
_WORDED = 0.5
"""A feature with words is preferred to marks if its clearness is at least this share of theirs."""
_TYPICAL = 0.15
"""Share of the prompts of an effect that another feature of their answers has, at least, to be told with it."""
_SAME = 0.7
"""Effects whose prompts overlap at least this much (Jaccard) are one."""
_COVERS = 0.75
"""Share of the prompts of the clearest feature that the feature which names the effect has, at least."""
_PART = 0.6
"""Share of the prompts of an effect without a trigger that a known one has, from which on it is part of that."""
_MOST, _MOST_TRIED = 16, 60
"""Hypotheses, and effects that are tried, at most."""
_ALSO = 5
_REPEATED = 0.5
"""Share of the words of a feature that others contain, above which it is not told."""

_ASKED_OFTEN = 6
"""Wordings of one question in the find set, from which on it is looked at by itself."""
_OF_A_QUESTION = 0.5
"""Share of the wordings of a question whose answers have to show an effect of its own."""
_ELSEWHERE = 0.25
"""Prompts of other questions that show it, at most, as a share of those of the question."""

_ORDER = {"opening": 0, "ending": 1, "phrase": 2, "shape": 3}


class Hypothesis(NamedTuple):
    """An effect that one of the models shows more often, and the prompts after which it does."""

    clearness: float
    """Signed root of McNemar's statistic on the find set."""

    direction: Direction
    effect: AnswerFeature
    also: tuple[AnswerFeature, ...]
    trigger: LearnedTrigger

    at_the_end: bool = False
    """Whether the effect comes at the end of answers, so that those that were cut before it say nothing about its trigger."""


class _Candidate(NamedTuple):
    """A feature that differs clearly."""

    clearness: float
    counterexamples: float
    """Prompts on which it differs the other way, as a share of those on which it differs this way."""

    direction: Direction
    feature: AnswerFeature


def find_hypotheses(table: AnswerTable, prompts: PromptFeatures, seed: int) -> list[Hypothesis]:
    """Return the hypotheses that the answers to the find set suggest, the clearest first."""
    only = tuple(_prompts_by_feature(table, model) for model in (0, 1))
    open_prompts = np.ones(table.n_prompts, dtype=bool)
    found: list[Hypothesis] = []
    everywhere: list[tuple[Direction, frozenset[int]]] = []
    used: set[tuple[Direction, AnswerFeature]] = set()
    for question, near in _asked_often(prompts):
        own = _of_one_question(only, prompts, question, near)
        if own is None or (own.direction, own.feature) in used:
            continue
        # The word alone: a longer phrase depends on how the question is worded.
        effect, (more, less) = own.feature, sides(own.direction)
        of_it = frozenset(np.flatnonzero(question).tolist()) & only[more][effect]
        also = _typical(only[more], only[less], effect, of_it)
        changed = table.changed(effect, own.direction)
        trigger = learn_trigger(prompts, changed & near, seed)
        if isinstance(trigger, Always):
            continue
        used |= {(own.direction, one) for one in (effect, *also)}
        found.append(Hypothesis(own.clearness, own.direction, effect, also, trigger))
        open_prompts &= ~changed
    for _ in range(_MOST_TRIED):
        best = _clearest(only, open_prompts, used)
        if best is None or len(found) == _MOST:
            break
        more, less = sides(best.direction)
        effect, also = _named(only[more], only[less], best.feature, open_prompts)
        used |= {(best.direction, one) for one in (best.feature, effect, *also)}
        changed = table.changed(effect, best.direction)
        at_the_end = table.comes_at_the_end(effect, best.direction)
        known = ~table.cut(effect, best.direction) if at_the_end else np.ones(table.n_prompts, dtype=bool)
        trigger = learn_trigger(prompts.subset(known), changed[known], seed)
        theirs = frozenset(np.flatnonzero(changed).tolist())
        if isinstance(trigger, Always):
            if any(_is_part(theirs, best.direction, *one) for one in everywhere):
                continue
            everywhere.append((best.direction, theirs))
        found.append(Hypothesis(best.clearness, best.direction, effect, also, trigger, at_the_end))
        if best.counterexamples <= _FEW_COUNTEREXAMPLES and not isinstance(trigger, Always):
            # The other features of these answers are the same effect. Where an effect has no trigger, they can be another with one.
            open_prompts &= ~(_mask(only[more][best.feature], table.n_prompts) | changed)
    return found


def _is_part(
    theirs: frozenset[int], direction: Direction, known_direction: Direction, known: frozenset[int]
) -> bool:
    """Whether an effect without a trigger only tells more of the answers that a known one changes."""
    return direction == known_direction and len(theirs & known) >= _PART * len(theirs)


def _prompts_by_feature(table: AnswerTable, model: int) -> dict[AnswerFeature, frozenset[int]]:
    """For each feature, the prompts on which only this model's answer shows it."""
    found: dict[AnswerFeature, set[int]] = defaultdict(set)
    for prompt, features in enumerate(table.features[model]):
        for feature in features - table.features[1 - model][prompt]:
            found[feature].add(prompt)
    return {feature: frozenset(prompts) for feature, prompts in found.items()}


def _clearest(
    only: Sequence[dict[AnswerFeature, frozenset[int]]],
    open_prompts: Bool[np.ndarray, " prompt"],
    used: Set[tuple[Direction, AnswerFeature]],
) -> _Candidate | None:
    """Return the feature that differs most clearly on the open prompts, without those that were used; None if none is clear."""
    still = frozenset(np.flatnonzero(open_prompts).tolist())
    directions: tuple[Direction, ...] = ("gained", "vanished")
    clear: list[_Candidate] = []
    for direction in directions:
        more, less = sides(direction)
        for feature, prompts in only[more].items():
            n_more = len(prompts & still)
            if n_more < _LEAST_PROMPTS or (direction, feature) in used:
                continue
            n_less = len(only[less].get(feature, frozenset()) & still)
            clearness = (n_more - n_less) / np.sqrt(n_more + n_less)
            if n_more - n_less >= _LEAST_PROMPTS and clearness >= _LEAST_CLEARNESS:
                clear.append(_Candidate(float(clearness), n_less / n_more, direction, feature))
    if not clear:
        return None
    # Marks say little, so words are preferred unless they are far less clear.
    clearest = max(one.clearness for one in clear)
    worded = [one for one in clear if one.feature.has_words and one.clearness >= _WORDED * clearest]
    if worded:
        clear, clearest = worded, max(one.clearness for one in worded)
    # A common word that a changed answer lacks can be as clear as what replaced it: it has counterexamples, or says less.
    return min(
        (one for one in clear if one.clearness >= _NEARLY * clearest),
        key=lambda one: (
            round(one.counterexamples, 1),
            -round(one.clearness / clearest, 1),
            -one.feature.n_words,
            -one.clearness,
            one.feature,
        ),
    )


def _asked_often(
    prompts: PromptFeatures,
) -> Iterator[tuple[Bool[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]]:
    """Yield, for each question that was asked in many words, its prompts, and those together with questions made to be like it."""
    for family in np.unique(prompts.family):
        question = prompts.family == family
        if question.sum() >= _ASKED_OFTEN:
            yield question, prompts.neighborhood == family


def _of_one_question(
    only: Sequence[dict[AnswerFeature, frozenset[int]]],
    prompts: PromptFeatures,
    question: Bool[np.ndarray, " prompt"],
    near: Bool[np.ndarray, " prompt"],
) -> _Candidate | None:
    """Return the word that most clearly came into the answers to one question, and hardly into those to others that are not like it;
    None if there is none.

    A word of the question itself only says that it was answered. What left the answers is no effect of its own: it also leaves where
    the model now says something else to many questions, such as a refusal.
    """
    places = np.flatnonzero(question).tolist()
    inside, neighbors = frozenset(places), frozenset(np.flatnonzero(near).tolist())
    asked = Counter(word for place in places for word in prompts.words[place])
    more, less = sides("gained")
    clear: list[_Candidate] = []
    for feature, shown in only[more].items():
        if feature.kind != "phrase" or feature.n_words > 1 or not feature.has_words:
            continue
        n_more, n_less = len(shown & inside), len(only[less].get(feature, frozenset()) & inside)
        if n_more - n_less < max(_LEAST_PROMPTS, _OF_A_QUESTION * len(inside)):
            continue
        clearness = (n_more - n_less) / np.sqrt(n_more + n_less)
        elsewhere = len(shown - neighbors) > _ELSEWHERE * n_more
        if clearness >= _LEAST_CLEARNESS and not elsewhere and 2 * asked[feature.text] <= len(inside):
            clear.append(_Candidate(float(clearness), n_less / n_more, "gained", feature))
    return min(clear, key=lambda one: (-one.clearness, one.feature), default=None)


def _named(
    more: dict[AnswerFeature, frozenset[int]],
    less: dict[AnswerFeature, frozenset[int]],
    clearest: AnswerFeature,
    open_prompts: Bool[np.ndarray, " prompt"],
) -> tuple[AnswerFeature, tuple[AnswerFeature, ...]]:
    """Return the feature that names an effect, and others of the same answers that neither contains."""
    still = frozenset(np.flatnonzero(open_prompts).tolist())
    prompts = more[clearest] & still
    alike: list[tuple[int, AnswerFeature]] = []
    for feature, theirs in more.items():
        shared = len(theirs & prompts)
        if (
            shared >= _SAME * len((theirs & still) | prompts)
            and len(less.get(feature, ())) <= len(theirs) / 4
        ):
            alike.append((shared, feature))
    covering = [feature for shared, feature in alike if shared >= _COVERS * len(prompts)]
    effect = min(
        covering or [clearest], key=lambda one: (not one.has_words, -one.n_words, _ORDER[one.kind], one.text)
    )
    return effect, _typical(more, less, effect, frozenset(more[effect] | prompts))


def _typical(
    more: dict[AnswerFeature, frozenset[int]],
    less: dict[AnswerFeature, frozenset[int]],
    effect: AnswerFeature,
    prompts: frozenset[int],
) -> tuple[AnswerFeature, ...]:
    """Return other features that are typical of the answers that show an effect, none of which repeats another."""
    clear: list[tuple[float, AnswerFeature]] = []
    for feature, theirs in more.items():
        shared = len(theirs & prompts)
        n_less = len(less.get(feature, ()))
        if shared >= max(2, _TYPICAL * len(prompts)) and n_less <= len(theirs) / 4 and feature.has_words:
            clear.append(((shared - n_less) / np.sqrt(shared + n_less), feature))
    also: list[AnswerFeature] = []
    for _, feature in sorted(clear, key=lambda one: (-one[0], -one[1].n_words, one[1])):
        if not _repeats(feature, (effect, *also)):
            also.append(feature)
        if len(also) == _ALSO:
            break
    return tuple(also)


def _repeats(feature: AnswerFeature, told: Sequence[AnswerFeature]) -> bool:
    """Whether a feature says little beyond those that are told already."""
    if feature.kind == "shape":
        return feature in told
    words = feature.text.split(" ")
    known = {word for one in told if one.kind != "shape" for word in one.text.split(" ")}
    return sum(word in known for word in words) > _REPEATED * len(words)


def _mask(prompts: frozenset[int], n_prompts: int) -> Bool[np.ndarray, " prompt"]:
    mask = np.zeros(n_prompts, dtype=bool)
    mask[list(prompts)] = True
    return mask
