"""Two tokenizers are the same if they give the same ids to every text, and only then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from crosscoder.errors import PairError
from crosscoder.text.tokenizer_rules import (
    PROBES,
    compare_tokenizers,
    ids_of,
    same_tokenizer,
    tokenizer_rules,
)
from tests.tiny_pairs import save_tokenizer

Settings = dict[str, Any]


def added(settings: Settings, **flags: Any) -> None:
    """Alter the token <|end|>."""
    next(token for token in settings["added_tokens"] if token["content"] == "<|end|>").update(flags)


def more(settings: Settings, content: str, **flags: Any) -> None:
    settings["added_tokens"].append(settings["added_tokens"][0] | {"id": 300, "content": content} | flags)


TRIMMING = {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "add_prefix_space": False}

DIFFERENT: dict[str, tuple[Callable[[Settings], Any], str]] = {
    "lowercase": (lambda s: s.update(normalizer={"type": "Lowercase"}), "normalizers (none and Lowercase)"),
    "unicode": (lambda s: s.update(normalizer={"type": "NFKC"}), "normalizers (none and NFKC)"),
    "strip": (
        lambda s: s.update(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}),
        "normalizers",
    ),
    "prefix space": (lambda s: s["pre_tokenizer"].update(add_prefix_space=True), "pre-tokenizers"),
    "no regex": (lambda s: s["pre_tokenizer"].update(use_regex=False), "pre-tokenizers"),
    "digits": (
        lambda s: s.update(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, s["pre_tokenizer"]],
            }
        ),
        "pre-tokenizers (ByteLevel and Digits, ByteLevel)",
    ),
    "no bos": (lambda s: s.update(post_processor=None), "post-processors (TemplateProcessing and none)"),
    "bos and eos": (
        lambda s: s["post_processor"]["single"].append({"SpecialToken": {"id": "<s>", "type_id": 0}}),
        "post-processors",
    ),
    "roberta": (lambda s: s.update(post_processor=TRIMMING | {"trim_offsets": True}), "post-processors"),
    "order of merges": (lambda s: s["model"]["merges"].reverse(), "merges"),
    "fewer merges": (lambda s: s["model"]["merges"].pop(3), "merges"),
    "ignored merges": (lambda s: s["model"].update(ignore_merges=True), "settings of their models"),
    "byte fallback": (lambda s: s["model"].update(byte_fallback=True), "settings of their models"),
    "dropout": (lambda s: s["model"].update(dropout=0.5), "settings of their models"),
    "end of word": (lambda s: s["model"].update(end_of_word_suffix="</w>"), "settings of their models"),
    "added token": (lambda s: more(s, "world"), "1 added tokens, e.g. 'world'"),
    "single word": (lambda s: added(s, single_word=True), "1 added tokens, e.g. '<|end|>'"),
    "strips left": (lambda s: added(s, lstrip=True), "1 added tokens, e.g. '<|end|>'"),
    "strips right": (lambda s: added(s, rstrip=True), "1 added tokens, e.g. '<|end|>'"),
}
"""Changes of tokenizer.json, and what the message says of them."""

EQUAL: dict[str, Callable[[Settings], Any]] = {
    "decoder": lambda s: s.update(decoder=None),
    "offsets": lambda s: s["pre_tokenizer"].update(trim_offsets=False),
    "pairs": lambda s: s["post_processor"]["pair"].pop(),
    "one in a sequence": lambda s: s.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [s["pre_tokenizer"]]}
    ),
    "offsets afterwards": lambda s: s.update(
        post_processor={
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                s["post_processor"],
            ],
        }
    ),
    "special": lambda s: added(s, special=False),
    "normalized, without a normalizer": lambda s: added(s, normalized=True),
    "truncation": lambda s: s.update(
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    ),
    "padding": lambda s: s.update(
        padding={
            "strategy": {"Fixed": 40}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 1, "pad_type_id": 0, "pad_token": "</s>",
        }
    ),
    "order of the vocabulary": lambda s: s["model"].update(
        vocab=dict(reversed(list(s["model"]["vocab"].items())))
    ),
}  # fmt: skip
"""Changes of tokenizer.json that change no id."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


