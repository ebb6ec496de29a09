"""The generated reference matches the code and is complete."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from analysis.tables.columns import TABLES
from crosscoder.command.reference_docs import COMMAND, main, pages
from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.introspection import variants
from crosscoder.config.requirements import Requirements

from .test_app import VERBS

FOLDER = Path(__file__).parents[3] / "docs" / "reference"
PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_stored_pages_are_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name], (
        f"the reference changed; write it with: {COMMAND}"
    )


def test_the_command_writes_the_pages(tmp_path: Path) -> None:
    main(tmp_path / "new")
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new").iterdir()} == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_complete(name: str) -> None:
    rows = [line for line in PAGES[name].split("\n") if line.startswith("|")]
    assert rows
    width = 0
    for row in rows:
        cells = len(re.split(r"(?<!\\)\|", row))
        width = (
            cells if not width or row.startswith(("| setting |", "| column |", "| exit code |")) else width
        )
        assert cells == width, row


def blocks(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for option in variants(field.annotation):
            yield from blocks(option)


@pytest.mark.parametrize("model", [RunConfig, Behavior, Requirements])
def test_every_setting_is_listed_with_its_description(model: type[BaseModel]) -> None:
    page = PAGES["config.md"]
    for block in blocks(model):
        for name, field in block.model_fields.items():
            if name != "kind":
                row = next(line for line in page.split("\n") if line.startswith(f"| `{name}` |"))
                assert not field.description or field.description.split("|")[0][:40].rstrip() in page, row
    assert (
        "| `k` | whole number (at least 1) | `null` | average number of latents that fire on a token; null: chosen by a short sweep before the "
        in page
    )
    assert "| `held_out` | number (above 0, below 1) | `0.1` |" in page


def test_every_column_and_every_verb_is_listed() -> None:
    for table in TABLES:
        assert f"## {table.name}\n" in PAGES["columns.md"]
        for column in table.columns:
            assert f"| `{column.name}` |" in PAGES["columns.md"]
    verbs = re.findall(r"^## ([\w ]+)$", PAGES["commands.md"], re.MULTILINE)
    assert list(dict.fromkeys(name.split()[0] for name in verbs)) == VERBS
    assert {"evaluate planted", "evaluate discovery"} <= set(verbs)
    assert (
        "* `--format <str>`: png, svg and pdf, separated by commas  [default: png,svg]\n"
        in PAGES["commands.md"]
    )
    assert "$ crosscoder plot [OPTIONS] {RUN}\n" in PAGES["commands.md"]
