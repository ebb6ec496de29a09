"""Sentences that hold the numbers they were made from, so that what is read and what is stored cannot differ.

    say("It explains {fve:percent} of the difference.", fve=0.606)

gives the text, and beside it `{"fve": 0.606}`. A number written into the template itself would be in no field of report.json; a
test walks every report for such. Text that others wrote (tokens, names, digests) goes in as a `Quote`.
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
    """Text that others wrote: a token or a piece of text in quotation marks, or a name, digest or path, plain."""

    text: str
    style: Literal["token", "peak", "plain"] = "token"


def named(text: object) -> Quote:
    """A name, digest, path or setting, as it was found."""
    return Quote(str(text), "plain")


class Piece(NamedTuple):
    """Words of the report's own, a number as it is shown, or a quotation without its marks."""

    kind: Literal["words", "number", "token", "peak", "plain"]
    text: str
    number: Number | None = None


class Sentence(BaseModel):
    """A sentence, and every number and quotation in it by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    text: str
    """The sentence as it is read: `template` with the numbers and quotations filled in."""

    template: str
    """The sentence with a place `{name:format}` for each number and each quotation, doubled braces standing for themselves. Formats
    of numbers: `percent` (of a share), `whole` (thousands separated), `counted NOUN`, or those of Python; of quotations: `token`, `peak`, `plain`."""

    numbers: dict[str, int | float | None]
    """Every number in the text, unrounded, in the unit in which it was measured (shares are 0 to 1); null: not measured."""

    quotes: dict[str, str]
    """Every text in it that others wrote: tokens, pieces of documents, names, paths, digests."""

    @model_validator(mode="after")
    def _says_its_numbers(self) -> Self:
        if self.text != _joined(self.pieces()):
            raise ValueError("the text is not what its template and numbers give")
        return self

    def pieces(self) -> Iterator[Piece]:
        """What the text is put together from, in order."""
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
                    else Piece("number", shown(number, form or ""), number)
                )
            elif place in self.quotes:
                yield Piece(_style(form), self.quotes[place])
            else:
                raise ValueError(
                    f"the template names {place}, which is neither a number nor a quotation of the sentence"
                )

    def under(self, prefix: str) -> "Sentence":
        """The same with every name `prefix.name`, so that sentences of one kind can be put into one."""
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
"""A number (None: not measured), words of the report's own, text of others, or a sentence that becomes a part of another."""


def say(template: str, /, **parts: Part) -> Sentence:
    """A sentence from a template with a place `{name:format}` for each part; `Sentence` says what formats there are.

    Raises `ValueError` where two parts bring a number of one name.
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
                _take(numbers, inner.numbers)
                _take(quotes, inner.quotes)
                pieces.append(inner.template)
            case Quote(_, style):
                pieces.append(f"{{{place}:{style}}}")
            case str() as words:
                pieces.append(_escaped(words))
            case _:
                pieces.append(f"{{{place}:{form}}}")
    if both := numbers.keys() & quotes.keys():
        raise ValueError(f"{', '.join(sorted(both))} names a number and a quotation of one sentence")
    return _sentence("".join(pieces), numbers, quotes)


def listed(sentences: Iterable[tuple[str, Sentence]], separator: str = ", ") -> Sentence:
    """Sentences of one kind in a row; each keeps its numbers under its own name, a repeated name under its place too."""
    parts: dict[str, Part] = {}
    known: set[str] = set()
    for key, inner in sentences:
        prefix = _prefix(key) if _prefix(key) not in known else f"{_prefix(key)}_{len(parts)}"
        known.add(prefix)
        parts[f"part{len(parts)}"] = inner.under(prefix)
    return say(_escaped(separator).join(f"{{{place}}}" for place in parts), **parts)


def tokens(texts: Iterable[str], called: str = "token") -> Sentence:
    """Tokens in quotation marks, in a row."""
    quotes = {f"{called}_{place}": Quote(text) for place, text in enumerate(texts)}
    return say(", ".join(f"{{{key}}}" for key in quotes), **quotes)


def shown(number: Number, form: str) -> str:
    """A number as a format says."""
    if form in _NAMED:
        text = _NAMED[form](number)
    elif form.startswith(_COUNTED):
        text = counted(int(number), form.removeprefix(_COUNTED))
    else:
        text = format(number, form)
    return re.sub("^-", "−", text)


def plain(number: object) -> Number | None:
    """A number of Python; None where it was not measured."""
    item = getattr(number, "item", None)
    number = item() if item is not None else number
    return number if present(number) and isinstance(number, int | float) else None


def _sentence(template: str, numbers: Mapping[str, Number | None], quotes: Mapping[str, str]) -> Sentence:
    # Its text follows from the rest, which only a sentence can put together.
    draft = Sentence.model_construct(text="", template=template, numbers=dict(numbers), quotes=dict(quotes))
    return Sentence(
        text=_joined(draft.pieces()), template=template, numbers=dict(numbers), quotes=dict(quotes)
    )


def _joined(pieces: Iterator[Piece]) -> str:
    return "".join(f"“{piece.text}”" if piece.kind in ("token", "peak") else piece.text for piece in pieces)


def _style(form: str | None) -> Literal["token", "peak", "plain"]:
    if form == "token" or form == "peak" or form == "plain":
        return form
    raise ValueError(f"{form} is no format of a quotation")


def _prefix(key: str) -> str:
    """A name that can stand in a template."""
    return re.sub(r"[^\w/-]+", "_", key)


def _escaped(words: str) -> str:
    return words.replace("{", "{{").replace("}", "}}")


def _take(into: dict[str, Value], more: Mapping[str, Value]) -> None:
    if both := into.keys() & more.keys():
        raise ValueError(
            f"two parts of a sentence bring {', '.join(sorted(both))}; name one of them otherwise"
        )
    into.update(more)
