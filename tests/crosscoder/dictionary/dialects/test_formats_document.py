"""The tables of docs/formats.md are true: their rows are the dictionaries of the tests."""

import inspect
import re
from typing import get_args

from crosscoder.command.dictionaries import export
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.dictionary.dialects.registry import DIALECTS
from tests.documents import ROOT
from tests.foreign_dictionaries import CASES, REFUSED

TEXT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is this."""
    lines = TEXT[TEXT.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def formats() -> set[str]:
    """The choices of `crosscoder export --to`."""
    return set(get_args(get_args(inspect.signature(export).parameters["to"].annotation)[0]))


def test_every_dialect_has_its_row_and_reads_and_writes_what_it_says() -> None:
    rows = {code(row[0])[0]: row[2:] for row in table("`--from`")}
    assert list(rows) == list(DIALECTS)
    read = {case.dialect for case in CASES.values()}
    for name, (reads, writes) in rows.items():
        assert reads == ("exact" if name in read else "no"), name
        assert writes == ("exact" if name in formats() else "no"), name


def test_every_dictionary_that_is_read_has_its_row() -> None:
    rows = {row[0]: (code(row[1]), code(row[2])) for row in table("dictionary")}
    assert rows == {name: ([case.dialect], list(case.answers)) for name, case in CASES.items()}


def test_every_refusal_has_its_row() -> None:
    start = TEXT.index("### What is refused")
    lines = TEXT[start:].split("|---|---|\n")[1].split("\n\n")[0].splitlines()
    rows = {}
    for line in lines:
        name, why = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = why.strip("… ")
    assert rows == {name: case.why for name, case in REFUSED.items()}


def test_every_question_has_its_row() -> None:
    asked = {
        option.removeprefix("--").replace("-", "_") for row in table("question") for option in code(row[1])
    }
    known = set(DictionarySource.model_fields) - {"source", "dialect", "revision", "subfolder"}
    assert asked == known


def test_every_format_has_its_row() -> None:
    assert {code(row[0])[0] for row in table("`--to`")} == formats()
