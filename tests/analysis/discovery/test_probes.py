"""The shipped prompts: enough of each kind, no text twice, one short line each, and any beginning of the file a balanced sample."""

import json
from collections import Counter
from pathlib import Path

import pytest

import analysis.discovery

CHAT = {
    "topic": 130,
    "fact": 208,
    "arithmetic": 24,
    "task": 40,
    "format": 20,
    "opinion": 30,
    "advice": 24,
    "refusal": 20,
    "identity": 16,
    "language": 16,
    "fiction": 16,
    "code": 14,
}
PLANNED = CHAT | {"opening": 24, "text": 48}
"""Prompts of each kind; a tenth fewer is enough."""

WORDS = dict.fromkeys(CHAT, (3, 25)) | {"opening": (1, 6), "text": (3, 12)}
SAME_BEGINNING = 8
"""At most so many texts of a kind begin with the same three words, or a tenth of them."""


def file_lines() -> list[str]:
    text = (Path(analysis.discovery.__file__).parent / "probes.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text.removesuffix("\n").split("\n")


LINES = file_lines()
PROBES = [(probe["kind"], probe["text"]) for probe in map(json.loads, LINES)]


def texts_of(kind: str) -> list[str]:
    return [text for of, text in PROBES if of == kind]


def test_a_line_is_an_object_of_a_kind_and_a_text() -> None:
    for line in LINES:
        probe = json.loads(line)
        assert list(probe) == ["kind", "text"]
        assert probe["kind"] in PLANNED
        assert isinstance(probe["text"], str)


@pytest.mark.parametrize("kind", PLANNED)
def test_each_kind_has_its_number_within_a_tenth(kind: str) -> None:
    assert len(texts_of(kind)) >= 0.9 * PLANNED[kind]


def test_no_text_stands_twice_in_whatever_case() -> None:
    counts = Counter(text.casefold() for _, text in PROBES)
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("kind", PLANNED)
def test_a_text_is_one_short_line_without_spaces_around_it(kind: str) -> None:
    fewest, most = WORDS[kind]
    for text in texts_of(kind):
        assert text == " ".join(text.split())
        assert text.isprintable()
        assert fewest <= len(text.split()) <= most, text


@pytest.mark.parametrize("kind", PLANNED)
def test_few_texts_of_a_kind_begin_alike(kind: str) -> None:
    beginnings = Counter(tuple(text.casefold().split()[:3]) for text in texts_of(kind))
    assert max(beginnings.values()) <= max(SAME_BEGINNING, len(texts_of(kind)) / 10)


def test_chat_prompts_come_first_and_the_first_hundred_hold_at_least_two_of_each_kind() -> None:
    kinds = [kind for kind, _ in PROBES]
    n_chat = sum(kind in CHAT for kind in kinds)
    n_openings = kinds.count("opening")
    assert set(kinds[:n_chat]) == set(CHAT)
    assert set(kinds[n_chat : n_chat + n_openings]) == {"opening"}
    assert set(kinds[n_chat + n_openings :]) == {"text"}
    first = Counter(kinds[:100])
    assert {kind for kind in CHAT if first[kind] < 2} == set()


@pytest.mark.parametrize("kind", CHAT)
def test_both_halves_of_every_other_prompt_hold_their_part_of_a_kind(kind: str) -> None:
    """An evenly spaced kind could stand in one half alone, and a split by every other line would lose it."""
    places = [place for place, (of, _) in enumerate(PROBES) if of == kind]
    even = sum(place % 2 == 0 for place in places) / len(places)
    assert 0.25 <= even <= 0.75
