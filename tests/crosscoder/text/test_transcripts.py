"""Answers as documents: what is written is read again, they change nothing of the other documents, and none is apart from what it was made from."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crosscoder.config import TextConfig, TokenPolicy
from crosscoder.errors import CrosscoderError
from crosscoder.text.documents import Documents, tokenize
from crosscoder.text.record_shapes import Text
from crosscoder.text.text_files import ReadSource, read_source
from crosscoder.text.transcripts import Transcript, read_transcripts, write_transcripts
from tests.tiny_pairs import CHAT_TEMPLATE, WORDS, save_tokenizer

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def chat(question: str, answer: str, finished: bool = True, prompt: int = 0, origin: str = "x") -> Transcript:
    messages = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return Transcript(Text(None, messages, origin), "intervened", finished, prompt)


def plain(text: str, prompt: int = 0, origin: str = "x") -> Transcript:
    return Transcript(Text(text, None, origin), "reference", False, prompt)


def joined(folder: Path, transcripts: Sequence[Transcript]) -> ReadSource:
    write_transcripts(folder / "transcripts.jsonl", transcripts)
    return read_transcripts(folder / "transcripts.jsonl")


def documents_of(
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    *joining: ReadSource,
    policy: TokenPolicy | None = None,
) -> Documents:
    return tokenize(config, policy or TokenPolicy(), tokenizer, CHAT_TEMPLATE, 0, joining=joining)


def prose(folder: Path, n: int, **settings: object) -> TextConfig:
    lines = [{"text": f"{i} {WORDS[i % 18]} {WORDS[i % 7]} {WORDS[i % 5]}"} for i in range(n)]
    (folder / "prose.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"name": "prose", "path": str(folder / "prose.jsonl")}
    return TextConfig.model_validate({"sources": [source], "held_out": 0.3, **settings})


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = [
        chat("Why?", "é\u2028\nso", finished=False, prompt=3, origin="a.jsonl, line 7"),
        plain("oak pine", prompt=4, origin="b.jsonl, line 1"),
    ]
    texts, reading = joined(tmp_path, written)
    assert [text.messages for text in texts] == [one.text.messages for one in written]
    assert [text.content for text in texts] == [None, "oak pine"]
    assert [text.cut for text in texts] == [True, True]
    assert [text.near[0] for text in texts] == ["a.jsonl, line 7", "b.jsonl, line 1"]
    assert texts[0].near[1] != texts[1].near[1]
    assert reading.name == "answers" and reading.n_documents == 2 and reading.place["unfinished"] == 2


def test_an_answer_that_was_cut_ends_without_the_end_of_a_message(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The model wrote no end there, so the dictionary must not read one."""
    answers = joined(tmp_path, [chat("one oak", "pine rose"), chat("one oak", "pine rose", finished=False)])
    documents = documents_of(tokenizer, prose(tmp_path, 9), answers)
    whole, cut = documents.tokens_of(9).tolist(), documents.tokens_of(10).tolist()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert whole[: len(cut)] == cut and whole[len(cut)] == end
    assert str(tokenizer.decode(cut)).endswith("pine rose")


def test_the_file_is_a_source_of_text_for_another_run(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "transcripts.jsonl"
    texts, _ = joined(tmp_path, [chat("one oak", "pine"), plain("rose elm")])
    config = TextConfig.model_validate({"sources": [{"name": "other", "path": str(path)}]})
    again, _ = read_source(config.sources[0])
    assert [(text.content, text.messages) for text in again] == [
        (text.content, text.messages) for text in texts
    ]


@settings(max_examples=8, deadline=None)
@given(
    made=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 5), st.booleans()), min_size=1, max_size=16),
    repeated=st.booleans(),
)
def test_answers_change_no_other_document_and_stay_with_what_they_were_made_from(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: PreTrainedTokenizerBase,
    made: list[tuple[int, int, bool]],
    repeated: bool,
) -> None:
    folder, policy = tmp_path_factory.mktemp("split"), TokenPolicy(mask_repeated=repeated)
    config = prose(folder, 20)
    before = documents_of(tokenizer, config, policy=policy)
    # The numbers of prompts go with the documents that they were made from, or are of no document.
    transcripts = [
        plain(f"{line} {WORDS[line % 18]} said {place}", line, f"{folder / 'prose.jsonl'}, line {line + 1}")
        if from_text
        else plain(f"shipped {number} said {place}", 100 + number, f"probes, line {number}")
        for place, (line, number, from_text) in enumerate(made)
    ]
    after = documents_of(tokenizer, config, joined(folder, transcripts), policy=policy)
    n, n_tokens = before.n_documents, len(before.token_ids)
    assert after.source_names == ("prose", "answers") and after.n_documents == n + len(made)
    assert np.array_equal(after.token_ids[:n_tokens], before.token_ids)
    assert np.array_equal(after.masked[:n_tokens], before.masked)
    assert np.array_equal(after.held_out[:n], before.held_out)
    sides: dict[int, set[bool]] = {}
    for one, held_out in zip(transcripts, after.held_out[n:].tolist(), strict=True):
        sides.setdefault(one.prompt, set()).add(held_out)
        if one.prompt < 100:
            assert held_out == before.held_out[one.prompt]
    assert all(len(side) == 1 for side in sides.values())


def test_prompts_without_a_document_are_split_as_other_text(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    answers = [plain(f"q {i} said {m}", i, f"probes, line {i}") for i in range(20) for m in (0, 1)]
    documents = documents_of(tokenizer, prose(tmp_path, 10), joined(tmp_path, answers))
    assert documents.held_out[documents.source == 1].sum() == round(0.3 * 40)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "line 1"),
        ('{"text": "a"}\n', "line 1: 'from' is"),
        ('{"text": "a", "from": {"finished": 1, "prompt": 0, "origin": "x"}}\n', "line 1: 'from' is"),
        ('{"messages": 3, "from": {"finished": true, "prompt": 0, "origin": "x"}}\n', "line 1"),
        ('{"text": "a\n', "line 1"),
        ("[]\n", "line 1"),
        ("", "every answer of both models is empty"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "transcripts.jsonl"
    path.write_text(content)
    with pytest.raises(CrosscoderError) as raised:
        read_transcripts(path)
    assert str(path) in str(raised.value) and named in str(raised.value)


def test_the_name_of_the_source_is_taken(tmp_path: Path) -> None:
    source = {"name": "answers", "path": "prose.jsonl"}
    assert TextConfig.model_validate({"sources": [source]}).answers is False
    with pytest.raises(ValueError, match="give it another name"):
        TextConfig.model_validate({"sources": [source], "answers": True})
