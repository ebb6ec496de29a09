"""The same documents, in whatever shape and file type they are written, give the same texts."""

import gzip
import itertools
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from crosscoder.config import TextConfig, TextSource, TokenPolicy
from crosscoder.errors import ConfigError, DataError
from crosscoder.text.documents import tokenize
from crosscoder.text.record_shapes import Text
from crosscoder.text.text_files import check_sources, read_source, read_texts
from tests.tiny_pairs import CHAT_TEMPLATE, save_tokenizer

from .written_texts import CHAT_SHAPES, FILE_TYPES, PAIR_SHAPES, lines, write_table, write_zst

# Any text but the byte 0, which no file type but JSON could hold; hypothesis makes no surrogates here.
CONTENT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
WRITTEN = CONTENT.filter(lambda text: text.strip())
TURN = st.tuples(WRITTEN, WRITTEN)


def source(path: Path, **fields: Any) -> TextSource:
    return TextSource.model_validate({"path": str(path), "name": "texts", **fields})


def chat_of(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


def contents(texts: list[Text]) -> list[Any]:
    return [text.content if text.messages is None else list(text.messages) for text in texts]


@settings(max_examples=5)
@given(chats=st.lists(st.lists(TURN, min_size=1, max_size=2), min_size=1, max_size=4))
def test_a_chat_is_the_same_in_every_shape_and_file(
    tmp_path_factory: pytest.TempPathFactory, chats: list[list[tuple[str, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("chats")
    expected = [chat_of(pairs) for pairs in chats]
    for (shape, write), (ending, save) in itertools.product(CHAT_SHAPES.items(), FILE_TYPES.items()):
        path = folder / f"{shape}{ending}"
        save(path, [write(chat) for chat in expected])
        assert contents(read_texts(source(path))) == expected, path.name


@settings(max_examples=5)
@given(pairs=st.lists(TURN, min_size=1, max_size=4))
def test_a_question_and_its_answer_are_a_chat(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    expected = [chat_of([pair]) for pair in pairs]
    for (shape, write), (ending, save) in itertools.product(PAIR_SHAPES.items(), FILE_TYPES.items()):
        path = folder / f"{shape}{ending}"
        save(path, [write(*pair) for pair in pairs])
        assert contents(read_texts(source(path))) == expected, path.name


@settings(max_examples=15)
@given(texts=st.lists(WRITTEN, min_size=1, max_size=6), limit=st.integers(1, 8))
def test_plain_text_keeps_its_order_and_its_limit(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("plain")
    for ending, save in FILE_TYPES.items():
        path = folder / f"plain{ending}"
        save(path, [{"text": text, "id": number} for number, text in enumerate(texts)])
        assert contents(read_texts(source(path))) == texts
        assert contents(read_texts(source(path, limit=limit))) == texts[:limit]


def test_tokens_are_the_same_in_every_shape_and_file(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    chats = [chat_of([(f"{n} oak\nrose", f"pine, “elm” {n}\t|")]) for n in range(5)]
    digests = set()
    for (shape, write), (ending, save) in itertools.product(CHAT_SHAPES.items(), FILE_TYPES.items()):
        path = tmp_path / f"{shape}{ending}"
        save(path, [write(chat) for chat in chats])
        config = TextConfig(sources=(source(path),))
        digests.add(tokenize(config, TokenPolicy(), tokenizer, CHAT_TEMPLATE, 0).digest())
    assert len(digests) == 1


@settings(max_examples=15)
@given(
    paragraphs=st.lists(
        st.lists(st.text("ab é\u2028", min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank=st.sampled_from(["", " ", "\t"]),
    last=st.booleans(),
    mark=st.booleans(),
)
def test_paragraphs_are_documents_with_every_line_end(
    tmp_path_factory: pytest.TempPathFactory,
    paragraphs: list[list[str]],
    end: str,
    blank: str,
    last: bool,
    mark: bool,
) -> None:
    written = f"{end}{blank}{end}".join(end.join(paragraph) for paragraph in paragraphs) + end * last
    data = (b"\xef\xbb\xbf" if mark else b"") + written.encode()
    folder = tmp_path_factory.mktemp("txt")
    (folder / "plain.txt").write_bytes(data)
    (folder / "packed.txt.gz").write_bytes(gzip.compress(data))
    write_zst(folder / "packed.txt.zst", data)
    for name in ("plain.txt", "packed.txt.gz", "packed.txt.zst"):
        found = read_texts(source(folder / name))
        assert contents(found) == ["\n".join(paragraph) for paragraph in paragraphs]
        starts = np.cumsum([1, *(len(paragraph) + 1 for paragraph in paragraphs[:-1])])
        assert [text.origin for text in found] == [f"{folder / name}, line {start}" for start in starts]


def test_folders_and_patterns_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for place in (
        "b/2.jsonl",
        "a.jsonl",
        "b/1.jsonl.gz",
        "c.txt",
        ".hidden.jsonl",
        ".git/x.jsonl",
        "README.md",
    ):
        path = tmp_path / "texts" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        text = place if place.endswith(".txt") else lines([{"text": place}])
        path.write_bytes(gzip.compress(text.encode()) if place.endswith(".gz") else text.encode())
    everything = ["a.jsonl", "b/1.jsonl.gz", "b/2.jsonl", "c.txt"]
    assert contents(read_texts(source(tmp_path / "texts"))) == everything
    assert contents(read_texts(source(tmp_path / "texts" / "**" / "*.jsonl*"))) == [
        "a.jsonl",
        "b/1.jsonl.gz",
        "b/2.jsonl",
    ]
    assert contents(read_texts(source(tmp_path / "texts" / "b" / "[12].jsonl"))) == ["b/2.jsonl"]
    _, reading = read_source(source(tmp_path / "texts"))
    assert reading.describe()["files"] == 4
    # A name with brackets is a file, if there is one.
    (tmp_path / "texts" / "[12].txt").write_text("its own name")
    assert contents(read_texts(source(tmp_path / "texts" / "[12].txt"))) == ["its own name"]


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}
AS_TEXT = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1, "b": null}'}}
ASKED = {"role": "user", "content": "1 and 1?"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
SAID = {"role": "assistant", "content": "2"}

SPECIAL: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (
        {"messages": [ASKED, CALLED | {"content": None}, {"role": "tool", "tool_call_id": "c1", "content": "2"}, SAID]},
        [ASKED, CALLED, {"role": "tool", "content": "2", "tool_call_id": "c1"}, SAID],
    ),
    ({"messages": [ASKED, {"role": "assistant", "tool_calls": [AS_TEXT]}]}, [ASKED, CALLED]),
    (
        {"messages": [ASKED, {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}}, {"role": "function", "name": "add", "content": "2"}]},
        [ASKED, CALLED | {"tool_calls": [{"type": "function", "function": CALL["function"]}]}, {"role": "tool", "content": "2", "name": "add"}],
    ),
    (
        {"conversations": [{"from": "human", "value": "1 and 1?"}, {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}, {"from": "observation", "value": "2"}, {"from": "gpt", "value": "2"}]},
        [ASKED, CALLED | {"tool_calls": [{"type": "function", "function": CALL["function"]}]}, {"role": "tool", "content": "2"}, SAID],
    ),
    ({"messages": [ASKED, {"role": "system", "content": "Be brief."}, SAID]}, [ASKED, {"role": "system", "content": "Be brief."}, SAID]),
    ({"system": "Be brief.", "conversations": [{"from": "human", "value": "1 and 1?"}]}, [{"role": "system", "content": "Be brief."}, ASKED]),
    ({"instruction": "1 and 1?", "input": "As words.", "output": "2"}, [ASKED | {"content": "1 and 1?\n\nAs words."}, SAID]),
    ({"messages": [ASKED | {"content": ["1 and", {"type": "text", "text": " 1?"}]}]}, [ASKED]),
    ({"conversations": {"from": ["human", "gpt"], "value": ["1 and 1?", "2"]}}, [ASKED, SAID]),
    ({"messages": [{"role": "User", "content": "1 and 1?"}, {"role": "narrator", "content": "2"}]}, [ASKED, SAID | {"role": "narrator"}]),
    ({"messages": [ASKED, SAID | {"reasoning_content": "easy"}]}, [ASKED, SAID | {"reasoning_content": "easy"}]),
]  # fmt: skip


@pytest.mark.parametrize(("record", "expected"), SPECIAL)
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_what_tools_and_other_formats_write(
    tmp_path: Path, record: dict[str, Any], expected: list[dict[str, Any]], ending: str
) -> None:
    if ending == ".parquet" and isinstance(record.get("messages", [{}])[0].get("content"), list):
        pytest.skip("Parquet lists hold one type")
    FILE_TYPES[ending](tmp_path / f"chats{ending}", [record])
    assert contents(read_texts(source(tmp_path / f"chats{ending}"))) == [expected]


def test_tools_are_kept_for_the_template(tmp_path: Path) -> None:
    for tools in (TOOLS, json.dumps(TOOLS)):
        (tmp_path / "chats.jsonl").write_text(lines([{"messages": [ASKED], "tools": tools}]))
        assert read_texts(source(tmp_path / "chats.jsonl"))[0].tools == tuple(TOOLS)


def test_fields_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    record = {
        "text": "the text",
        "body": "the body",
        "messages": [ASKED],
        "dialog": [{"speaker": "human", "said": "1 and 1?"}],
        "question": "1 and 1?",
        "context": "As words.",
        "answer": "2",
    }
    path.write_text(lines([record]))
    for fields, expected in (
        ({"text_field": "body"}, "the body"),
        ({"text_field": "text"}, "the text"),
        ({"messages_field": "messages"}, [ASKED]),
        ({"messages_field": "dialog", "role_field": "speaker", "content_field": "said"}, [ASKED]),
        ({"prompt_field": "question", "completion_field": "answer"}, [ASKED, SAID]),
        (
            {"prompt_field": "question", "input_field": "context", "completion_field": "answer"},
            [ASKED | {"content": "1 and 1?\n\nAs words."}, SAID],
        ),
    ):
        assert contents(read_texts(source(path, **fields))) == [expected]
    with pytest.raises(
        DataError,
        match=r"line 1: expected .* which fits 2 of them; .*text_field: text; or messages_field: messages",
    ):
        read_texts(source(path))
    with pytest.raises(
        DataError, match=r"line 1: has no field 'bodi', which text_field names; found an object"
    ):
        read_texts(source(path, text_field="bodi"))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"instruction": "a", "output": "b", "text": "c"}, "text_field: text; or prompt_field: instruction, completion_field: output"),
        ({"instruction": "a", "input": "x", "output": "b", "text": "c"}, "completion_field: output, input_field: input"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "name what to read in the source: text_field"),
        ({"messages": [{"role": "user", "from": "human", "content": "x"}]}, "has both 'role' and 'from'"),
        ({"messages": [{"speaker": "me", "content": "x"}]}, "message 0 has no string 'role' (it has 'speaker', 'content')"),
        ({"messages": [{"role": "user", "text": "x"}]}, "message 0 has no string 'content' (it has 'role', 'text')"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 0 has no string 'content', found int '3'"),
        ({"messages": ["x"]}, "message 0 is str 'x'; it must be an object"),
        ({"messages": {"role": ["user"], "content": []}}, "'messages' is dict"),
        ({"messages": "x"}, "'messages' is str 'x'; it must be a list of messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "a tool call without the name of a function"),
        ({"conversations": [{"from": "function_call", "value": "add"}]}, "its text is not JSON"),
        ({"messages": [ASKED], "tools": "add"}, "'tools' is str 'add'"),
        ({"system": "a", "messages": [{"role": "system", "content": "b"}, ASKED]}, "both in 'system' and in the messages"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "'history' is not read"),
        ({"text": ["a"]}, "'text' is a list of 1 entries; it must be a string"),
        ({}, "an object with the keys none"),
    ],
)  # fmt: skip
def test_a_record_that_fits_no_shape_or_two_is_named(
    tmp_path: Path, record: dict[str, Any], said: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(lines([{"text": "fine"}, {"text": "fine too"}, record]))
    with pytest.raises(DataError) as caught:
        read_texts(source(path))
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    rows: list[dict[str, Any]] = [{"text": f"text {n}"} for n in range(8)]
    rows[3:3] = [
        {"text": " "},
        {"text": None},
        {"messages": [image]},
        {"messages": [ASKED | {"content": ""}]},
    ]
    path.write_text(lines(rows))
    texts, reading = read_source(source(path))
    assert contents(texts) == [f"text {n}" for n in range(8)]
    assert reading.describe()["left_out"] == {"empty": 3, "parts that are not text": 1}
    assert reading.n_documents == 12
    assert contents(read_texts(source(path, limit=6))) == [f"text {n}" for n in range(6)]
    path.write_text(lines(rows[2:7]))
    with pytest.raises(
        DataError, match=r"line 2: 'text' is empty; remove the line \(4 of the 5 documents of 'texts' cannot"
    ):
        read_texts(source(path))


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(
        '{"text": "a\\ud800b \\ud83d\\ude00"}\n{"text": "c"}\n{"messages": [{"role": "user", "content": "\\udfff"}]}\n'
    )
    texts, reading = read_source(source(path))
    assert contents(texts) == ["a\ufffdb 😀", "c", [{"role": "user", "content": "\ufffd"}]]
    assert reading.describe()["altered"] == {"lone surrogates replaced by U+FFFD": 2}
    save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    documents = tokenize(TextConfig(sources=(source(path),)), TokenPolicy(), tokenizer, CHAT_TEMPLATE, 0)
    assert documents.n_documents == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": "a", "text": "b"}\n', "line 2: the key 'text' is given twice"),
        ("a.jsonl", b'{"text": NaN}\n', "line 1: 'text' is float 'nan'"),
        ("a.jsonl", b'{"text": "a\0b"}\n', "line 1: holds a byte 0"),
        ("a.txt", "abc".encode("utf-16-le"), "line 1: holds a byte 0"),
        ("a.jsonl", b'[{"text": "x"}]', "line 1: expected an object"),
        ("a.jsonl", b'[\n{"text": "x"}]', "line 1: not JSON (Expecting value at column 2); give one object per line, or name the file .json"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", "line 1: nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "line 1: not JSON that can be read"),
        ("a.json", b'{"messages": []', "not JSON (Expecting ',' delimiter at column 16)"),
        ("a.json", b'[{"text": "x"},\n{"text"}]', "not JSON (Expecting ':' delimiter at line 2, column 8)"),
        ("a.json", b"3", "record 1: expected an object"),
        ("a.json", b"", "contains no text"),
        ("a.csv", b"", "contains no text"),
        ("a.csv", b"text\n", "contains no text"),
        ("a.csv", b"text,text\na,b\n", "line 1: the column 'text' is given twice"),
        ("a.csv", b"text,id\na,b\nc\n", "line 3: has 1 cells, but the header has 2 columns"),
        ("a.csv", b'text,id\n"a"b,c\n', "line 2: not a table"),
        ("a.csv", b'text,id\n"a,c\n', "not a table (unexpected end of data)"),
        ("a.csv", b"name,id\na,b\n", "line 2: expected an object with either 'text' or 'messages'"),
        ("a.parquet", b"", "not a Parquet file"),
        ("a.parquet", b"PAR1 and nothing else PAR1", "not a Parquet file"),
        ("a.jsonl.gz", b'{"text": "x"}\n', "not gzip data"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 50, mtime=0)[:-12], "the compressed data end early"),
        ("a.jsonl.gz", gzip.compress(bytes(range(256)) * 9, mtime=0)[:40] + b"x" * 60, "not gzip data"),
        ("a.jsonl.zst", b'{"text": "x"}\n', "not zstd data"),
        ("a.txt", b"\n \n\r\n", "contains no text"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_texts(source(tmp_path / name))
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_zst_file_is_refused(tmp_path: Path) -> None:
    write_zst(
        tmp_path / "a.jsonl.zst", lines([{"text": secrets.token_hex(100_000)} for _ in range(20)]).encode()
    )
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not zstd data, or cut off"):
        read_texts(source(tmp_path / "a.jsonl.zst"))


def test_texts_that_are_odd_but_whole_are_read(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, very long lines, no last line end, an escaped character 0, JSON lines named .json."""
    long = "oak " * 400_000
    rows = [{"text": long}, {"text": "a\0b"}, {"text": "last"}]
    written = "\r\n\r\n  \r\n".join(json.dumps(row) for row in rows).encode()
    for name in ("odd.jsonl", "odd.json"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + written)
        assert contents(read_texts(source(tmp_path / name))) == [long, "a\0b", "last"]
    write_table(tmp_path / "long.csv", [{"text": long}, {"text": "two\r\nlines"}], ",")
    assert contents(read_texts(source(tmp_path / "long.csv"))) == [long, "two\r\nlines"]
    (tmp_path / "one.json").write_text(json.dumps({"text": "alone"}, indent=1))
    assert contents(read_texts(source(tmp_path / "one.json"))) == ["alone"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("gone.jsonl", "does not exist"),
        ("gone/*.jsonl", "no file matches the pattern"),
        ("folder", "has no file of documents (found .md, .png)"),
        ("saved", "is a dataset that the `datasets` library saved; give it as dataset:"),
        ("table.parquet.gz", "ends in '.parquet.gz'"),
        ("notes", "ends in 'nothing'"),
        ("link.jsonl", "does not exist"),
        ("pipe.jsonl", "is neither a file nor a folder"),
        ("x" * 5000, "is no path"),
    ],
)
def test_missing_files_are_found_before_anything_is_read(tmp_path: Path, place: str, said: str) -> None:
    for name in (
        "folder/README.md",
        "folder/a.png",
        "saved/dataset_info.json",
        "saved/state.json",
        "table.parquet.gz",
        "notes",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for check in (
        lambda: check_sources(TextConfig(sources=(source(tmp_path / place),))),
        lambda: read_texts(source(tmp_path / place)),
    ):
        with pytest.raises(ConfigError) as caught:
            check()
        assert said in str(caught.value)
        assert str(caught.value).startswith("text.sources, 'texts': ")
        assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_the_first_record_of_every_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines([{"text": "fine"}]))
    (tmp_path / "b.jsonl").write_text("")
    check_sources(TextConfig(sources=(source(tmp_path),)))
    (tmp_path / "c.jsonl.gz").write_text("not gzip")
    with pytest.raises(DataError, match="not gzip data"):
        check_sources(TextConfig(sources=(source(tmp_path),)))
    with pytest.raises(DataError, match="contains no text"):
        check_sources(TextConfig(sources=(source(tmp_path / "b.jsonl"),)))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text(lines([{"text": "fine"}]))

    def refuse(self: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"a\.jsonl cannot be read \(Permission denied\)"):
        read_texts(source(tmp_path / "a.jsonl"))


ROWS = [
    line.strip("| ").split(" | ")
    for line in (Path(__file__).parents[3] / "docs" / "own_pair.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `{")
]


@pytest.mark.parametrize(("record", "read_as"), [row for row in ROWS if len(row) == 2 and '"' in row[0]])
def test_the_guide_says_how_records_are_read(tmp_path: Path, record: str, read_as: str) -> None:
    (tmp_path / "texts.jsonl").write_text(record.strip("`"))
    (text,) = read_texts(source(tmp_path / "texts.jsonl"))
    found = "text" if text.messages is None else ", ".join(message["role"] for message in text.messages)
    assert found == read_as


def test_the_guide_has_every_shape() -> None:
    assert sum('"' in row[0] for row in ROWS) >= 9
