"""The page shows the report's sentences verbatim, and every claim links to its latent."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.report.content import build_report
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..explained_runs import explained
from ..report_runs import controlled, ruled
from ..run_folder import condition, make_run_folder


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
    report = build_report(load_results(run), run)
    assert shown == [words(headline.text.text) for headline in report.summary]
    titles = view.page.eval_on_selector_all(".in-short li", "nodes => nodes.map(n => n.title)")
    for headline, title in zip(report.summary, titles, strict=True):
        assert all(name in title for name in headline.rests_on)


def test_a_run_without_labels_says_so_first(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    summary = json.loads(folder.summary.read_text())
    summary["checks"][0] = condition("fve_reference", 0.46875, 0.8, False)
    summary["withheld"] = "too little is explained"
    folder.summary.write_text(json.dumps(summary))
    write_page(folder)
    shown = visit(folder).page
    first = words(shown.locator("#overview p").first.inner_text())
    assert first.startswith(
        "Nothing is labeled: the dictionary explains 46.9 % of the variance of the reference"
    )
    assert "train longer" in first
    assert not any("new" in text for text in shown.locator(".in-short li").all_inner_texts())


def test_labels_of_this_training_alone_are_a_filter(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    table = controlled(folder)
    write_page(folder)
    view = visit(folder)
    view.page.click('[data-filter="candidate"][data-value="rotated"]')
    view.page.wait_for_selector(".chip")
    assert set(view.rows()) == set(table.loc[table["candidate"] == "rotated", "latent"])
    assert "6 of 15" in words(view.page.inner_text('.strip-row:has([data-label="rotated"]) .count'))
    removed = int(
        table.loc[(table["candidate"] == "rotated") & (table["label"] == "undetermined"), "latent"].iloc[0]
    )
    view.go(f"#latent={removed}")
    view.wait_for_latent(removed)
    assert "by this training alone" in view.page.inner_text(".how-sure")
    assert "rotated" in view.page.inner_text(".how-sure")
    replaced = int(table.loc[table["label"] == "replaced", "latent"].iloc[0])
    view.go(f"#latent={replaced}")
    view.wait_for_latent(replaced)
    assert "one direction gave way to another on the same tokens" in view.page.inner_text(".why h3")
    assert "ν unselected" in view.page.inner_text(".nu")


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
