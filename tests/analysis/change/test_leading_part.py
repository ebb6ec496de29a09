from typing import Any

import pytest

from analysis.change.leading_part import leading_part
from analysis.change.partition import PARTS
from analysis.report.wording import say

CLASSES: list[dict[str, Any]] = [
    {"name": "first", "established": True, "token_share": 0.1, "carried": 0.99, "cosine": 0.95},
    {"name": "template", "established": True, "token_share": 0.2, "carried": 0.99, "cosine": 0.97},
    {"name": "other", "established": True, "token_share": 0.7, "carried": 0.98, "cosine": 1.0},
]
SUBSPACE = {"dimension": 8, "token_share": 0.02}


def change_of(
    largest: str, classes: list[dict[str, Any]] | None = None, n_subspaces: int = 1
) -> dict[str, Any]:
    return {
        "largest": largest,
        "parts": {name: {"share": 0.37 if name == largest else 0.01} for name in PARTS},
        "offset": {"classes": CLASSES if classes is None else classes},
        "latents": {"one_sided": 12, "two_sided": 1},
        "map": {"rank": 4},
        "subspaces": [SUBSPACE] * n_subspaces,
    }


def sentence(change: dict[str, Any]) -> str:
    part = leading_part(change)
    assert part.name == change["largest"]
    return say(part.template, **part.numbers).text


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_a_sentence_with_its_share(name: str) -> None:
    assert sentence(change_of(name)).startswith("37.0 % of the change is")


def test_the_sentences_name_what_was_found() -> None:
    assert sentence(change_of("offset")) == "37.0 % of the change is one constant direction on every token"
    assert "a subspace of 8 dimensions, active on 2.00 % of the tokens" in sentence(change_of("subspaces"))
    assert "within 2 subspaces" in sentence(change_of("subspaces", n_subspaces=2))
    assert "12 latents of one model only" in sentence(change_of("one_sided"))
    assert "1 latent of both models" in sentence(change_of("two_sided"))
    assert "one linear map of rank 4" in sentence(change_of("map"))


def test_an_offset_of_some_tokens_says_which() -> None:
    only = [entry | {"established": entry["name"] == "template"} for entry in CLASSES]
    assert sentence(change_of("offset", only)).endswith(
        "one constant direction on tokens of the chat template"
    )
    turned = [entry | {"cosine": 0.2 if entry["name"] == "first" else 1.0} for entry in CLASSES]
    assert "constant directions, one for each class," in sentence(change_of("offset", turned))
    weaker = [entry | {"carried": 0.8} for entry in CLASSES]
    assert sentence(change_of("offset", weaker)).endswith("on most tokens")
