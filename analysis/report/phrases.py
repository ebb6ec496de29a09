"""How numbers and tokens are written, the same in every sentence."""

import math
import re
import unicodedata
from typing import Final

# JSON does not distinguish 1 from 1.0.
Number = int | float

NOT_MEASURED: Final = "not measured"

_NAMED = {"\n": "↵", "\r": "␍", "\t": "⇥"}
# Controls, formats (which reorder or hide their neighbors), surrogates, private use, line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def visible(text: str) -> str:
    """Return text in which characters that are invisible, or that would reorder their neighbors, are spelled out."""
    return "".join(
        _NAMED.get(letter, f"\\u{ord(letter):04x}") if unicodedata.category(letter) in _INVISIBLE else letter
        for letter in text
    )


def token(text: str) -> str:
    """Return a token for a sentence: visible, without surrounding spaces."""
    return visible(text).strip(" ") or "␣"


def present(value: object) -> bool:
    """Whether a number was measured: neither None nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def percent(value: Number | None) -> str:
    """Return a share in percent, with two or three significant digits."""
    if value is None:
        return NOT_MEASURED
    share = value * 100
    size = abs(share)
    digits = (
        0
        if size == 0
        else 1
        if size >= 9.95
        else 2
        if size >= 0.0995
        else min(6, 1 - math.floor(math.log10(size)))
    )
    return f"{share:.{digits}f} %".replace("-", "−")


def unit_format(unit: str) -> str:
    """Return the format, for a place in a sentence, of a behavior's values in this unit."""
    return "percent" if unit == "share of answers" else ".2f"


def whole(value: Number | None) -> str:
    """Return a count, with thousands separated."""
    return f"{value:,.0f}" if value is not None else NOT_MEASURED


def seconds(value: Number | None) -> str:
    """Return a duration in seconds as text."""
    if value is None:
        return "not recorded"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counted(number: int, noun: str) -> str:
    """Return `1 latent`, `3 latents`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def markdown(text: str) -> str:
    """Return Markdown that shows exactly this text."""
    escaped = re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", visible(text))
    return re.sub(r"^([-+]|\d+\.)(?=\s)", r"\\\1", escaped)


def markdown_code(text: str) -> str:
    """Return text as a Markdown code span, whatever backticks it contains."""
    shown = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest or shown[:1] == " " or shown[-1:] == " " else ""
    return f"{fence}{space}{shown}{space}{fence}"
