"""Display text of single tokens.

Tokens are pieces of bytes, not of text: a character can be split. Incomplete UTF-8 is shown as \\xNN per byte, and so are control
characters. Spaces and line breaks are kept; the pages make them visible.
"""

import re
import unicodedata

from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def display_vocabulary(tokenizer: PreTrainedTokenizerBase, at_least: int = 0) -> list[str]:
    """Return the display text of every token id up to the largest known one, for at least `at_least` ids."""
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    size = max(len(tokenizer), at_least, max(added, default=-1) + 1)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    show = _from_byte_level if _is_byte_level(tokenizer) else _from_pieces
    texts = []
    for index in range(size):
        piece = pieces[index] if index < len(pieces) else None
        if index in added:
            texts.append(added[index])
        else:
            # An embedding matrix can have more rows than the vocabulary has tokens; such an id has no text.
            texts.append(f"<id {index}>" if piece is None else show(piece))
    return texts


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(backend.decoder)


def _from_byte_level(piece: str) -> str:
    """Decode GPT-2's byte-level alphabet, in which each character stands for a byte."""
    try:
        content = bytes(_BYTE_OF[character] for character in piece)
    except KeyError:
        return piece
    return _without_controls(content.decode("utf-8", errors="backslashreplace"))


def _from_pieces(piece: str) -> str:
    """Decode SentencePiece: ▁ is a space, and <0xNN> a byte."""
    byte = _BYTE_TOKEN.fullmatch(piece)
    if byte is not None:
        return _without_controls(bytes.fromhex(byte[1]).decode("utf-8", errors="backslashreplace"))
    return _without_controls(piece.replace("▁", " "))


def _without_controls(text: str) -> str:
    return "".join(
        f"\\x{ord(character):02x}"
        if unicodedata.category(character) == "Cc" and character not in "\n\r\t"
        else character
        for character in text
    )


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character: printable bytes are themselves, the others are the characters from 256 on (Radford et al. 2019)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
