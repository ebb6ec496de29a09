import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crosscoder.config import TextConfig, TokenPolicy
from crosscoder.errors import ConfigError, DataError, FormatError
from crosscoder.runtime import run_date
from crosscoder.text.chat_templates import content_spans, render_chat
from crosscoder.text.documents import Documents, tokenize
from tests.tiny_pairs import CHAT_TEMPLATE, save_tokenizer, write_texts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def text_config(*paths: Path, **settings: Any) -> TextConfig:
    sources = [{"path": str(path), "name": f"source{i}"} for i, path in enumerate(paths)]
    return TextConfig.model_validate({"sources": sources, **settings})


def read(tokenizer: PreTrainedTokenizerBase, *paths: Path, seed: int = 0, **settings: Any) -> Documents:
    return tokenize(text_config(*paths, **settings), TokenPolicy(), tokenizer, CHAT_TEMPLATE, seed)


CHATS = [
    [{"role": "user", "content": "user"}, {"role": "assistant", "content": " end of it \n"}],
    [{"role": "system", "content": "a ] b"}, {"role": "user", "content": "é 漢 <|end|>\n[user] x"}],
    [{"role": "user", "content": "  [user] [user]"}, {"role": "user", "content": ""}],
]


def test_chat_ids_are_those_of_the_template(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [{"messages": chat} for chat in CHATS])
    documents = read(tokenizer, path)
    for index, chat in enumerate(CHATS):
        encoding: Any = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)
        expected = encoding["input_ids"]
        assert documents.tokens_of(index).tolist() == expected
        assert expected.count(tokenizer.bos_token_id) == 1
    # The positive control: rendering to text and tokenizing again gives two.
    rendered: Any = tokenizer.apply_chat_template(CHATS[0], tokenize=False)
    twice: Any = tokenizer(rendered)
    assert twice["input_ids"].count(tokenizer.bos_token_id) == 2


def test_a_template_that_prints_the_date_prints_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its texts are the same tomorrow, so that the run can be resumed."""
    dated = "{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"
    save_tokenizer(tmp_path / "dated", dated)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dated")
    monkeypatch.setattr(run_date, "_date", None)
    now = render_chat(tokenizer, dated, CHATS[0], "here")
    run_date.use_date(date(2024, 2, 29))
    then = render_chat(tokenizer, dated, CHATS[0], "here")
    assert then.text.startswith("29 Feb 2024 ") and not now.text.startswith("29 Feb 2024 ")
    assert now.text[12:] == then.text[12:]
    assert tokenizer.decode(then.token_ids).startswith("29")


def test_template_tokens_are_those_outside_the_contents(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [{"messages": chat} for chat in CHATS])
    documents = read(tokenizer, path)
    for index, chat in enumerate(CHATS):
        pieces = [("<s>", False)]
        for message in chat:
            pieces += [
                (f"[{message['role']}] ", False),
                (message["content"].strip(), True),
                ("<|end|>\n", False),
            ]
        rendered = "".join(piece for piece, _ in pieces)
        inside = np.concatenate([np.full(len(piece), content) for piece, content in pieces])
        offsets = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        expected = [not inside[start:end].any() for start, end in offsets]
        own = slice(documents.offsets[index], documents.offsets[index + 1])
        assert documents.template[own].tolist() == expected
    assert documents.template.any()
    assert not documents.template.all()


@given(
    st.lists(
        st.tuples(st.text("ab ", max_size=4), st.text("abc", min_size=1, max_size=3)), min_size=1, max_size=4
    )
)
def test_contents_are_found_even_if_they_repeat_template_text(turns: list[tuple[str, str]]) -> None:
    """A content that also occurs in the template's text is still located correctly."""
    opening = "ab a b"
    rendered = opening + "".join(content.strip() + written + "|" for content, written in turns)
    marked = opening + "".join(f"\ue000{i}\ue001{written}|" for i, (_, written) in enumerate(turns))
    spans = content_spans(rendered, marked, [content for content, _ in turns])
    assert spans is not None
    assert [rendered[start:end] for start, end in spans] == [content.strip() for content, _ in turns]


def test_rewritten_contents_count_as_a_whole() -> None:
    spans = content_spans("<u>HELLO</u>", "<u>\ue0000\ue001</u>", ["hello"])
    assert spans == [(3, 8)]
    assert content_spans("something else", "<u>\ue0000\ue001</u>", ["hello"]) is None


