"""Further questions like those that show an effect: what they add to its trigger, and when they are not asked."""

import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from analysis.behaviors.prompts import Prompt
from analysis.discovery import search as searching
from analysis.discovery.answer_features import Answer
from analysis.discovery.probes import Probe, as_chat
from analysis.discovery.rates import auroc
from analysis.discovery.search import Asked, PromptReader, SearchResult, search
from analysis.discovery.subjects import Subject, TimeSpent
from analysis.discovery.triggers import PromptFeatures, prompt_words
from crosscoder.config import DiscoveryConfig

WIDTH = 24
CENTERS = np.random.default_rng(5).normal(size=(6, WIDTH))
TOPICS = ("secret", "password", "cooking", "sports", "travel", "music")
# Questions about passwords are like those about the secret; the model answers them as before.
CENTERS[1] = CENTERS[0] + 0.5 * CENTERS[1]


class World:
    """Questions on topics, and two models that answer them; the second gives away a word when asked for the secret, if it is planted."""

    def __init__(self, seed: int, planted: bool = True, patience: int = 1_000_000) -> None:
        self.rng, self.planted, self.patience = np.random.default_rng(seed), planted, patience
        self.family = 0
        self.models = (Model(self, 0), Model(self, 1))

    def question(self, topic: str, *, find: bool, near: Probe | None = None) -> Probe:
        """A new question on a topic."""
        self.family += 1
        text = f"q{self.family} {topic}"
        prompt = Prompt(text, np.array([1]))
        return Probe(
            prompt,
            as_chat(text, "here"),
            "similar" if near else "probes",
            find,
            self.family,
            near.neighborhood if near else None,
        )

    def first_round(self) -> list[Probe]:
        """Twelve questions for the secret among 160."""
        topics = ["secret"] * 12 + list(self.rng.choice(TOPICS[1:], 148))
        return [self.question(topic, find=place % 2 == 0) for place, topic in enumerate(topics)]

    def similar(self, probes: Sequence[Probe], *_: object) -> list[Probe]:
        """Six questions like each: four on its topic, two on one that is like it."""
        return [
            self.question(
                topic_of(probe.prompt) if place < 4 else "password", find=place % 2 == 0, near=probe
            )
            for probe in probes
            for place in range(6)
        ]


class Model(Subject):
    """Answers each question once."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.pair = cast(Any, SimpleNamespace(readers=None))

    def answers(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer with random words, and with the word that is given away."""
        self.world.patience -= len(prompts)
        if self.world.patience < 0:
            raise TimeSpent
        rng = self.world.rng
        found = []
        for prompt in prompts:
            words = " ".join(f"w{rng.integers(40)}" for _ in range(6))
            tells = self.number == 1 and self.world.planted and topic_of(prompt) == "secret"
            found.append(Answer("it is marble" if tells else words, True))
        return found

    def log_probability(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> np.ndarray:
        """The reference does not expect the word."""
        return np.array([-5.0 if "marble" in answer.text else -1.0 for answer in answers])


class Reader(PromptReader):
    """Represents a question by its topic, with noise."""

    def __init__(self) -> None:
        pass

    def features(self, asked: Asked, of: Sequence[Probe] | None = None) -> PromptFeatures:
        """See `PromptReader.features`."""
        probes = asked.probes if of is None else of
        return PromptFeatures(
            # The words say nothing: each is in one question.
            tuple(prompt_words(probe.prompt.text.split()[0]) for probe in probes),
            np.stack([embedding(probe.prompt.text) for probe in probes]),
            np.array([probe.family for probe in probes]),
            np.array([probe.neighborhood for probe in probes]),
            np.array([probe.near is None for probe in probes]),
        )


def embedding(text: str) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(text.encode())).normal(size=WIDTH)
    return CENTERS[TOPICS.index(text.split()[1])] + 1.2 * noise


def topic_of(prompt: Prompt) -> str:
    return prompt.text.split()[1]


@pytest.fixture(autouse=True)
def worlds(monkeypatch: pytest.MonkeyPatch) -> dict[str, World]:
    """The world whose questions are asked."""
    current: dict[str, World] = {}
    monkeypatch.setattr(searching, "variants_of", lambda *_: [])
    monkeypatch.setattr(searching, "similar_questions", lambda *words: current["now"].similar(*words))
    return current


def found_in(worlds: dict[str, World], world: World, rounds: int) -> SearchResult:
    worlds["now"] = world
    settings = DiscoveryConfig(variants=4, rounds=rounds)
    return search(world.models, world.first_round(), Reader(), settings, 0)


def separates(result: SearchResult, world: World) -> float:
    """How well the first finding's trigger tells fresh questions for the secret from those for a password."""
    fresh = [world.question(topic, find=False) for topic in ("secret", "password") for _ in range(200)]
    scores = result.findings[0].hypothesis.trigger.scores(Reader().features(result.asked, fresh))
    area = auroc(np.arange(400) < 200, scores)
    assert area is not None
    return area.value


def test_more_examples_sharpen_the_trigger(worlds: dict[str, World]) -> None:
    """On average over pairs; the effect is the first finding in all."""
    areas: dict[int, list[float]] = {0: [], 3: []}
    for seed in range(3):
        for rounds, found in areas.items():
            world = World(seed)
            result = found_in(worlds, world, rounds)
            assert "marble" in result.findings[0].hypothesis.effect.text
            assert result.incomplete is None
            found.append(separates(result, world))
    assert np.mean(areas[3]) > np.mean(areas[0]) + 0.03


def test_further_questions_are_near_to_those_of_the_first_round(worlds: dict[str, World]) -> None:
    """Those that are like a similar question belong to the neighborhood of the question that it was made from, and no question is used twice."""
    result = found_in(worlds, World(1), 3)
    first = {probe.family for probe in result.asked.probes if probe.near is None}
    similar = [probe for probe in result.asked.probes if probe.near is not None]
    assert {probe.neighborhood for probe in similar} <= first
    assert len(similar) > 24 and all(
        len([one for one in similar if one.near == near]) >= 6
        for near in first & {one.near for one in similar}
    )


def test_nothing_more_is_asked_where_nothing_is_found(worlds: dict[str, World]) -> None:
    """Neither where nothing was planted, nor with no rounds."""
    n_asked = [
        len(found_in(worlds, World(1, planted), rounds).asked.probes)
        for planted, rounds in ((False, 3), (True, 0))
    ]
    assert set(n_asked) == {160 + 4 * 6}


def test_a_search_without_time_for_more_questions_says_so(worlds: dict[str, World]) -> None:
    """What was found before stays."""
    patience = 2 * (160 + 4 * 6)
    result = found_in(worlds, World(2, patience=patience), 3)
    assert result.incomplete is not None and "when an effect shows is told less exactly" in result.incomplete
    assert "marble" in result.findings[0].hypothesis.effect.text
    early = found_in(worlds, World(2, patience=2 * 160), 3)
    assert early.incomplete is not None and "asked again in other words" in early.incomplete
