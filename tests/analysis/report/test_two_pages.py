"""The report, which a person reads, and its appendix, which has every number and check behind it."""

import re

import pytest

from analysis.report import read_report, write_report
from analysis.report.render import prose_markdown, render_markdown
from crosscoder.run.folder import RunFolder

from ..parsed_markup import Markup
from ..report_runs import with_everything
from ..run_folder import make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with every optional part."""
    folder = make_run_folder(tmp_path_factory.mktemp("pages") / "run")
    with_everything(folder)
    write_report(folder)
    return folder


def page(folder: RunFolder, name: str) -> str:
    return (folder.report / name).read_text(encoding="utf-8")


def anchors(markdown: str) -> set[str]:
    """The anchors that sites which show Markdown give to its headings."""
    titles = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_report_is_a_small_part_of_the_whole(run: RunFolder) -> None:
    """Its first lines are those of report.json, and its tables have a row for each finding, unmet condition and requirement."""
    report, text = read_report(run), page(run, "report.md")
    assert len(text.split()) < len(page(run, "appendix.md").split()) / 2
    assert text.startswith(f"# What changed: {report.title}\n\n")
    assert "**[Latent" not in text and "**[Latent" in page(run, "appendix.md")
    for requirement in report.desiderata:
        assert f"| {requirement.family}: {requirement.name} |" in text
    for finding in report.discovery.findings:
        assert text.count(f"### `{finding.name}`") == 1
    assert report.discovery.findings and "## What to do" in text


def test_conditions_are_listed_where_they_are_not_met(run: RunFolder) -> None:
    """One that passes is in the appendix alone."""
    report, text = read_report(run), page(run, "report.md").split("## Can it be trusted")[1]
    shown = text.split("What an explanation has to fulfill")[0]
    for check in report.checks:
        assert (f"| {check.name} |" in shown) == (check.verdict != "pass")
        assert f"| {check.name}: {check.meaning} |" in page(run, "appendix.md")
    passed = tuple(check for check in report.checks if check.verdict == "pass")
    assert passed and "Every condition for a comparison is met." not in text
    assert "Every condition for a comparison is met." in render_markdown(
        report.model_copy(update={"checks": passed}), "report"
    )


@pytest.mark.parametrize("name", ["report", "appendix"])
def test_links_between_the_pages_lead_somewhere(run: RunFolder, name: str) -> None:
    """Every link to the other page names a heading or an element that is there."""
    headings = {f"{one}.md": anchors(page(run, f"{one}.md")) for one in ("report", "appendix")}
    linked = re.findall(r"\]\(((?:report|appendix)\.md)(?:#([^)]*))?\)", page(run, f"{name}.md"))
    assert linked and all(not anchor or anchor in headings[target] for target, anchor in linked)
    pages = {f"{one}.html": Markup(page(run, f"{one}.html")) for one in ("report", "appendix")}
    ids = {key: {attributes.get("id") for _, attributes in one.elements} for key, one in pages.items()}
    links = [attributes.get("href") or "" for tag, attributes in pages[f"{name}.html"].elements if tag == "a"]
    own = [link for link in links if not link.startswith("../browser/")]
    assert own
    for link in own:
        target, _, anchor = link.partition("#")
        assert target in ids and (not anchor or anchor in ids[target])


def test_a_sentence_of_the_opening_is_not_repeated(run: RunFolder) -> None:
    """A finding that opens the report is told there; below stand its numbers and answers."""
    report, text = read_report(run), page(run, "report.md")
    opening = [headline.text for headline in report.summary if headline.kind == "finding"]
    told = [finding for finding in report.discovery.findings if finding.sentence in opening]
    assert told and all(finding.established for finding in told)
    assert all(text.count(prose_markdown(finding.sentence)) == 1 for finding in told)
