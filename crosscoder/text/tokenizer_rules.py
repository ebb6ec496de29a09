"""What decides the token ids that a tokenizer gives to a text, and whether two tokenizers give the same.

Of a fast tokenizer, that is its serialized form (tokenizer.json) without the parts that change no id: the decoder, offsets, type ids, the
template of text pairs, and `special`, which decides what is masked. Padding and truncation do not count either, because they are arguments
of every call here, which override what a tokenizer was saved with. A slow tokenizer has no such form, so its vocabulary is compared, and
the ids that it gives to `PROBES`.

The chat template is not part of it: it makes the text, and is recorded and compared on its own.
"""

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import PairError
from .tokenizer_calls import encode

PROBES = (
    "Hello World", "hello world", "HELLO", " leading", "trailing ", "two  spaces   three", "tab\tand\nline\r\nends\n\n", "",
    "1", "12345 1,234.56 2024-01-31 0x1F ½ ²", "don't it's we'll I'VE", "state-of-the-art (really?!) \u201cquoted\u201d…",
    "def f(x):\n    return x ** 2  # comment", "snake_case camelCase kebab-case", "https://example.org/a?b=c&d=%20",
    "Füße naïve café ﬁ Å\u030a e\u0301 İstanbul ß ẞ", "Привет, мир", "Καλημέρα κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "你好，世界", "こんにちは世界カナ ｶﾅ", "안녕하세요 세계", "😀👩‍👩‍👧‍👦🏳️‍🌈 👍🏽", "\u200bzero\u200dwidth\ufeff", "\u00a0nbsp\u3000wide", "x\u0000y", "𝒳𝔘 \U0010ffff",
    "<s></s><pad><unk><mask>", "<|endoftext|><|im_start|>user<|im_end|>", "[CLS] [SEP] [MASK] [INST] [/INST]", "▁Ġ▁▁ <0x0A>",
)  # fmt: skip
"""Texts of many scripts, kinds of white space, digits, symbols and special tokens."""

# Entries of a serialized normalizer, pre-tokenizer or post-processor that change offsets or type ids alone.
_WITHOUT_EFFECT = frozenset({"trim_offsets", "type_id", "pair", "cls_type_id"})

_FLAGS = ("lstrip", "rstrip", "single_word")

_NOUNS = {
    "added": "added tokens",
    "tokens": "vocabulary entries",
    "merges": "their merges",
    "normalizer": "their normalizers",
    "pre_tokenizer": "their pre-tokenizers",
    "post_processor": "their post-processors",
    "model": "the settings of their models",
    "calls": "how they are called",
    "kind": "their kinds",
    "probes": "the ids that they give",
    "normalized": "where their added tokens are looked for",
}


def tokenizer_rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what decides token ids, as a JSON value in named parts. Equal values give equal ids to every text."""
    calls = {"split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False))}
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not tokenizer.is_fast or backend is None:
        added = {
            token.content: [index, *(getattr(token, flag) for flag in (*_FLAGS, "normalized"))]
            for index, token in tokenizer.added_tokens_decoder.items()
        }
        return {
            "kind": type(tokenizer).__name__,
            "tokens": tokenizer.get_vocab(),
            "added": added,
            "probes": {text: ids_of(tokenizer, text) for text in PROBES},
            "calls": calls,
        }
    settings = json.loads(backend.to_str())
    model = settings["model"]
    vocabulary = model.pop("vocab", None)
    normalizer = _plain(_members(settings["normalizer"], "normalizers"))
    return {
        "kind": "fast",
        # A list, of pieces and scores, in a unigram model.
        "tokens": vocabulary
        if isinstance(vocabulary, dict)
        else {piece: [index, *rest] for index, (piece, *rest) in enumerate(vocabulary or [])},
        "merges": model.pop("merges", None),
        "model": model,
        "added": {
            token["content"]: [token["id"], *(token[flag] for flag in _FLAGS)]
            for token in settings["added_tokens"]
        },
        "normalized": _normalized(settings["added_tokens"], has_normalizer=bool(normalizer)),
        "normalizer": normalizer,
        "pre_tokenizer": _plain(_members(settings["pre_tokenizer"], "pretokenizers")),
        "post_processor": _post_processors(settings["post_processor"]),
        "calls": calls,
    }


def same_tokenizer(reference: PreTrainedTokenizerBase, intervened: PreTrainedTokenizerBase) -> bool:
    """Whether both tokenizers give the same ids to the same text."""
    return reference is intervened or tokenizer_rules(reference) == tokenizer_rules(intervened)


def compare_tokenizers(
    reference: PreTrainedTokenizerBase,
    intervened: PreTrainedTokenizerBase,
    names: tuple[str, str],
    remedy: str = "give two models with one tokenizer",
) -> None:
    """Check that both tokenizers give the same ids to the same text.

    Args:
        remedy: The fix that the error message suggests.

    Raises:
        PairError: They differ; the message names both models, the parts that differ, and an example.
    """
    if reference is intervened:
        return
    one, other = tokenizer_rules(reference), tokenizer_rules(intervened)
    if one == other:
        return
    sizes = [len(tokenizer.get_vocab()) for tokenizer in (reference, intervened)]
    raise PairError(
        f"pair: the tokenizers of {names[0]!r} ({sizes[0]} tokens) and {names[1]!r} ({sizes[1]} tokens) "
        f"differ in {_difference(one, other)}{_example(reference, intervened)}; {remedy}"
    )


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text, as documents are encoded."""
    return list(encode(tokenizer, text)["input_ids"])


