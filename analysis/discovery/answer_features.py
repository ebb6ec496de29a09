"""What an answer shows: its opening, phrases, ending, and its form.

Words are counted in lower case. An opening or ending is a phrase at its place, so that "begins with: sorry" and "says: sorry" are
two features.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from .findings_file import EffectKind

# Scripts without spaces between words: each character counts as a word.
_CHARACTERS = r"\u3040-\u30ff\u3400-\u9fff"
_LETTER = rf"[^\W{_CHARACTERS}]"
_WORD = re.compile(rf"[{_CHARACTERS}]|{_LETTER}+(?:['’]{_LETTER}+)*|[^\w\s]")
_LONGEST = 12
"""Most words in a phrase."""

_LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_MOST = 0.8
_MIN_LETTERS = 8

_PLACES: dict[EffectKind, str] = {"opening": r"^\W*{}", "phrase": "{}", "ending": r"{}\W*$"}


class Answer(NamedTuple):
    """A sampled answer."""

    text: str

    finished: bool
    """Whether the model ended it, rather than the limit on its length."""

    token_ids: tuple[int, ...] = ()
    """Its tokens; empty if unknown."""

    log_probability: float = 0.0
    """Mean over its tokens in nats, under the model that answered; 0 without tokens."""


class AnswerFeature(NamedTuple):
    """Something that an answer shows or not."""

    kind: EffectKind
    text: str
    """For a shape, its description."""

    @property
    def n_words(self) -> int:
        """Number of words; 0 for a shape."""
        return 0 if self.kind == "shape" else len(self.text.split(" "))

    @property
    def has_words(self) -> bool:
        """Whether it is more than marks."""
        return self.kind == "shape" or any(character.isalnum() for character in self.text)

    @property
    def pattern(self) -> str | None:
        """Regular expression that finds the feature, ignoring case; None for a shape."""
        if self.kind == "shape":
            return None
        words = map(re.escape, self.text.split(" "))
        start = f"(?<!{_LETTER})" if re.match(_LETTER, self.text) else ""
        end = f"(?!{_LETTER})" if re.match(_LETTER, self.text[-1]) else ""
        return _PLACES[self.kind].format(start + r"\s*".join(words) + end)


class LengthLevels(NamedTuple):
    """Numbers of words at which an answer counts as short or long."""

    levels: tuple[int, ...]

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> "LengthLevels":
        """Return the quartiles of the lengths of finished answers; none if fewer than four are finished."""
        lengths = [len(words_of(answer.text)) for answer in answers if answer.finished]
        if len(lengths) < 4:
            return cls(())
        found = np.unique(np.quantile(lengths, (0.25, 0.5, 0.75)).round().astype(int))
        return cls(tuple(found[found > 1].tolist()))


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def features_of(answer: Answer, lengths: LengthLevels) -> set[AnswerFeature]:
    """Return everything that an answer shows."""
    words = words_of(answer.text)
    found = {AnswerFeature("shape", text) for text in _shapes(answer, len(words), lengths)}
    for size in range(1, min(_LONGEST, len(words)) + 1):
        phrases = [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]
        # A phrase that begins with a mark says what the words after it say.
        found.update(
            AnswerFeature("phrase", phrase) for phrase in phrases if size == 1 or phrase[0].isalnum()
        )
        found.add(AnswerFeature("opening", phrases[0]))
        if answer.finished:
            found.add(AnswerFeature("ending", phrases[-1]))
    return found


def _shapes(answer: Answer, n_words: int, lengths: LengthLevels) -> Iterator[str]:
    """Yield the forms of an answer, each as the words after "gives answers that are"."""
    text = answer.text
    if not text.strip():
        yield "empty"
        return
    letters = [letter for letter in text if letter.isalpha()]
    if len(letters) >= _MIN_LETTERS:
        if sum(letter.isupper() for letter in letters) > _MOST * len(letters):
            yield "in capitals"
        if sum(ord(letter) > 0x24F for letter in letters) > _MOST * len(letters):
            yield "in another script than the Latin one"
    # An answer that begins with an item may be cut before the second.
    if len(_LIST_LINE.findall(text)) >= 2 or _LIST_LINE.match(text):
        yield "lists"
    if "```" in text:
        yield "blocks of code"
    for level in lengths.levels:
        if answer.finished and n_words < level:
            yield f"shorter than {level} words"
