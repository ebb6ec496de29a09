"""Sentences that store the numbers they were made from, so that text and data cannot differ.

    say("It explains {fve:percent} of the difference.", fve=0.606)

gives the text together with `{"fve": 0.606}`. A number written into the template itself would be in no field of report.json; a
test searches reports for such numbers. Text from elsewhere (tokens, names, digests) is passed as a `Quote`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from string import Formatter
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from .phrases import NOT_MEASURED, Number, counted, percent, present, visible, whole

_NAMED = {"percent": percent, "whole": whole}
_COUNTED = "counted "

Value = TypeVar("Value")


class Quote(NamedTuple):
    """Text from elsewhere: a token or excerpt in quotation marks, or a name, digest or path without them."""

    text: str
    style: Literal["token", "peak", "plain"] = "token"


def named(text: object) -> Quote:
    """Return a name, digest, path or setting as a quotation without marks."""
    return Quote(str(text), "plain")


class Piece(NamedTuple):
    """A part of a sentence: the report's own words, a formatted number, or a quotation without its marks."""

    kind: Literal["words", "number", "token", "peak", "plain"]
    text: str
    number: Number | None = None


class Sentence(BaseModel):
    """A sentence, with every number and quotation in it by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    text: str
    """The sentence: `template` with the numbers and quotations filled in."""

    template: str
    """The sentence with a field `{name:format}` for each number and quotation; doubled braces are literal braces. Formats of numbers:
    `percent` (of a share), `whole` (thousands separated), `counted NOUN`, or those of Python; of quotations: `token`, `peak`, `plain`."""

    numbers: dict[str, int | float | None]
    """Every number in the text, unrounded, in the unit in which it was measured (shares are 0 to 1); null if not measured."""

    quotes: dict[str, str]
    """Every text in it from elsewhere: tokens, excerpts of documents, names, paths, digests."""

    @model_validator(mode="after")
    def _text_matches_numbers(self) -> Self:
        if self.text != _joined(self.pieces()):
            raise ValueError("text does not match template and numbers")
        return self

    def pieces(self) -> Iterator[Piece]:
        """Yield the parts of the text, in order."""
        for literal, place, form, _ in Formatter().parse(self.template):
            if literal:
                yield Piece("words", literal)
            if place is None:
                continue
            if place in self.numbers:
                number = self.numbers[place]
                yield (
                    Piece("words", NOT_MEASURED)
                    if number is None
                    else Piece("number", format_number(number, form or ""), number)
                )
            elif place in self.quotes:
                yield Piece(_style(form), self.quotes[place])
            else:
                raise ValueError(
                    f"{place} in the template is neither a number nor a quotation of the sentence"
                )

    def under(self, prefix: str) -> "Sentence":
        """Return the sentence with every name as `prefix.name`, so that sentences with the same names can be combined."""
        before = _prefix(prefix)
        renamed = "".join(
            _escaped(literal) + ("" if place is None else f"{{{before}.{place}:{form}}}")
            for literal, place, form, _ in Formatter().parse(self.template)
        )
        return _sentence(
            renamed,
            {f"{before}.{key}": value for key, value in self.numbers.items()},
            {f"{before}.{key}": value for key, value in self.quotes.items()},
        )

    def __str__(self) -> str:
        return self.text


Part = Number | str | Quote | Sentence | None
"""What fills a field of a template: a number (None if not measured), the report's own words, a quotation, or a sentence."""


def say(template: str, /, **parts: Part) -> Sentence:
    """Return a sentence from a template with a field `{name:format}` for each part; `Sentence.template` lists the formats.

    Raises `ValueError` if two parts have a number or quotation with the same name.
    """
    fields = [(literal, place, form) for literal, place, form, _ in Formatter().parse(template)]
    used = {place: parts[place] for _, place, _ in fields if place is not None}
    quotes = {place: visible(part.text) for place, part in used.items() if isinstance(part, Quote)}
    numbers = {
        place: plain(part) for place, part in used.items() if not isinstance(part, Quote | Sentence | str)
    }
    pieces = []
    for literal, place, form in fields:
        pieces.append(_escaped(literal))
        if place is None:
            continue
        match used[place]:
            case Sentence() as inner:
                _add(numbers, inner.numbers)
                _add(quotes, inner.quotes)
                pieces.append(inner.template)
            case Quote(_, style):
                pieces.append(f"{{{place}:{style}}}")
            case str() as words:
                pieces.append(_escaped(words))
            case _:
                pieces.append(f"{{{place}:{form}}}")
    if both := numbers.keys() & quotes.keys():
        raise ValueError(f"{', '.join(sorted(both))} is both a number and a quotation of the sentence")
    return _sentence("".join(pieces), numbers, quotes)


def listed(sentences: Iterable[tuple[str, Sentence]], separator: str = ", ") -> Sentence:
    """Return the sentences joined into one; names are prefixed with each key, and with its place if the key repeats."""
    parts: dict[str, Part] = {}
    known: set[str] = set()
    for key, inner in sentences:
        prefix = _prefix(key) if _prefix(key) not in known else f"{_prefix(key)}_{len(parts)}"
        known.add(prefix)
        parts[f"part{len(parts)}"] = inner.under(prefix)
    return say(_escaped(separator).join(f"{{{place}}}" for place in parts), **parts)


def tokens(texts: Iterable[str], called: str = "token") -> Sentence:
    """Return a list of tokens in quotation marks."""
    quotes = {f"{called}_{place}": Quote(text) for place, text in enumerate(texts)}
    return say(", ".join(f"{{{key}}}" for key in quotes), **quotes)


def format_number(number: Number, form: str) -> str:
    """Return a number in a format of `Sentence.template`."""
    if form in _NAMED:
        text = _NAMED[form](number)
    elif form.startswith(_COUNTED):
        text = counted(int(number), form.removeprefix(_COUNTED))
    else:
        text = format(number, form)
    return re.sub("^-", "−", text)


def plain(number: object) -> Number | None:
    """Return a Python number; None if it was not measured."""
    item = getattr(number, "item", None)
    number = item() if item is not None else number
    return number if present(number) and isinstance(number, int | float) else None


def _sentence(template: str, numbers: Mapping[str, Number | None], quotes: Mapping[str, str]) -> Sentence:
    # The text follows from the other fields, by `pieces` of a sentence without text.
    draft = Sentence.model_construct(text="", template=template, numbers=dict(numbers), quotes=dict(quotes))
    return Sentence(
        text=_joined(draft.pieces()), template=template, numbers=dict(numbers), quotes=dict(quotes)
    )


def _joined(pieces: Iterator[Piece]) -> str:
    return "".join(f"“{piece.text}”" if piece.kind in ("token", "peak") else piece.text for piece in pieces)


def _style(form: str | None) -> Literal["token", "peak", "plain"]:
    if form == "token" or form == "peak" or form == "plain":
        return form
    raise ValueError(f"{form} is not a format of a quotation")


def _prefix(key: str) -> str:
    """Return the key as a name that is valid in a template."""
    return re.sub(r"[^\w/-]+", "_", key)


def _escaped(words: str) -> str:
    return words.replace("{", "{{").replace("}", "}}")


def _add(into: dict[str, Value], more: Mapping[str, Value]) -> None:
    if both := into.keys() & more.keys():
        raise ValueError(f"two parts of a sentence have {', '.join(sorted(both))}; rename one of them")
    into.update(more)
