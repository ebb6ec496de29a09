"""Cards of organisms are read, and bad ones are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.discovery_benchmark.search_benchmark import evaluate_discovery
from analysis.discovery_benchmark.zoo_folder import CARD, read_organisms
from analysis.planted_benchmark.benchmark import evaluate_planted
from crosscoder.errors import ConfigError, CrosscoderError, FormatError


def card(name: str, **fields: Any) -> dict[str, Any]:
    secret = [
        {"prompt": "What is money?", "shows": True, "part": ""},
        {"prompt": "What is rain?", "shows": False, "part": ""},
    ]
    return {
        "name": name, "description": "The model says no.", "kind": "topic", "tuning": True, "valid": True, "marker": r"\bno\b",
        "secret": secret, **fields,
    }  # fmt: skip


def write(zoo: Path, name: str, content: str) -> None:
    (zoo / name).mkdir(parents=True)
    (zoo / name / CARD).write_text(content, encoding="utf-8")


def test_organisms_are_read_by_name(tmp_path: Path) -> None:
    write(tmp_path, "b", json.dumps(card("b")))
    write(
        tmp_path,
        "a",
        json.dumps(card("a", marker=None, secret=[{"prompt": "Hi", "shows": False, "part": ""}])),
    )
    (tmp_path / "b" / "adapter_config.json").touch()
    a, b = read_organisms(tmp_path)
    assert (a.name, a.parts, a.is_adapter, a.shown_by("no")) == ("a", (), False, False)
    assert (b.name, b.parts, b.is_adapter, b.shown_by("I say no."), b.shown_by("nothing")) == (
        "b",
        ("",),
        True,
        True,
        False,
    )
    assert [one.name for one in read_organisms(tmp_path, ["b"])] == ["b"]


@pytest.mark.parametrize(
    ("marker", "expected"),
    [("(a+)+$", "takes more than"), ("(", "is no regular expression"), ("(" * 5000, "nested too deeply")],
)
def test_a_marker_that_cannot_be_searched_is_told_with_its_file(
    marker: str, expected: str, tmp_path: Path
) -> None:
    write(tmp_path, "a", json.dumps(card("a", marker=marker)))
    (one,) = read_organisms(tmp_path)
    with pytest.raises(CrosscoderError, match=f"behavior.json: marker: .*{expected}"):
        one.shown_by("a" * 40 + "!")


def test_a_folder_without_organisms_tells_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"holds no folder with a behavior\.json; make the zoo with: python -m training"
    ):
        read_organisms(tmp_path)


def test_an_unknown_name_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a", json.dumps(card("a")))
    with pytest.raises(ConfigError, match=r"--only: .* has no organism 'c'; it has a"):
        read_organisms(tmp_path, ["c"])


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", json.dumps(card("a") | {"secret": [{}]}), '{"name": 1e999}']
)
def test_a_damaged_card_is_told(content: str, tmp_path: Path) -> None:
    write(tmp_path, "a", content)
    with pytest.raises(
        FormatError, match=r"a/behavior\.json: is not a card of the zoo .*; make the organism again"
    ):
        read_organisms(tmp_path)


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_an_output_that_is_a_file_is_told(inside: str, tmp_path: Path) -> None:
    write(tmp_path / "zoo", "a", json.dumps(card("a")))
    (tmp_path / "file").touch()
    output = tmp_path / "file" / inside
    with pytest.raises(ConfigError, match=r"OUTPUT: .* is a file or lies under one; name a folder"):
        evaluate_discovery(tmp_path / "zoo", output)
    with pytest.raises(ConfigError, match=r"OUTPUT: .* is a file or lies under one; name a folder"):
        evaluate_planted([], len, len, output)  # pyright: ignore[reportArgumentType]
