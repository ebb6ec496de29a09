import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from analysis.latents.token_text import _BYTE_OF, display_vocabulary


def fast(vocabulary: list[str], decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], byte_fallback=False))
    backend.decoder = decoder
    backend.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def test_the_byte_alphabet_is_that_of_the_tokenizers_library() -> None:
    assert set(_BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(_BYTE_OF.values()) == list(range(256))


def test_byte_level_tokens() -> None:
    names = {byte: character for character, byte in _BYTE_OF.items()}

    def spelled(content: bytes) -> str:
        return "".join(names[byte] for byte in content)

    content = [
        b" bread",
        b"\n\n",
        "é".encode(),
        "é".encode()[:1],
        b"a" + "日".encode()[:2],
        "日本".encode(),
    ]
    shown = display_vocabulary(fast([spelled(token) for token in content], decoders.ByteLevel()))
    assert shown == [" bread", "\n\n", "é", "\\xc3", "a\\xe6\\x97", "日本", "<|end|>"]


def test_every_text_is_recovered_byte_for_byte() -> None:
    """Complete UTF-8 pieces concatenate to the text."""
    names = {byte: character for character, byte in _BYTE_OF.items()}
    text = "How «are» you? 😀\t\u202e"
    pieces = ["".join(names[byte] for byte in character.encode()) for character in dict.fromkeys(text)]
    shown = display_vocabulary(fast(pieces, decoders.ByteLevel()))
    place = {character: i for i, character in enumerate(dict.fromkeys(text))}
    assert "".join(shown[place[character]] for character in text) == text


def test_control_characters_are_spelled_out() -> None:
    names = {byte: character for character, byte in _BYTE_OF.items()}
    shown = display_vocabulary(
        fast(["".join(names[b] for b in (0, 65, 127)), names[9]], decoders.ByteLevel())
    )
    assert shown[:2] == ["\\x00A\\x7f", "\t"]


def test_sentencepiece_tokens() -> None:
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    shown = display_vocabulary(fast(["▁bread", "s", "<0xE6>", "<0x0A>", "▁▁"], decoder))
    assert shown == [" bread", "s", "\\xe6", "\n", "  ", "<|end|>"]


@pytest.mark.parametrize("at_least", [0, 5])
def test_ids_without_a_token_have_a_name(at_least: int) -> None:
    shown = display_vocabulary(fast(["a", "b"], decoders.ByteLevel()), at_least)
    assert shown == ["a", "b", "<|end|>", "<id 3>", "<id 4>"][: max(3, at_least)]
