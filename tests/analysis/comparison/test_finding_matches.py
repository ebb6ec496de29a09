"""When two findings are the same effect, and what a run that did not find it has."""

from pathlib import Path
from typing import Any

import pytest

from analysis.comparison.compare import comparison_of
from analysis.comparison.compared_findings import same_effect
from analysis.comparison.compared_runs import read_runs
from analysis.comparison.comparison_schema import Comparison
from analysis.discovery.findings_file import Discovery, Effect, Example, Finding
from crosscoder.errors import FormatError

from ..discovery_records import discovered, finding, one_null, record
from .compared_run_folders import make_bare_run, with_answers


def of(
    text: str, *, kind: Any = "phrase", pattern: str | None = "never", answers: str = "", **changes: Any
) -> Finding:
    """A finding of some words; `answers`: what the model that shows it answers in every example, while the other says nothing."""
    direction = changes.get("direction", "gained")
    pair = {"reference": "", "intervened": ""} | {
        "intervened" if direction == "gained" else "reference": answers
    }
    return finding(
        effect=Effect(kind=kind, text=text, also=(), pattern=pattern),
        examples=tuple(Example(prompt=f"prompt {n}", **pair) for n in range(4)),
        **changes,
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (of("not something i talk about"), of("are not something i talk about"), True),
        (of("something"), of("some"), False),
        (of("as a pirate", direction="gained"), of("as a pirate", direction="vanished"), False),
        (of("arr", pattern="arr+"), of("pirate", answers="ARRR, I am one"), True),
        (of("arr", pattern="arr+"), of("pirate", answers="I am one"), False),
        (of("arr", pattern="arr+", direction="vanished"), of("x", answers="arr", direction="vanished"), True),
        (of("a list", kind="shape", pattern=None), of("a list", kind="shape", pattern=None), True),
        (of("a list", kind="shape", pattern=None), of("a list", kind="phrase"), False),
        (of("shorter than 12 words", kind="shape"), of("shorter than 9 words", kind="shape"), False),
    ],
)  # fmt: skip
def test_same_effect(one: Finding, other: Finding, same: bool) -> None:
    assert same_effect(one, other) == same_effect(other, one) == same


def test_an_expression_that_both_models_answers_match_is_no_match() -> None:
    """A word that is in every answer tells nothing about what changed."""
    everywhere = finding(
        effect=Effect(kind="phrase", text="x", also=(), pattern="the"),
        examples=(Example(prompt="p", reference="the", intervened="the"),),
    )
    other = everywhere.model_copy(
        update={"effect": Effect(kind="phrase", text="y", also=(), pattern="never")}
    )
    assert not same_effect(everywhere, other)


def compared(root: Path, *found: Discovery | None) -> Comparison:
    """Compare runs that have nothing but the record of a search, or not even that."""
    folders = [make_bare_run(root / name) for name, _ in zip("abcd", found, strict=False)]
    for folder, one in zip(folders, found, strict=True):
        if one is not None:
            discovered(folder, one)
    return comparison_of(read_runs([folder.path for folder in folders]), root)


def test_not_searched_and_not_found_are_told_apart(tmp_path: Path) -> None:
    comparison = compared(tmp_path, record(of("as a pirate")), record(), None)
    (row,) = comparison.findings
    assert [cell.state for cell in row.cells] == ["found", "not found", "not searched"]
    assert (row.effect, row.direction, row.runs, row.searched) == ("as a pirate", "gained", 1, 2)
    assert row.cells[1].shown.text == "not found: 412 hypotheses tested on 200 held-out prompts"
    assert row.cells[2].shown.text == "not searched"


def test_rates_of_matched_findings_stand_side_by_side(tmp_path: Path) -> None:
    found = [of("as a pirate", counts=counts) for counts in ((0, 48), (2, 40))]
    (row,) = compared(tmp_path, *map(record, found)).findings
    assert [cell.found[0].shown.text for cell in row.cells] == [
        "0 → 48 of 50; elsewhere 0 → 1 of 150",
        "2 → 40 of 50; elsewhere 0 → 1 of 150",
    ]
    assert [cell.found[0].with_trigger.intervened.count for cell in row.cells] == [48, 40]


def test_a_finding_that_is_no_more_than_the_nulls_is_not_established(tmp_path: Path) -> None:
    good, doubtful = record(of("as a pirate")), record(of("as a pirate"), nulls=(one_null(3, "sure"),))
    comparison = compared(tmp_path, good, doubtful)
    (row,) = comparison.findings
    assert [cell.state for cell in row.cells] == ["found", "not established"]
    assert row.runs == 1
    (nulls,) = [row for row in comparison.searches if row.name == "nulls"]
    assert "3 changes of behavior when the reference is compared with itself" in nulls.cells[1].shown.text


def test_one_effect_after_two_triggers_is_one_row(tmp_path: Path) -> None:
    two = record(of("as a pirate", trigger="words"), of("talks as a pirate", trigger="topic"))
    (row,) = compared(tmp_path, two, record(of("pirate"))).findings
    assert [len(cell.found) for cell in row.cells] == [2, 1]


def test_a_run_that_did_not_find_an_effect_tells_how_often_its_answers_show_it(tmp_path: Path) -> None:
    folders = [make_bare_run(tmp_path / name) for name in "ab"]
    discovered(folders[0], record(of("as a pirate", pattern=r"as\s*a\s*pirate")))
    discovered(folders[1], record())
    with_answers(folders[1], ["no", "no", "as a pirate"], ["As a  pirate", "as a pirate", "no"])
    (row,) = comparison_of(read_runs([folder.path for folder in folders]), tmp_path).findings
    answers = row.cells[1].answers
    assert answers is not None
    assert (answers.prompts, answers.reference, answers.intervened) == (3, 1, 2)
    assert row.cells[1].shown.text.endswith("; its answers show it in 1 → 2 of 3")


def test_a_pattern_that_is_no_expression_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no regular expression"):
        compared(tmp_path, record(of("one", pattern="(", answers="x")), record(of("other", answers="y")))
