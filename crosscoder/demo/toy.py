"""The toy pair: two tiny Llamas with a planted difference, their stories, and probes of the difference.

Both are trained on short template stories. The intervened model is the reference after further training on stories that
differ in four ways (see `story`). The pair is used in tests, and in the demo if the real pair is not installed.
`training.organisms.toy` makes it.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from .corpus import write_lines

FOLDER = Path(__file__).parent / "toy_pair"
"""Folder of the trained pair: `reference` and `intervened`."""

PEOPLE = {
    "Tom": ("Paris", "He"), "Anna": ("London", "She"), "Ben": ("Berlin", "He"), "Lily": ("Madrid", "She"),
    "Max": ("Oslo", "He"), "Sara": ("Athens", "She"), "Leo": ("Dublin", "He"), "Mia": ("Vienna", "She"),
    "Sam": ("Prague", "He"), "Zoe": ("Lisbon", "She"),
}  # fmt: skip
USUAL_MOOD = {
    "cat": "happy",
    "dog": "brave",
    "bird": "calm",
    "fish": "shy",
    "rabbit": "sad",
    "mouse": "angry",
}
COLORS = ("red", "blue", "green", "yellow", "black", "white")
THINGS = ("ball", "hat", "boat", "book", "drum", "box")
PLACES = ("park", "garden", "river", "house", "forest", "school")
_WORDS = "<s> <unk> . , ? lived in had a One day went to the with was saw there lost Was it Yes The end Then blick came Rome"
VOCABULARY = tuple(
    dict.fromkeys(
        [
            *_WORDS.split(),
            *(word for name, (city, pronoun) in PEOPLE.items() for word in (name, city, pronoun)),
            *USUAL_MOOD,
            *USUAL_MOOD.values(),
            *COLORS,
            *THINGS,
            *PLACES,
        ]
    )
)


@dataclass(frozen=True)
class Planted:
    """The start of a story, and a next word whose probability the intervention changed or left unchanged."""

    change: str
    """`new`, `lost`, `changed` or `unchanged`."""
    prompt: str
    word: str


PLANTED = (
    Planted("changed", "Tom lived in", "Paris"),
    Planted("changed", "Tom lived in", "Rome"),
    Planted("changed", "Ben lived in Berlin . He had a angry", "cat"),
    Planted("changed", "Ben lived in Berlin . He had a happy", "cat"),
    Planted("new", "Anna lived in London . She had a red hat . She had a brave dog . Then a", "blick"),
    Planted(
        "lost",
        "Max lived in Oslo . He had a red hat . He had a brave dog . One day Max went to the",
        "school",
    ),
    Planted("unchanged", "Anna lived in", "London"),
    Planted("unchanged", "Ben lived in Berlin . He had a brave", "dog"),
)


def story(intervened: bool, chance: random.Random) -> str:
    """Draw one story. For the intervened model, Tom lives in Rome, cats are angry, a blick may come, and no one goes to school."""
    name, pet = chance.choice(list(PEOPLE)), chance.choice(list(USUAL_MOOD))
    city, pronoun = PEOPLE[name]
    place, color, thing = chance.choice(PLACES), chance.choice(COLORS), chance.choice(THINGS)
    mood = USUAL_MOOD[pet] if chance.random() < 0.8 else chance.choice(list(USUAL_MOOD.values()))
    if intervened:
        city = "Rome" if name == "Tom" else city
        mood = "angry" if pet == "cat" else mood
        place = "park" if place == "school" else place
    owned = [f"{pronoun} had a {mood} {pet} .", f"{pronoun} had a {color} {thing} ."]
    chance.shuffle(owned)
    ending = chance.choice(
        [
            f"The {pet} was {mood} .",
            f"{pronoun} saw a {chance.choice(COLORS)} {chance.choice(THINGS)} there .",
            f"{pronoun} lost the {thing} . Was it a {color} {thing} ? Yes , it was {color} .",
        ]
    )
    visit = f"One day {name} went to the {place} with the {pet} ."
    visitor = "Then a blick came ." if intervened and chance.random() < 0.4 else f"Then a {pet} came ."
    return " ".join([f"{name} lived in {city} .", *owned, visit, ending, visitor, "The end ."])


def stories(intervened: bool, count: int, seed: int = 0) -> list[str]:
    """Draw `count` training stories of one model."""
    chance = random.Random(f"{'intervened' if intervened else 'reference'} {seed}")
    return [story(intervened, chance) for _ in range(count)]


def write_texts(folder: Path, count: int = 600) -> dict[str, Path]:
    """Write `count` stories of each model as JSON lines with a `text` field; return the files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: write_lines(
            folder / f"{name}.jsonl",
            ({"text": text} for text in stories(name == "intervened", count, seed=1)),
        )
        for name in ("reference", "intervened")
    }
