"""What the report says stands on the page, word for word, and every claim leads to its latent."""

from typing import Any

import pytest

from analysis.report.content import build_report
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..explained_runs import explained
from ..report_runs import ruled
from ..run_folder import make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("told") / "run")
    explained(folder)
    ruled(folder)
    write_page(folder)
    return folder


@pytest.fixture
def view(run: RunFolder, visit: Any) -> Any:
    return visit(run)


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_first_sentences_are_those_of_the_report(run: RunFolder, view: Any) -> None:
    shown = [words(text) for text in view.page.locator(".in-short li").all_inner_texts()]
    assert shown == [words(sentence.text) for sentence in build_report(load_results(run), run).summary]


def test_every_claim_is_there_and_leads_to_its_latent(run: RunFolder, view: Any) -> None:
    report = build_report(load_results(run), run)
    told = [claim for group in report.groups for claim in group.claims]
    assert told
    view.page.eval_on_selector_all(".claim-group", "groups => groups.forEach((group) => (group.open = true))")
    items = view.page.locator(".claim-group li")
    assert items.count() == len(told)
    assert [int(text.split()[-1]) for text in view.page.locator(".claim-of a").all_inner_texts()] == [
        claim.latent for claim in told
    ]
    for item, claim in zip(items.all(), told, strict=True):
        assert claim.evidence in item.inner_text()
    items.first.locator("a").click()
    view.open_latent(told[0].latent)


def test_groups_without_a_claim_say_so(run: RunFolder, view: Any) -> None:
    report = build_report(load_results(run), run)
    titles = view.page.locator(".claim-group").all_inner_texts()
    assert len(titles) == len(report.groups)
    for group, text in zip(report.groups, titles, strict=True):
        assert group.title in text
