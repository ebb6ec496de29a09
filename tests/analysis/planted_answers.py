"""Made-up answers of two models to the same prompts, with a planted change."""

from collections.abc import Callable

import numpy as np

from analysis.discovery.answer_features import Answer, LengthLevels
from analysis.discovery.answer_table import AnswerPair, AnswerTable
from analysis.discovery.held_out_tests import HypothesisTest, check_hypotheses, findings_of
from analysis.discovery.hypotheses import find_hypotheses
from analysis.discovery.triggers import PromptFeatures, prompt_words

WORDS = [f"word{i}" for i in range(200)]
TOPICS = ("cooking", "sports", "travel", "music", "law")
Plant = Callable[[str, str, np.random.Generator], str]
"""Changes the answer to a prompt."""


def sentence(rng: np.random.Generator, n: int) -> str:
    ranks = np.minimum(rng.zipf(1.4, size=n), len(WORDS)) - 1
    return " ".join(WORDS[i] for i in ranks)


def centers_of(seed: int) -> np.ndarray:
    """The representation of each topic."""
    return np.random.default_rng([seed, 1]).normal(size=(len(TOPICS), 24))


def prompts(n: int, rng: np.random.Generator, centers: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Prompts of five topics, each with words of its own and a representation around that of its topic."""
    topic = rng.integers(len(TOPICS), size=n)
    texts = [f"{TOPICS[t]}{rng.integers(12)} {sentence(rng, 6)} topic {TOPICS[t]}" for t in topic]
    return texts, centers[topic] + 0.7 * rng.normal(size=(n, 24))


def features(texts: list[str], embedding: np.ndarray) -> PromptFeatures:
    return PromptFeatures(
        tuple(map(prompt_words, texts)),
        embedding,
        np.arange(len(texts)),
        np.arange(len(texts)),
        np.ones(len(texts), dtype=bool),
    )


def findings(plant: Plant | None, seed: int = 0, n: int = 200, swap: bool = False) -> list[HypothesisTest]:
    """Search in answers to n prompts, half of them for finding."""
    rng = np.random.default_rng(seed)
    texts, embedding = prompts(n, rng, centers_of(seed))
    plain = [[Answer(sentence(rng, 12), True) for _ in texts] for _ in range(2)]
    changed = [
        answer if plant is None else Answer(plant(text, answer.text, rng), True)
        for text, answer in zip(texts, plain[1], strict=True)
    ]
    sides = (changed, plain[0]) if swap else (plain[0], changed)
    read = features(texts, embedding)
    find = np.arange(n) % 2 == 0
    lengths = LengthLevels.of(sides[0])

    def table(chosen: np.ndarray) -> AnswerTable:
        return AnswerTable.of(
            AnswerPair(*([side[i] for i in np.flatnonzero(chosen)] for side in sides)), lengths
        )

    hypotheses = find_hypotheses(table(find), read.subset(find), seed)
    tested = check_hypotheses(hypotheses, table(~find), read.subset(~find), 0.05, 0.1)
    return findings_of(tested, 0.05, 0.1)