def test_plain_text_gets_the_bos_of_its_tokenizer(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_lines(tmp_path / "prose.jsonl", [{"text": "oak and rose"}, {"text": "pine"}])
    documents = read(tokenizer, path)
    assert documents.tokens_of(0).tolist() == tokenizer("oak and rose")["input_ids"]
    assert documents.tokens_of(0)[0] == tokenizer.bos_token_id
    assert not documents.template.any()


def test_mask_is_special_tokens_and_first_positions(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write_lines(
        tmp_path / "prose.jsonl", [{"text": "oak <|end|> rose oak rose"}, {"text": "pine elm"}]
    )
    for special, n_first in ((True, 1), (False, 0), (True, 3)):
        policy = TokenPolicy(mask_repeated=False, mask_special=special, mask_first=n_first)
        documents = tokenize(text_config(path), policy, tokenizer, None, 0)
        for index in range(2):
            own = slice(documents.offsets[index], documents.offsets[index + 1])
            special = np.isin(documents.token_ids[own], [0, 1, 2]) & policy.mask_special
            first = np.arange(own.stop - own.start) < policy.mask_first
            assert np.array_equal(documents.masked[own], special | first)
    assert documents.unmasked.sum() == (~documents.masked).sum()


def test_tokens_with_a_repeated_prefix_are_masked(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Each prefix counts once: in later documents exactly its tokens are masked."""
    texts = ["oak rose pine", "oak rose elm", "oak rose pine", "pine oak rose"]
    path = write_lines(tmp_path / "prose.jsonl", [{"text": text} for text in texts])
    documents = tokenize(text_config(path), TokenPolicy(mask_first=0, mask_special=False), tokenizer, None, 0)
    seen: set[bytes] = set()
    for index in range(documents.n_documents):
        own = slice(documents.offsets[index], documents.offsets[index + 1])
        prefixes = [documents.tokens_of(index)[: end + 1].tobytes() for end in range(own.stop - own.start)]
        assert documents.masked[own].tolist() == [prefix in seen for prefix in prefixes]
        seen.update(prefixes)
    assert documents.masked.any()
    kept = tokenize(
        text_config(path),
        TokenPolicy(mask_repeated=False, mask_first=0, mask_special=False),
        tokenizer,
        None,
        0,
    )
    assert not kept.masked.any()


def test_documents_are_truncated_and_limited(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_lines(tmp_path / "prose.jsonl", [{"text": f"{i} oak rose pine elm fern"} for i in range(9)])
    config = TextConfig.model_validate(
        {"sources": [{"path": str(path), "name": "prose", "limit": 5}], "max_length": 4}
    )
    documents = tokenize(config, TokenPolicy(), tokenizer, None, 0)
    assert documents.n_documents == 5
    assert documents.lengths.tolist() == [4] * 5


def test_txt_is_one_document_per_paragraph(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("\n\noak\nrose\n \n\npine\n\nelm", encoding="utf-8")
    documents = read(tokenizer, path)
    assert [tokenizer.decode(documents.tokens_of(i)[1:]) for i in range(3)] == ["oak\nrose", "pine", "elm"]


def test_unicode_line_separators_stay_inside_a_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "prose.jsonl"
    path.write_text('{"text": "oak\u2028rose"}\r\n{"text": "pine\u0085"}\n', encoding="utf-8")
    assert read(tokenizer, path).n_documents == 2


@settings(max_examples=60, deadline=None)
@given(
    sources=st.lists(st.lists(st.integers(0, 30), min_size=2, max_size=25), min_size=1, max_size=3),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 5),
)
def test_a_prompt_is_never_in_both_splits(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: PreTrainedTokenizerBase,
    sources: list[list[int]],
    share: float,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("split")
    paths = []
    for number, prompts in enumerate(sources):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"ask {p}"},
                    {"role": "assistant", "content": f"{number} {i}"},
                ]
            }
            for i, p in enumerate(prompts)
        ]
        paths.append(write_lines(folder / f"{number}.jsonl", lines))
    try:
        documents = read(tokenizer, *paths, held_out=share, seed=seed)
    except DataError:
        # Only if some source has no two prompts that could be split.
        seen: set[int] = set()
        assert any(
            len(set(prompts)) < 2 or seen & set(prompts) or seen.update(prompts) for prompts in sources
        )
        return
    prompts = np.array([prompt for source in sources for prompt in source])
    assert not set(prompts[documents.held_out]) & set(prompts[~documents.held_out])
    for index, own in enumerate(sources):
        held = documents.held_out[documents.source == index]
        assert 0 < held.sum() < len(own)
        if len(sources) == 1 and len(set(own)) == len(own):
            assert held.sum() == min(max(round(share * len(own)), 1), len(own) - 1)


def test_texts_equal_after_truncation_are_in_one_split(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Texts that are equal after truncation count as one, because the models read only what is left."""
    lines = [{"text": f"{'oak' if i % 2 else 'rose'} elm pine fern {i}"} for i in range(12)]
    documents = read(tokenizer, write_lines(tmp_path / "prose.jsonl", lines), max_length=3)
    ids = {
        side: {row.tobytes() for row in (documents.tokens_of(i) for i in documents.split(side))}
        for side in (True, False)
    }
    assert not ids[True] & ids[False]


def test_the_split_follows_the_seed(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    files = write_texts(tmp_path)
    one, again, other = (read(tokenizer, *files, seed=seed) for seed in (0, 0, 1))
    assert one.digest() == again.digest()
    assert one.digest() != other.digest()
    assert np.array_equal(one.token_ids, other.token_ids)


def test_saving_and_loading_changes_nothing(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    documents = read(tokenizer, *write_texts(tmp_path))
    documents.save(tmp_path / "documents.safetensors")
    loaded = Documents.load(tmp_path / "documents.safetensors")
    assert loaded.digest() == documents.digest()
    assert loaded.source_names == ("source0", "source1")
    content = (tmp_path / "documents.safetensors").read_bytes()
    documents.save(tmp_path / "documents.safetensors")
    assert (tmp_path / "documents.safetensors").read_bytes() == content


@pytest.mark.parametrize("length", [0, 5, 400, -1])
def test_a_truncated_file_is_refused_by_name(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, length: int
) -> None:
    path = tmp_path / "documents.safetensors"
    read(tokenizer, *write_texts(tmp_path)).save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FormatError, match=r"documents\.safetensors"):
        Documents.load(path)


GOOD = '{"text": "fine"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'{GOOD}\n{{"text": "x"\n', "line 2: not JSON"),
        (f'{GOOD}\n\n{{"text": " \\n"}}\n', "line 3: 'text' is empty"),
        (f'{GOOD}\n{{"txt": "x"}}\n', "line 2: expected an object with either 'text' or 'messages'"),
        (f'{GOOD}\n{{"text": "x", "messages": []}}\n', "line 2: expected an object with either"),
        (f"{GOOD}\n[1]\n", "line 2: expected an object"),
        (f'{GOOD}\n{{"text": 3}}\n', "line 2: 'text' is int '3'"),
        (f'{GOOD}\n{{"messages": []}}\n', "line 2: 'messages' is a list of 0"),
        (f'{GOOD}\n{{"messages": [{{"role": "user"}}]}}\n', "line 2: message 0 has no string 'content'"),
        (f'{GOOD}\n{{"messages": [{{"role": "user", "content": " "}}]}}\n', "line 2: all messages are empty"),
        ("", "contains no text"),
        ("\n\n", "contains no text"),
        (f"{GOOD}\n", "cannot be split into training and held-out"),
        (f"{GOOD}\n{GOOD}\n", "cannot be split into training and held-out"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, content: str, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="bad") as caught:
        read(tokenizer, path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_are_named(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ConfigError, match=r"source0.*gone\.jsonl does not exist"):
        read(tokenizer, tmp_path / "gone.jsonl")
    with pytest.raises(ConfigError, match="has no file of documents"):
        read(tokenizer, tmp_path)
    (tmp_path / "table.xls").write_text("a,b", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"ends in '\.xls'"):
        read(tokenizer, tmp_path / "table.xls")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: byte 3 is not UTF-8"):
        read(tokenizer, tmp_path / "latin.txt")
    chat, _ = write_texts(tmp_path)
    twice = TextConfig.model_validate({"sources": [{"path": str(chat), "name": "chat"}] * 2})
    with pytest.raises(ConfigError, match="the name 'chat' is used twice"):
        tokenize(twice, TokenPolicy(), tokenizer, CHAT_TEMPLATE, 0)


def test_chats_that_the_template_refuses(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [{"messages": chat} for chat in CHATS])
    with pytest.raises(DataError, match="line 1: a chat, but neither model's tokenizer has a chat template"):
        tokenize(text_config(path), TokenPolicy(), tokenizer, None, 0)
    refusing = "{{ raise_exception('no system role') }}"
    with pytest.raises(
        FormatError, match=r"line 1: the chat template refuses these messages \(no system role\)"
    ):
        tokenize(text_config(path), TokenPolicy(), tokenizer, refusing, 0)
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m['content'] | length }} {% endfor %}"
    with pytest.raises(FormatError, match="cannot be found in the text that the chat template renders"):
        tokenize(text_config(path), TokenPolicy(), tokenizer, rewriting, 0)
