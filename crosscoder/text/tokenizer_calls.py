"""Every call of a tokenizer or a chat template: neither is trusted, so each has a limit on its time.

A regular expression in tokenizer.json, such as (a+)+$, can take a time that doubles with each letter of some texts, and a loop of a template
can go on for years. Oniguruma gives up on some of the former, with a panic.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from ..errors import FormatError, first_line
from ..runtime.time_limits import LateError, within

T = TypeVar("T")

LIMIT = 20.0
"""Seconds for a text or a chat of any length. Ordinary ones take a thousandth of one, also where other programs hold the machine."""

SLOWEST = 10_000
"""Characters a second that a tokenizer must read beyond that; ordinary ones read a million."""

AT_ONCE = 1_000_000
"""Characters of the texts that one call encodes."""

_SHOWN = 60


def encode(tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], **options: Any) -> Any:
    """Return what the tokenizer returns for a text, or for several: `input_ids` and the like.

    Raises:
        FormatError: It takes too long on them, or fails on one of them.
    """
    several = [texts] if isinstance(texts, str) else list(texts)
    read = texts if isinstance(texts, str) else several
    return _timed(lambda: tokenizer(read, verbose=False, **options), str(tokenizer.name_or_path), several)


def encode_each(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids of each text; many are encoded at once. Raises as `encode`."""
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text)
        if length >= AT_ONCE:
            yield from encode(tokenizer, batch)["input_ids"]
            batch, length = [], 0
    if batch:
        yield from encode(tokenizer, batch)["input_ids"]


def encode_alone(encoder: Tokenizer, text: str, name: str, *, special: bool) -> Encoding:
    """Return what the compiled part of a tokenizer returns for a text. Raises as `encode`."""
    return _timed(lambda: encoder.encode(text, add_special_tokens=special), name, [text])


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
    """Return what `apply_chat_template` returns for messages; it raises what the template raises.

    Raises:
        FormatError: The template takes too long.
    """
    characters = sum(len(str(message.get("content"))) for message in messages)
    seconds = LIMIT + characters / SLOWEST
    try:
        return within(seconds, lambda: tokenizer.apply_chat_template(list(messages), **options))
    except LateError:
        raise FormatError(
            f"the chat template of {str(tokenizer.name_or_path)!r} takes more than {seconds:.0f} s for a chat of {len(messages)} messages; "
            "correct its loops, or use another model"
        ) from None


def _timed(call: Callable[[], T], name: str, texts: Sequence[str]) -> T:
    seconds = LIMIT + sum(map(len, texts)) / SLOWEST
    shown = repr(texts[0] if len(texts[0]) <= _SHOWN else f"{texts[0][:_SHOWN]}…") if texts else "no text"
    where = shown if len(texts) < 2 else f"{len(texts)} texts, of which the first is {shown}"
    try:
        return within(seconds, call)
    except LateError:
        raise FormatError(
            f"the tokenizer of {name!r} takes more than {seconds:.0f} s on {where}; a regular expression in its tokenizer.json may "
            "have a repetition inside a repetition"
        ) from None
    except BaseException as error:
        # The exception of a panic is no Exception, and has no module to import it from.
        if type(error).__name__ != "PanicException":
            raise
        raise FormatError(
            f"the tokenizer of {name!r} fails on {where} ({first_line(error)}); correct its tokenizer.json, or use another model"
        ) from None
