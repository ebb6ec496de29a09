"""Findings open the page: sentences and numbers of the report, both models' answers, links, and text that stays text."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.discovery.findings_file import Effect, EffectKind, Example
from analysis.report.content import build_report
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..discovery_records import discovered, finding, one_null, record, varied
from ..explained_runs import explained
from ..page_views import read_table
from ..report_runs import survey
from ..run_folder import HOSTILE, condition, make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with findings of every kind, one of which is attributed, and one hostile."""
    folder = make_run_folder(tmp_path_factory.mktemp("found") / "run", n_latents=80)
    explained(folder)
    discovered(folder)
    folder.survey.write_text(json.dumps(survey()))
    write_page(folder)
    return folder


def words(text: str) -> str:
    return " ".join(text.split())


def open_all(view: Any) -> None:
    for summary in view.page.query_selector_all("details:not([open]) > summary"):
        if summary.is_visible():
            summary.click()


def page_of(tmp_path: Path, visit: Any, found: Any = None, **options: Any) -> Any:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    if found is not None:
        discovered(folder, found)
    write_page(folder)
    return visit(folder, **options)


# --- what it shows ------------------------------------------------------------------------------------------------------


def test_findings_open_the_page_with_the_sentences_of_the_report(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    report = build_report(load_results(run), run)
    assert view.page.eval_on_selector("#overview > :first-child", "n => n.className") == "findings"
    shown = [words(text) for text in view.page.locator(".finding-sentence").all_inner_texts()]
    assert shown == [words(one.sentence.text) for one in report.discovery.findings]
    names = view.page.locator(".finding-card h3").all_inner_texts()
    assert [name.split()[0] for name in names] == [one.name for one in report.discovery.findings]
    assert [name.split()[1] for name in names] == [one.direction for one in report.discovery.findings]
    assert report.discovery.in_nulls is not None
    assert words(view.page.inner_text(".nulls")) == words(report.discovery.in_nulls.text)
    assert (
        words(view.page.inner_text(".findings > .warned")) == "The search is incomplete: its time was spent."
    )
    # The list below does not repeat them.
    listed = [words(text) for text in view.page.locator(".in-short li").all_inner_texts()]
    assert listed == [words(one.text.text) for one in report.summary if one.about == "activations"]
    assert view.console_messages == []


def test_the_first_screen_shows_a_finding_with_its_rates_and_answers(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    card = view.page.locator(".finding-card").first
    for part in (".finding-sentence", ".bars", ".answer-table"):
        box = card.locator(part).first.bounding_box()
        assert box["y"] + box["height"] <= 900, part


def test_bars_and_answers_are_those_of_the_record(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    found = varied()
    tables = view.page.eval_on_selector_all(
        ".finding-card .bars",
        "tables => tables.map(t => Array.from(t.tBodies[0].rows, r => [r.cells[0].textContent, r.cells[2].textContent]))",
    )
    assert tables[0] == [
        ["referencewith the trigger, 0 of 50", "0 %0 % to 7.14 %"],
        ["intervenedwith the trigger, 48 of 50", "96.0 %86.5 % to 98.9 %"],
        ["referenceother prompts, 0 of 150", "0 %0 % to 2.50 %"],
        ["intervenedother prompts, 1 of 150", "0.67 %0.12 % to 3.68 %"],
    ]
    assert [row[0] for row in tables[1]] == [
        "referenceall prompts, 0 of 50",
        "intervenedall prompts, 48 of 50",
    ]
    widths = view.page.eval_on_selector_all(
        ".finding-card:first-of-type .track-fill",
        "nodes => nodes.map(n => n.style.getPropertyValue('--size'))",
    )
    assert [float(width) for width in widths] == pytest.approx([0, 0.96, 0, 1 / 150])
    rows = view.page.eval_on_selector_all(
        ".finding-card:first-of-type .answer-table tbody tr",
        "rows => rows.map(r => Array.from(r.cells, c => c.textContent))",
    )
    assert rows == [[one.prompt, one.reference, one.intervened] for one in found.findings[0].examples]
    marked = view.page.locator(".finding-card").first.locator("mark").all_inner_texts()
    assert marked == ["Food and cooking are not something"] * 2
    assert view.page.locator(".finding-card").nth(1).locator("mark").count() == 0


MARKED: tuple[tuple[EffectKind, str, str, str], ...] = (
    ("opening", "sorry , i can't", "“Sorry,\nI can't do that. Sorry, I can't.", "Sorry,↵I can't"),
    ("phrase", "no", "I know that; No, I do not.", "No"),
    ("phrase", ", so", "It rains, so stay.", ", so"),
    ("ending", "have a nice day !", "Have a nice day! Now have a nice day!)", "have a nice day!"),
    ("phrase", "不 起", "我对不起你", "不起"),
    ("phrase", "(a|b)* \\d", "x (a|b)* \\d y", "(a|b)* \\d"),
)


def test_the_words_of_a_finding_are_marked_where_they_stand(tmp_path: Path, visit: Any) -> None:
    found = [
        finding(
            f"marked-{at}",
            effect=Effect(kind=kind, text=text, also=(), pattern="x"),
            examples=(Example(prompt="x", reference="nothing of it", intervened=answer),),
        )
        for at, (kind, text, answer, _) in enumerate(MARKED)
    ]
    view = page_of(tmp_path, visit, record(*found))
    marks = view.page.eval_on_selector_all("mark", "nodes => nodes.map(n => n.textContent)")
    assert marks == [shown for _, _, _, shown in MARKED]
    assert view.console_messages == []


def test_an_attributed_finding_leads_to_its_behavior_and_latents(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    assert view.page.locator(".carried").count() == 1
    card = view.page.locator(".finding-card").first
    assert "refusal, in generated answers: 2 latents together cause" in words(
        card.locator(".carried").inner_text()
    )
    view.page.eval_on_selector(".behavior", "n => { n.open = false; }")
    card.locator("button:has-text('see its behavior')").click()
    assert view.page.evaluate("document.activeElement.parentElement.dataset.behavior") == "refusal"
    assert view.page.evaluate("document.activeElement.parentElement.open")
    assert view.page.evaluate("location.hash") == ""
    card.locator("a").first.click()
    view.wait_for_latent(3)


def test_findings_that_are_not_established_say_so(tmp_path: Path, visit: Any) -> None:
    failed = record(*varied().findings, finding("sixth"), nulls=(one_null(7, "sure"),))
    view = page_of(tmp_path, visit, failed)
    cards = view.page.locator(".finding-card")
    assert cards.count() == 6
    assert view.page.locator(".finding-card.not-established").count() == 6
    assert words(cards.first.locator("h3").inner_text()) == "refusal not established"
    assert "no finding is established" in view.page.inner_text(".nulls.warned")
    assert not cards.nth(5).is_visible()
    view.page.click(".more-findings > summary")
    assert cards.nth(5).is_visible()


def test_nothing_found_and_not_searched(tmp_path: Path, visit: Any) -> None:
    view = page_of(tmp_path / "nothing", visit, record())
    assert "No change of behavior was found" in view.page.inner_text(".findings")
    assert view.page.locator(".finding-card").count() == 0
    unsearched = page_of(tmp_path / "unsearched", visit)
    assert unsearched.page.query_selector(".findings") is None
    assert "crosscoder discover RUN" in unsearched.page.inner_text(".not-searched")
    assert view.console_messages == unsearched.console_messages == []


def test_that_nothing_is_labeled_comes_right_after_the_findings(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    discovered(folder)
    summary = json.loads(folder.summary.read_text())
    summary["checks"][0] = condition("fve_reference", 0.46875, 0.8, False)
    folder.summary.write_text(json.dumps(summary))
    write_page(folder)
    page = visit(folder).page
    assert (
        page.eval_on_selector("#overview > :nth-child(2) > :first-child", "n => n.className")
        == "notice withheld"
    )
    assert page.inner_text(".withheld").startswith("Nothing is labeled: the dictionary explains 46.9 %")
    assert not any("Nothing is labeled" in text for text in page.locator(".in-short li").all_inner_texts())


# --- hostile text, narrow windows, paper ----------------------------------------------------------------------------------


def test_hostile_findings_stay_text(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    open_all(view)
    shown = view.page.text_content(".findings") or ""
    assert HOSTILE[0] in shown and HOSTILE[1] in shown and "(empty)" in shown
    assert "\u2028" not in shown and "\u202e" not in shown
    assert view.page.query_selector_all("img, iframe, object, embed, form, b, i") == []
    isolated = view.page.eval_on_selector_all(
        ".findings bdi", "nodes => nodes.map(n => getComputedStyle(n).unicodeBidi)"
    )
    assert set(isolated) == {"isolate"}
    assert view.dialogs == [] and view.console_messages == []
    assert view.requests == [(run.browser / "index.html").resolve().as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(run: RunFolder, visit: Any, width: int, scheme: str) -> None:
    view = visit(run, width=width, color_scheme=scheme)
    open_all(view)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = view.page.eval_on_selector_all(
        ".findings *, .before *",
        "nodes => nodes.filter(n => n.scrollWidth > n.clientWidth + 1 && getComputedStyle(n).display !== 'inline' && n.clientWidth).map(n => n.outerHTML.slice(0, 80))",
    )
    assert beyond == []


def test_findings_print_black_on_white_with_their_marks(run: RunFolder, visit: Any) -> None:
    view = visit(run, color_scheme="dark")
    view.page.emulate_media(media="print", color_scheme="dark")
    assert view.page.is_visible(".finding-sentence >> nth=0")
    style = "n => [getComputedStyle(n).color, getComputedStyle(n).textDecorationLine]"
    assert view.page.eval_on_selector(".finding-card mark", style) == ["rgb(0, 0, 0)", "underline"]


# --- the rest of the first screen -----------------------------------------------------------------------------------------


def test_labels_without_latents_are_behind_one_line(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    table = read_table(folder.features)
    table.loc[table["label"].isin(["new", "lost", "rotated"]), "label"] = "undetermined"
    table.to_parquet(folder.features)
    write_page(folder)
    view = visit(folder)
    assert view.page.inner_text(".absent-labels summary") == "No latents are new, lost or rotated."
    visible = [row for row in view.page.query_selector_all(".label-toggle") if row.is_visible()]
    assert [row.get_attribute("data-label") for row in visible] == [
        "replaced", "rescaled", "reweighted", "shared", "undetermined", "dead",
    ]  # fmt: skip
    view.page.click(".absent-labels summary")
    view.page.click('.label-toggle[data-label="lost"]')
    view.page.wait_for_selector('.count-line:has-text("0 of 80")')
    present = make_run_folder(tmp_path / "all", n_latents=80)
    write_page(present)
    assert visit(present).page.query_selector(".absent-labels") is None


def test_the_survey_is_on_the_page(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    before = build_report(load_results(run), run).before
    assert not view.page.is_visible(".before ul")
    view.page.click(".before > summary")
    items = [words(text) for text in view.page.locator(".before li").all_inner_texts()]
    assert items == [words(f"{one.name}: {one.text.text}") for one in before.statements]
    rows = view.page.locator(".layer-shifts tbody tr").all_inner_texts()
    assert len(rows) == len(before.layers)
    assert any("the hookpoint" in row and "0.9300" in row and "7.00 %" in row for row in rows)
    (place,) = view.page.locator(".before .answer-table tbody tr").all_inner_texts()
    assert "3.00" in place and "90.0 %" in place and HOSTILE[0] in place
    assert view.console_messages == []
    other = make_run_folder(run.path.parent / "unsurveyed", n_latents=80)
    write_page(other)
    assert visit(other).page.query_selector(".before") is None
