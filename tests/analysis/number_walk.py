"""Compares every number that a reader of a report sees with the numbers that report.json stores.

The search goes through report.json together with its JSON schema, which gives the source of every text, and then through report.md and
report.html. These numbers need no field:

- numbers in text from elsewhere: `Quoted` and `Address` fields, the quotations of a sentence; `bdi` and `code` in HTML, code spans and links in Markdown;
- digits inside a word (L0, SmolLM2-135M, model.layers.15);
- `CITATIONS`, below.
"""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, NamedTuple

from analysis.report.json_schema import report_schema
from analysis.report.wording import Sentence

CITATIONS = ("Minder et al. 2025", "arXiv 2602.02304", "nearly 90°")

# Not inside a word, name or path; the minus sign is U+2212, and a hyphen joins words.
NUMBER = re.compile(
    r"(?<![\w.,\-/=#:])(?P<sign>−?)(?P<digits>\d[\d,]*(?:\.\d+)?)(?:e(?P<exponent>[+\-−]?\d+))?(?P<percent>\s?%)?(?![\w\-/])"
)
DURATION = re.compile(r"(?:(?P<hours>\d+) h (?P<minutes>\d+) min|(?P<rest>\d+) min (?P<seconds>\d+) s)")


class Shown(NamedTuple):
    """A number as shown: its text, its value, and by how much the stored number may differ from it."""

    text: str
    value: float
    within: float

    def is_of(self, number: float) -> bool:
        """Whether it is this number after rounding."""
        return abs(number - self.value) <= self.within * (1 + 1e-9) + 1e-12


def shown_in(text: str) -> Iterator[Shown]:
    """Yield every number in a text."""
    for citation in CITATIONS:
        text = text.replace(citation, " ")
    for found in DURATION.finditer(text):
        hours, minutes = int(found["hours"] or 0), int(found["minutes"] or found["rest"])
        value = 3600 * hours + 60 * minutes + int(found["seconds"] or 0)
        yield Shown(found[0], value, 30 if found["hours"] else 0.5)
    for found in NUMBER.finditer(DURATION.sub(" ", text)):
        digits = found["digits"].rstrip(",").replace(",", "")
        scale = 10.0 ** int((found["exponent"] or "0").replace("−", "-"))
        scale *= 0.01 if found["percent"] else 1.0
        value = float(digits) * scale * (-1 if found["sign"] else 1)
        yield Shown(found[0], value, 0.5 * 10 ** -len(digits.partition(".")[2]) * scale)


def complaints(report: Any, markdown: str, html: str, *, schema: dict[str, Any] | None = None) -> list[str]:
    """Return a line for each number that is shown but not stored.

    Args:
        report: The parsed JSON file.
        schema: Its JSON schema; default: that of report.json.
    """
    schema = schema or report_schema()
    lines = list(_json_complaints("", report, schema, schema["$defs"]))
    stored = set(_numbers(report))
    lines += [
        f"report.md: {found.text} is in no field"
        for found in shown_in(_words_of_markdown(markdown))
        if not any(found.is_of(number) for number in stored)
    ]
    return lines + list(_html_complaints(html, stored))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


# --- report.json ------------------------------------------------------------------------------------------------------


def _json_complaints(place: str, value: Any, schema: dict[str, Any], models: dict[str, Any]) -> Iterator[str]:
    name = schema.get("$ref", "").rpartition("/")[2]
    schema = models.get(name, schema)
    if name == "Sentence":
        yield from _sentence_complaints(place, Sentence.model_validate(value))
    elif isinstance(value, str):
        if _text_of(schema) == "words":
            yield from (f"{place}: {found.text} is words alone" for found in shown_in(value))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _json_complaints(f"{place}[{index}]", inner, _item_schema(schema, index), models)
    elif isinstance(value, dict) and "properties" in schema:
        if name == "Reason":
            yield from _retold_complaints(place, value)
        for key, inner in value.items():
            fitting = _fitting(schema["properties"][key], inner)
            yield from _json_complaints(f"{place}.{key}".lstrip("."), inner, fitting, models)


def _fitting(schema: dict[str, Any], value: Any) -> dict[str, Any]:
    """Return the alternative that fits the value; no field has two alternatives of one JSON type."""
    names = {str: "string", list: "array", dict: "object", type(None): "null"}
    wanted = names.get(type(value), "number")
    for option in schema.get("anyOf", ()):
        if option.get("type") == wanted or ("$ref" in option and wanted == "object"):
            return option
    return schema


def _item_schema(schema: dict[str, Any], index: int) -> dict[str, Any]:
    return schema["prefixItems"][index] if "prefixItems" in schema else schema["items"]


def _text_of(schema: dict[str, Any]) -> str:
    """Return the source of a text; `words` are the report's own."""
    return schema.get("x-text", "fixed" if "enum" in schema or "const" in schema else "words")


def _sentence_complaints(place: str, sentence: Sentence) -> Iterator[str]:
    for piece in sentence.pieces():
        if piece.kind == "words":
            yield from (f"{place}: {found.text} is in none of its numbers" for found in shown_in(piece.text))
        elif piece.kind == "number":
            assert piece.number is not None
            if [found.is_of(piece.number) for found in shown_in(piece.text)] != [True]:
                yield f"{place}: {piece.text} is not {piece.number}"


def _retold_complaints(place: str, reason: dict[str, Any]) -> Iterator[str]:
    numbers = [abs(number) for number in reason["numbers"].values()]
    # An earlier stage wrote it, with an ASCII minus: only magnitudes are compared.
    for found in shown_in(re.sub(r"(?<=[\s\[(])-(?=\d)", "", reason["example"])):
        if not any(found.is_of(number) for number in numbers):
            yield f"{place}.example: {found.text} is in none of its numbers"


# --- report.md and report.html -----------------------------------------------------------------------------------------


def _words_of_markdown(text: str) -> str:
    """Return Markdown without code spans, link targets and escapes."""
    text = re.sub(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)", " ", text)
    text = re.sub(r"\]\([^)]*\)", "] ", text)
    return re.sub(r"\\([^\w\s])", r"\1", text)


def _html_complaints(text: str, stored: set[float]) -> Iterator[str]:
    page = _Page(text)
    yield from (f"report.html: {found.text} is no data element" for found in shown_in(page.words))
    for value, shown in page.data:
        number = float(json.loads(value))
        if number not in stored:
            yield f"report.html: {value} is in no field"
        if [found.is_of(number) for found in shown_in(shown)] != [True]:
            yield f"report.html: {shown} is not {value}"


class _Page(HTMLParser):
    """The words of a page, without its numbers and text from elsewhere."""

    LEFT_OUT = ("bdi", "code", "style", "title", "svg")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words = ""
        self.data: list[tuple[str, str]] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.LEFT_OUT or tag == "data":
            self.inside.append(tag)
        if tag == "data":
            self.data.append((dict(attrs)["value"] or "", ""))

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.words += data
        elif self.inside[-1] == "data":
            value, shown = self.data[-1]
            self.data[-1] = value, shown + data
        elif self.words[-1:].isalnum():
            self.words += " "
