"""The page shows the report's sentences verbatim, and every claim links to its latent."""

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
    folder = make_run_folder(tmp_path_factory.mktemp("reported") / "run")
    explained(folder)
    ruled(folder)
    write_page(folder)
    return folder


@pytest.fixture
def view(run: RunFolder, visit: Any) -> Any:
    return visit(run)


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_summary_is_that_of_the_report(run: RunFolder, view: Any) -> None:
    shown = [words(text) for text in view.page.locator(".in-short li").all_inner_texts()]
    assert shown == [words(sentence.text) for sentence in build_report(load_results(run), run).summary]


def test_every_claim_is_shown_and_links_to_its_latent(run: RunFolder, view: Any) -> None:
    report = build_report(load_results(run), run)
    claims = [claim for group in report.groups for claim in group.claims]
    assert claims
    view.page.eval_on_selector_all(".claim-group", "groups => groups.forEach((group) => (group.open = true))")
    items = view.page.locator(".claim-group li")
    assert items.count() == len(claims)
    assert [int(text.split()[-1]) for text in view.page.locator(".claim-of a").all_inner_texts()] == [
        claim.latent for claim in claims
    ]
    for item, claim in zip(items.all(), claims, strict=True):
        assert claim.evidence in item.inner_text()
    items.first.locator("a").click()
    view.wait_for_latent(claims[0].latent)


def test_groups_without_a_claim_are_shown(run: RunFolder, view: Any) -> None:
    report = build_report(load_results(run), run)
    titles = view.page.locator(".claim-group").all_inner_texts()
    assert len(titles) == len(report.groups)
    for group, text in zip(report.groups, titles, strict=True):
        assert group.title in text
