"""Alignment of two tokenizers: aligned tokens have read the same characters, and only they are compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from crosscoder.config import TextConfig, TokenPolicy
from crosscoder.errors import DataError, PairError
from crosscoder.text.documents import Documents, tokenize
from crosscoder.text.text_files import Text
from crosscoder.text.token_alignment import (
    Aligner,
    Alignment,
    EncodedText,
    TextReader,
    counterpart_positions,
    token_ends,
)
from tests.tiny_pairs import CHAT_TEMPLATE, WORD_CHAT_TEMPLATE, WORDS, write_texts

HOSTILE = [
    "amber  birch\n\n cedar",
    "amber🙂birch 👨‍👩‍👧 cedar",
    "cafe\u0301 café naïve elm",
    "ﬁne №5 ½ Ǆ",
    " leading and trailing ",
    "木の葉 рябина",
    "<s> amber </s>",
    "a\u0301\u0302\u0303 b",
    "\u0301amber",
]


def byte_level(trim: bool = True, normalizer: Any = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE; offsets exclude the space before a word, as in most models."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS) + " " * 5, "🙂🙂 ﬁ"] * 3, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trim),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def words() -> PreTrainedTokenizerFast:
    """One token per word; white space belongs to none."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def pieces() -> PreTrainedTokenizerFast:
    """Metaspace pieces with byte fallback; white space can end a token."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=["<unk>", *fallback], show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TOKENIZERS = {
    "bytes": byte_level(),
    "untrimmed": byte_level(trim=False),
    "composed": byte_level(normalizer=normalizers.NFC()),
    "decomposed": byte_level(normalizer=normalizers.NFKD()),
    "words": words(),
    "pieces": pieces(),
    "stripped": byte_level(normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
}


def reader(name: str, template: str | None = None) -> TextReader:
    return TextReader(TOKENIZERS[name], template, name)


def read(names: tuple[str, str], text: str) -> tuple[EncodedText, EncodedText]:
    return Aligner((reader(names[0]), reader(names[1]))).read(Text(text, None, "here"))


def written(name: str, ids: np.ndarray) -> bytes:
    """Decode byte-level tokens to bytes."""
    byte_of = {letter: byte for byte, letter in enumerate_bytes()}
    return bytes(
        byte_of[letter] for token in TOKENIZERS[name].convert_ids_to_tokens(ids.tolist()) for letter in token
    )


def enumerate_bytes() -> list[tuple[int, str]]:
    """Map each byte to its character in byte-level vocabularies (GPT-2's table)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [(byte, chr(byte)) for byte in printable] + [(byte, chr(256 + n)) for n, byte in enumerate(others)]


texts = st.lists(
    st.sampled_from([*"abr \n🙂é\u0301木ﬁ\u200d", "amber", " birch"]), min_size=1, max_size=30
).map("".join)


@given(texts)
@settings(max_examples=60, deadline=None)
def test_a_token_with_an_end_has_read_exactly_these_characters(text: str) -> None:
    """The positive control of ends: the bytes of the tokens so far equal those of the characters so far."""
    for name in ("bytes", "untrimmed"):
        side = read((name, "untrimmed"), text)[0]
        for place in np.flatnonzero(side.ends):
            assert written(name, side.token_ids[1 : place + 1]) == text[: side.ends[place]].encode()


@given(texts, st.sampled_from(sorted(TOKENIZERS)), st.sampled_from(sorted(TOKENIZERS)))
@settings(max_examples=150, deadline=None)
def test_aligned_tokens_end_at_one_character_in_the_same_order(text: str, one: str, other: str) -> None:
    try:
        sides = read((one, other), text)
    except DataError:
        return  # a text of white space alone has no words
    places = counterpart_positions(sides[0].ends, sides[1].ends)
    met = np.flatnonzero(places >= 0)
    assert np.array_equal(sides[0].ends[met], sides[1].ends[places[met]])
    assert (np.diff(places[met]) > 0).all() and (np.diff(sides[0].ends[met]) > 0).all()
    swapped = counterpart_positions(sides[1].ends, sides[0].ends)
    assert np.array_equal(np.flatnonzero(swapped >= 0), places[met])
    assert np.array_equal(swapped[places[met]], met)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_a_tokenizer_aligns_with_itself_wherever_a_character_ends(name: str, text: str) -> None:
    one, other = read((name, name), text)
    places = counterpart_positions(one.ends, other.ends)
    met = places >= 0
    assert np.array_equal(places[met], np.flatnonzero(met))
    # Only pieces of a character, leading combining marks and the BOS end at no place; a token that does follows each.
    assert np.array_equal(met, one.ends > 0)
    assert met[-1]


def test_offsets_give_the_expected_ends() -> None:
    """Pieces of one character, a space that no token covers, a mark composed into the letter before it."""
    text = "é x🙂 e\u0301y"
    offsets = np.array([[0, 0], [0, 1], [0, 1], [2, 3], [3, 4], [3, 4], [5, 6], [7, 8]])
    real = np.array([False, *[True] * 7])
    assert token_ends(text, offsets, real).tolist() == [0, 0, 1, 3, 0, 4, 7, 8]


def test_the_last_token_of_equal_ends_is_aligned() -> None:
    assert counterpart_positions(np.array([0, 3, 3, 5]), np.array([1, 3, 5, 5])).tolist() == [-1, -1, 1, 3]


@pytest.mark.parametrize("text", HOSTILE)
def test_words_and_bytes_align_at_the_end_of_every_word(text: str) -> None:
    sides = read(("words", "bytes"), text)
    places = counterpart_positions(sides[0].ends, sides[1].ends)
    spans = TOKENIZERS["words"].backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    word_ends = {span[1] for _, span in spans}
    assert set(sides[0].ends[places >= 0].tolist()) == word_ends & set(sides[1].ends.tolist())
    if "<s>" not in text and text != "\u0301amber":
        assert (places >= 0).all()


def align(
    names: tuple[str, str], contents: list[str], max_length: int = 100
) -> tuple[list[EncodedText], Alignment]:
    aligner = Aligner((reader(names[0]), reader(names[1])))
    texts = [Text(text, None, f"text {n}") for n, text in enumerate(contents)]
    return aligner.align([aligner.read(text) for text in texts], max_length)


def test_rates_count_tokens_of_the_text() -> None:
    _, found = align(("words", "bytes"), ["amber birch 🙂", "cedar"])
    assert found.n_places == 4
    assert found.rates[0] == 1.0
    assert found.rates[1] == 4 / (len(found.token_ids) - 2), "the two BOS are no text"
    assert found.describe()["intervened"]["rate"] == found.rates[1]


def test_both_are_truncated_to_the_text_that_both_read() -> None:
    text = " ".join(WORDS)
    kept, found = align(("words", "bytes"), [text], max_length=8)
    length = int(found.lengths[0])
    assert length <= 8 and len(kept[0].token_ids) < 8
    assert found.places[-1] == length - 1
    assert TOKENIZERS["bytes"].decode(found.token_ids[1:]) == " ".join(WORDS[: len(kept[0].token_ids)])


def test_tokenizers_with_few_aligned_tokens_are_refused() -> None:
    """One unknown word for one model, three bytes per character for the other."""
    with pytest.raises(
        PairError, match=r"^pair\.align: only 100\.0% .*'words' and 1\.7% .*'bytes' .*at least 10%[^\n]*$"
    ):
        align(("words", "bytes"), ["木" * 20])


def test_an_empty_alignment_is_refused() -> None:
    """Truncated inside the only word, no tokens align."""
    with pytest.raises(PairError, match=r"only 0\.0% .* 0\.0%"):
        align(("words", "bytes"), ["木" * 20], max_length=4)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        pass

    with pytest.raises(PairError, match="'slow' gives no character offsets"):
        Aligner((reader("words"), TextReader(Slow(), None, "slow")))  # pyright: ignore[reportArgumentType]


# --- chats ------------------------------------------------------------------------------------------------------------

CHAT = (
    {"role": "user", "content": " amber birch?"},
    {"role": "assistant", "content": "elm 🙂 oak\n"},
)


def read_chat(
    messages: tuple[dict[str, str], ...], templates: tuple[str | None, str | None]
) -> tuple[EncodedText, EncodedText]:
    aligner = Aligner((reader("bytes", templates[0]), reader("words", templates[1])))
    return aligner.read(Text(None, messages, "chats.jsonl, line 1"))


def test_in_chats_contents_are_aligned_and_templates_are_not() -> None:
    """One template strips contents and the other does not; template tokens align with nothing, though both write the roles."""
    sides = read_chat(CHAT, (CHAT_TEMPLATE, WORD_CHAT_TEMPLATE))
    places = counterpart_positions(sides[0].ends, sides[1].ends)
    tokens = TOKENIZERS["words"].convert_ids_to_tokens(sides[1].token_ids[places[places >= 0]].tolist())
    assert tokens == ["amber", "birch", "<unk>", "elm", "<unk>", "oak"]
    assert not sides[0].template[places >= 0].any()
    assert not sides[1].template[places[places >= 0]].any()


def test_templates_that_render_contents_differently_are_refused() -> None:
    shouting = WORD_CHAT_TEMPLATE.replace("message['content']", "message['content'].upper()")
    with pytest.raises((DataError), match="line 1: the two chat templates render the contents"):
        read_chat(CHAT, (CHAT_TEMPLATE, shouting))


def test_a_chat_without_a_template_is_refused() -> None:
    with pytest.raises(DataError, match="line 1: a chat, but neither"):
        read_chat(CHAT, (None, WORD_CHAT_TEMPLATE))


# --- documents --------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> TextConfig:
    chat, prose = write_texts(tmp_path)
    return TextConfig.model_validate(
        {
            "sources": [{"path": str(chat), "name": "chat"}, {"path": str(prose), "name": "prose"}],
            "max_length": 40,
            "held_out": 0.2,
        }
    )


def documents_of(config: TextConfig, names: tuple[str, str], policy: TokenPolicy | None = None) -> Documents:
    templates = {"bytes": CHAT_TEMPLATE, "words": WORD_CHAT_TEMPLATE}
    one, other = (reader(name, templates[name]) for name in names)
    return tokenize(config, policy or TokenPolicy(), one.tokenizer, one.chat_template, 0, (one, other))


def test_exchanging_the_models_keeps_the_places(config: TextConfig) -> None:
    one, other = documents_of(config, ("bytes", "words")), documents_of(config, ("words", "bytes"))
    assert one.alignment is not None and other.alignment is not None
    assert np.array_equal(one.held_out, other.held_out)
    assert np.array_equal(one.unmasked, other.unmasked) and one.unmasked.sum() > 100
    for document in range(one.n_documents):
        for model in range(2):
            assert np.array_equal(one.tokens_of(document, model), other.tokens_of(document, 1 - model))
            assert np.array_equal(
                one.compared_tokens(document, model), other.compared_tokens(document, 1 - model)
            )
    assert one.alignment.rates == other.alignment.rates[::-1]


def test_a_token_is_masked_if_its_counterpart_is(config: TextConfig) -> None:
    """The first token of the model without BOS is a word, which is the second token of the model with BOS."""
    documents = documents_of(config, ("bytes", "words"), TokenPolicy(mask_first=1, mask_repeated=False))
    aligned = documents.alignment
    assert aligned is not None
    for document in range(documents.n_documents):
        own = documents.compared_tokens(document, 1)
        assert not own[0] and own.sum() == documents.compared_tokens(document).sum()
    template = documents.template
    assert documents.masked[template].all()


def test_repeated_prefixes_of_either_model_are_masked(tmp_path: Path) -> None:
    lines = ["amber birch cedar", "amber birch elm", "oak pine", "rose kale"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    config = TextConfig.model_validate(
        {"sources": [{"path": str(tmp_path / "texts.jsonl"), "name": "texts"}], "held_out": 0.5}
    )
    documents = documents_of(config, ("words", "bytes"), TokenPolicy(mask_first=0))
    assert documents.compared_tokens(0).tolist() == [True, True, True]
    assert documents.compared_tokens(1).tolist() == [False, False, True]


def test_saving_and_loading_keeps_the_alignment(config: TextConfig, tmp_path: Path) -> None:
    documents = documents_of(config, ("words", "bytes"))
    documents.save(tmp_path / "documents.safetensors")
    loaded = Documents.load(tmp_path / "documents.safetensors")
    assert loaded.digest() == documents.digest() != replace(documents, alignment=None).digest()
    assert loaded.alignment is not None and documents.alignment is not None
    assert loaded.alignment.rates == documents.alignment.rates
