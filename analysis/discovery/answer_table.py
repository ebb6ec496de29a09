"""The answers of both models to the same prompts, as features, and which of them were cut before an effect could show."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from .answer_features import Answer, AnswerFeature, LengthLevels, features_of, words_of

Direction = Literal["gained", "vanished"]
Prompts = Bool[np.ndarray, " prompt"]
"""Some of the prompts."""

_FEW_ANSWERS = 4
"""Answers that show an effect, below which nothing is said about its place."""
_MOST = 0.75
"""Share of the answers with an effect that the model ended itself, at least, if the effect comes at the end: the limit can also fall behind it."""
_STEADIER = 0.5
"""The spread of an effect's distance from the end of answers, at most, as a share of that from their start."""


class AnswerPair(NamedTuple):
    """Both models' answers to the same prompts."""

    reference: Sequence[Answer]
    intervened: Sequence[Answer]


class AnswerTable:
    """Which answers show which features, for both models on the same prompts. Model 0 is the reference."""

    def __init__(
        self, answers: AnswerPair, features: tuple[list[set[AnswerFeature]], list[set[AnswerFeature]]]
    ) -> None:
        self.answers, self.features, self.n_prompts = answers, features, len(features[0])

    @classmethod
    def of(cls, answers: AnswerPair, lengths: LengthLevels) -> "AnswerTable":
        """Return the features of both models' answers."""
        reference, intervened = ([features_of(answer, lengths) for answer in side] for side in answers)
        return cls(answers, (reference, intervened))

    def subset(self, chosen: Prompts) -> "AnswerTable":
        """Return the features of the answers to some prompts."""
        places = np.flatnonzero(chosen).tolist()
        answers = AnswerPair(*([side[i] for i in places] for side in self.answers))
        reference, intervened = ([side[i] for i in places] for side in self.features)
        return AnswerTable(answers, (reference, intervened))

    def shown(self, effect: AnswerFeature, model: int) -> Prompts:
        """Whether the answers of one model show the effect."""
        return np.array([effect in found for found in self.features[model]], dtype=bool)

    def changed(self, effect: AnswerFeature, direction: Direction) -> Prompts:
        """The prompts on which the effect appears (gained) or vanishes, from the reference's answer to the intervened model's."""
        more, less = sides(direction)
        return self.shown(effect, more) & ~self.shown(effect, less)

    def cut(self, effect: AnswerFeature, direction: Direction) -> Prompts:
        """The prompts whose answer, by the model that shows the effect more often, reached the limit on its length without the effect.

        Where an effect comes at the end of answers, nobody knows whether these would have shown it.
        """
        more, _ = sides(direction)
        return ~self.shown(effect, more) & ~self._finished(more)

    def comes_at_the_end(self, effect: AnswerFeature, direction: Direction) -> bool:
        """Whether the words of an effect stand at the end of answers rather than at a place counted from their start: the distance from the
        end varies far less, over answers that the model ended itself, as most that show it are."""
        more, _ = sides(direction)
        shown, finished = self.shown(effect, more), self._finished(more)
        if effect.kind in ("shape", "opening") or finished.all() or shown.sum() < _FEW_ANSWERS:
            return False
        if finished[shown].mean() < _MOST:
            return False
        from_start, from_end = map(np.array, zip(*self._places(effect, more, shown), strict=True))
        return bool(from_start.std() > 0 and from_end.std() <= _STEADIER * from_start.std())

    def _places(self, effect: AnswerFeature, model: int, shown: Prompts) -> list[tuple[int, int]]:
        """Return the words before and after the last place of an effect, in the finished answers that show it."""
        wanted = effect.text.split(" ")
        found: list[tuple[int, int]] = []
        for place in np.flatnonzero(shown & self._finished(model)).tolist():
            words = words_of(self.answers[model][place].text)
            starts = range(len(words) - len(wanted), -1, -1)
            start = next(one for one in starts if words[one : one + len(wanted)] == wanted)
            found.append((start, len(words) - len(wanted) - start))
        return found

    def _finished(self, model: int) -> Prompts:
        return np.array([answer.finished for answer in self.answers[model]], dtype=bool)


def sides(direction: Direction) -> tuple[int, int]:
    """Return the model that shows the effect more often, and the other; 0 is the reference."""
    return (1, 0) if direction == "gained" else (0, 1)