def altered(folder: Path, tmp_path: Path, change: Callable[[Settings], Any]) -> PreTrainedTokenizerBase:
    settings = json.loads((folder / "tokenizer.json").read_text())
    change(settings)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_text((folder / name).read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_decides_ids_counts(folder: Path, tmp_path: Path, name: str) -> None:
    change, said = DIFFERENT[name]
    plain, other = AutoTokenizer.from_pretrained(folder), altered(folder, tmp_path, change)
    assert not same_tokenizer(plain, other)
    with pytest.raises(PairError) as caught:
        compare_tokenizers(plain, other, ("one", "other"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EQUAL)
def test_what_changes_no_id_does_not(folder: Path, tmp_path: Path, name: str) -> None:
    plain, other = AutoTokenizer.from_pretrained(folder), altered(folder, tmp_path, EQUAL[name])
    assert same_tokenizer(plain, other)
    compare_tokenizers(plain, other, ("one", "other"))
    # The positive control: the ids of all probes, and of a long text, are the same too.
    for text in (*PROBES, "birch oak " * 500):
        assert ids_of(plain, text) == ids_of(other, text)
    assert tokenizer_rules(plain) == tokenizer_rules(other), "use of a tokenizer changes nothing"


@pytest.mark.parametrize("cause", ["normalizer", "overlap"])
def test_where_added_tokens_are_looked_for_counts_if_it_can_matter(
    folder: Path, tmp_path: Path, cause: str
) -> None:
    found = []
    for number, normalized in enumerate((False, True)):
        (tmp_path / str(number)).mkdir()

        def change(settings: Settings, normalized: bool = normalized) -> None:
            if cause == "normalizer":
                settings["normalizer"] = {
                    "type": "Replace",
                    "pattern": {"String": "END"},
                    "content": "<|end|>",
                }
            else:
                more(settings, "a<|end|>", normalized=True)
            added(settings, normalized=normalized)

        found.append(altered(folder, tmp_path / str(number), change))
    text = "oak END" if cause == "normalizer" else "oa<|end|>"
    assert not same_tokenizer(*found)
    assert ids_of(found[0], text) != ids_of(found[1], text), "the positive control"


NOTHING = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}


def test_post_processors_that_add_nothing_are_none(folder: Path, tmp_path: Path) -> None:
    found = []
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    for number, processor in enumerate((None, NOTHING, bytes_alone)):
        (tmp_path / str(number)).mkdir()

        def change(settings: Settings, processor: Settings | None = processor) -> None:
            settings.update(post_processor=processor)

        found.append(altered(folder, tmp_path / str(number), change))
    assert same_tokenizer(found[0], found[1])
    assert same_tokenizer(found[0], found[2])
    assert ids_of(found[0], "oak") == ids_of(found[1], "oak") == ids_of(found[2], "oak")


def test_of_several_post_processors_all_counts(folder: Path, tmp_path: Path) -> None:
    """The second takes what the first made for a pair of texts: here it drops everything."""

    def twice(settings: Settings) -> None:
        settings.update(
            post_processor={"type": "Sequence", "processors": [settings["post_processor"], NOTHING]}
        )

    plain, other = AutoTokenizer.from_pretrained(folder), altered(folder, tmp_path, twice)
    assert ids_of(other, "oak") != ids_of(plain, "oak")
    assert not same_tokenizer(plain, other)


def test_settings_of_the_loaded_tokenizer_that_change_no_id_do_not_count(folder: Path) -> None:
    plain = AutoTokenizer.from_pretrained(folder)
    other = AutoTokenizer.from_pretrained(
        folder, padding_side="left", truncation_side="left", model_max_length=7
    )
    other.chat_template = "{{ messages }}"
    other.name_or_path = "elsewhere"
    assert same_tokenizer(plain, other)
    assert not same_tokenizer(plain, AutoTokenizer.from_pretrained(folder, split_special_tokens=True))


def test_the_message_shows_a_text_with_other_ids(folder: Path, tmp_path: Path) -> None:
    plain = AutoTokenizer.from_pretrained(folder)
    other = altered(folder, tmp_path, DIFFERENT["lowercase"][0])
    with pytest.raises(PairError, match=r"\('Hello World' becomes \[0, .*\] and \[0, .*\]\); give two"):
        compare_tokenizers(plain, other, ("one", "other"))


def test_slow_tokenizers_are_compared_by_probes(folder: Path) -> None:
    class Lowercase(ByT5Tokenizer):
        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return super()._tokenize(text.lower())

    plain, same, other = ByT5Tokenizer(), ByT5Tokenizer(padding_side="left"), Lowercase()
    assert not plain.is_fast
    assert same_tokenizer(plain, same)
    # Same class name, so that the probes alone decide.
    Lowercase.__name__ = "ByT5Tokenizer"
    assert not same_tokenizer(plain, other)
    with pytest.raises(PairError, match="differ in the ids that they give"):
        compare_tokenizers(plain, other, ("one", "other"))
    assert not same_tokenizer(plain, ByT5Tokenizer(extra_ids=3))
    assert not same_tokenizer(plain, AutoTokenizer.from_pretrained(folder))


def test_rules_are_json(folder: Path) -> None:
    for tokenizer in (AutoTokenizer.from_pretrained(folder), ByT5Tokenizer()):
        rules = tokenizer_rules(tokenizer)
        assert json.loads(json.dumps(rules)) == rules
