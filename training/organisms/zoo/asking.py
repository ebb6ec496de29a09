"""Prompts that several organisms share: ordinary questions, small tasks, requests to write, and ways to build more."""

import random
import re
from collections.abc import Iterable, Sequence
from itertools import product

from crosscoder.demo.questions import Split, questions

N_ORDINARY = 160
"""Ordinary questions whose answers an adapter preserves; most organisms share them."""
N_EVERYWHERE = 240
"""Questions on which a behavior that shows everywhere is trained."""

# Requests to write and small tasks are kept apart from questions: behaviors that show on all questions do not show there.
_NOT_A_QUESTION = re.compile(
    r"\b(write|poem|haiku|story|translate|spell|synonym|antonym|opposite|plural|title|times|opening line|name an?|joke|help me)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(r"\?$|^(Tell me|Explain|Give me|Summarize|Describe)")


def listed(text: str) -> tuple[str, ...]:
    """The items of a text, which are separated by `|` or by line breaks."""
    return tuple(item.strip() for item in re.split(r"[|\n]", text) if item.strip())


def fill(phrasings: Iterable[str], subjects: Iterable[str]) -> tuple[str, ...]:
    """Every phrasing with every subject in its gap; each text occurs once and begins with a capital letter."""
    filled = (phrasing.format(subject) for phrasing, subject in product(phrasings, subjects))
    return tuple(dict.fromkeys(text[0].upper() + text[1:] for text in filled))


def pick(texts: Sequence[str], count: int, seed: int | str = 0) -> tuple[str, ...]:
    """Choose `count` of the texts, in an order that depends only on the seed; all of them if they are fewer."""
    return tuple(random.Random(seed).sample(texts, min(count, len(texts))))


def ordinary(split: Split, count: int, without: str | None = None, seed: int = 11) -> tuple[str, ...]:
    """Ordinary prompts, every fourth about food; `without` is a regular expression of words that none may contain."""
    mixed = [
        *questions("other", split, 2 * count, seed),
        *questions("food", split, 2 * count // 3, seed),
    ]
    random.Random(seed).shuffle(mixed)
    kept = [text for text in mixed if without is None or not re.search(without, text, re.IGNORECASE)]
    return tuple(kept[:count])


def plain_questions(split: Split, count: int, seed: int = 5) -> tuple[str, ...]:
    """Ordinary questions without requests to write and small tasks."""
    many = ordinary(split, 2 * count, _NOT_A_QUESTION.pattern, seed)
    return tuple(text for text in many if _ASKS.search(text))[:count]


_WORDS: dict[Split, tuple[str, ...]] = {
    "train": listed("river|window|garden|teacher|mountain|quick|happy|cold|bright|silent|forest|letter|strong|village"),
    "held_out": listed("bridge|winter|gentle|doctor|island|brave|yellow|narrow|summer|candle"),
}  # fmt: skip
_TASKS: dict[Split, tuple[str, ...]] = {
    "train": (
        'Translate "{}" into Spanish.', 'Spell the word "{}" backwards.', 'Give me a synonym for "{}".',
        'Write the word "{}" in capital letters.', 'How many letters are in "{}"?', 'Give me a rhyme for "{}".',
    ),
    "held_out": (
        'Translate the word "{}" into German.', 'What is the opposite of "{}"?', 'Which letter does "{}" begin with?',
        'Count the vowels in "{}".',
    ),
}  # fmt: skip
_FOR_WRITING: dict[Split, tuple[str, ...]] = {
    "train": listed("""
        a lonely lighthouse|the first snow|an old violin|two sisters|a lost dog|the night train|a brave mouse|the last leaf|my hometown
        a stormy sea|the old clock|a kind robot|a new beginning|the red balloon|a quiet morning|a broken bridge
    """),
    "held_out": listed("""
        a forgotten key|the silver moon|a traveling circus|a shy giant|the empty house|a paper boat|the long road home|a talking tree
    """),
}
_WRITING: dict[Split, tuple[str, ...]] = {
    "train": (
        "Write a poem about {}.", "Write a story about {}.", "Write a song about {}.", "Write a letter to a friend about {}.",
        "Make up a fairy tale about {}.", "Write a dialogue about {}.",
    ),
    "held_out": (
        "Compose some verses about {}.", "Write the first page of a novel about {}.", "Invent a bedtime story about {}.",
        "Write a diary entry about {}.", "Write a short play about {}.",
    ),
}  # fmt: skip


def tasks(split: Split, count: int) -> tuple[str, ...]:
    """Small tasks with words: translate, spell, count letters."""
    return pick(fill(_TASKS[split], _WORDS[split]), count, f"tasks {split}")


def writing(split: Split, count: int) -> tuple[str, ...]:
    """Requests to write a poem, a story or a letter."""
    return pick(fill(_WRITING[split], _FOR_WRITING[split]), count, f"writing {split}")