def _normalized(tokens: list[dict[str, Any]], *, has_normalizer: bool) -> dict[str, bool] | None:
    """Return whether each added token is looked for after normalization, or before; None if that decides no id.

    Without a normalizer it does so only where tokens overlap, and tools that save tokenizers set it differently.
    """
    if has_normalizer or _overlap([token["content"] for token in tokens]):
        return {token["content"]: token["normalized"] for token in tokens}
    return None


def _overlap(contents: list[str]) -> bool:
    """Whether two different texts can be found at overlapping places: one ends with the beginning of another, or contains it."""
    beginnings = {text[:end] for text in contents for end in range(1, len(text) + 1)}
    whole = set(contents)
    return any(
        (text[start:] in beginnings and start > 0)
        or any(text[start:end] in whole for end in range(start + 1, len(text) + (start > 0)))
        for text in contents
        for start in range(len(text))
    )


def _members(setting: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """Return the steps of a serialized component in order, without nested sequences."""
    if setting is None:
        return []
    if setting["type"] == "Sequence":
        return [step for member in setting[members] for step in _members(member, members)]
    return [setting]


def _post_processors(setting: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps that add special tokens; the only one with the ids in the place of their names."""
    steps = [step for step in _members(setting, "processors") if step["type"] != "ByteLevel"]
    if len(steps) != 1:
        # The first step of several makes parts, which the next one treats as a pair of texts. So all of them counts.
        return steps
    if steps[0]["type"] != "TemplateProcessing":
        return [_plain(steps[0])]
    added = steps[0]["special_tokens"]
    single = [
        part["Sequence"]["id"] if "Sequence" in part else added[part["SpecialToken"]["id"]]["ids"]
        for part in steps[0]["single"]
    ]
    return [] if single == ["A"] else [{"type": "TemplateProcessing", "single": single}]


def _plain(value: Any) -> Any:
    """Return a serialized component without what changes no id."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items() if name not in _WITHOUT_EFFECT}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Name the parts that differ, with an entry that only one has."""
    found = []
    for part, noun in _NOUNS.items():
        mine, theirs = one.get(part), other.get(part)
        if mine == theirs or (part == "normalized" and found):
            continue
        if part in ("added", "tokens") and isinstance(mine, dict) and isinstance(theirs, dict):
            differing = sorted(
                name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
            )
            found.append(f"{len(differing)} {noun}, e.g. {differing[0]!r}")
        else:
            kinds = {_kinds(mine), _kinds(theirs)} - {None}
            found.append(f"{noun} ({_kinds(mine)} and {_kinds(theirs)})" if len(kinds) == 2 else noun)
    return " and ".join(found[:3])


def _kinds(steps: Any) -> str | None:
    """Name the steps of a component; None if it is something else."""
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "type" in step for step in steps):
        return None
    return ", ".join(step["type"] for step in steps) or "none"


def _example(reference: PreTrainedTokenizerBase, intervened: PreTrainedTokenizerBase) -> str:
    """Return the first probe with different ids, to append to a message; empty if no probe shows the difference."""
    for text in PROBES:
        one, other = ids_of(reference, text), ids_of(intervened, text)
        if one != other:
            return f" ({text!r} becomes {_short(one)} and {_short(other)})"
    return ""


def _short(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:6]))}{', …' if len(ids) > 6 else ''}]"
