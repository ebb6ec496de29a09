"""Decisions on latents: stored in the browser, made by click and by key."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.browser.identity import run_digest
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..page_decisions import NOTE, counts, decide_three, entry, pressed, saved
from ..page_views import read_table
from ..run_folder import N_LATENTS, make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run")
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def features(run: RunFolder) -> Any:
    return read_table(run.features)


# --- identity of the run ---------------------------------------------------------------------------------------------


def test_digest_covers_the_latents_but_not_labels_and_explanations(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    first = run_digest(load_results(folder))
    table = read_table(folder.features)
    relabeled = table.assign(
        label="shared", explanation="new text", reason="new text", evidence="causal", q_value=0.5
    )
    relabeled.to_parquet(folder.features)
    assert run_digest(load_results(folder)) == first
    for name in ("n_tokens", "max_activation", "norm_reference"):
        other = table.copy()
        other.loc[11, name] = other.loc[11, name] + 1
        other.to_parquet(folder.features)
        assert run_digest(load_results(folder)) != first, name
    table.assign(norm_reference=np.nan).to_parquet(folder.features)
    assert re.fullmatch("[0-9a-f]{32}", run_digest(load_results(folder)))


# --- storage ----------------------------------------------------------------------------------------------------------


def test_decisions_survive_a_reload(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    decide_three(view)
    view.page.reload()
    view.page.wait_for_selector("html[data-ready]")
    assert entry(view, 3) == (["starred"], "refuses food", NOTE)
    assert entry(view, 7) == (["rejected"], "", "")
    assert entry(view, 9) == (["undecided"], "", "unsure")
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector("#overview:not([hidden])")
    assert counts(view) == {"starred": 1, "rejected": 1, "noted": 2, "undecided": N_LATENTS - 2}
    assert (
        f"Decided: 2 of {N_LATENTS} latents, 1 starred and 1 rejected; 2 with a note"
        in view.page.inner_text(".triage")
    )
    cell = '.row[data-latent="{}"] .decided'
    view.go("#decision=starred,noted&sort=latent")
    view.page.wait_for_selector(cell.format(9))
    assert view.page.text_content(cell.format(3)) == "★refuses food✎"
    assert view.page.text_content(cell.format(9)) == "✎"
    assert view.console_messages == []
    assert set(view.requests) == {(run.browser / "index.html").resolve().as_uri()}


def test_keys_decide_on_the_page_and_on_the_row(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#sort=latent")
    view.page.keyboard.press("s")
    assert "No latent is open" in view.page.inner_text("#status")
    view.page.focus(".table-body")
    for _ in range(3):
        view.page.keyboard.press("ArrowDown")
    view.page.keyboard.press("x")
    view.page.wait_for_selector('.row[data-latent="2"] [aria-label="rejected"]')
    # The row keeps the focus, so the next key moves on from it.
    view.page.keyboard.press("ArrowDown")
    view.page.keyboard.press("n")
    view.wait_for_latent(3)
    view.page.wait_for_selector("#note:focus")
    view.page.keyboard.type("jk?s")
    assert view.page.input_value("#note") == "jk?s"
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("l")
    view.page.keyboard.type("sx")
    assert entry(view, 3) == (["undecided"], "sx", "jk?s")
    for key, verdict in (("s", "starred"), ("s", "starred"), ("x", "rejected"), ("c", "undecided")):
        view.page.keyboard.press(key)
        view.page.wait_for_selector(f'[data-verdict="{verdict}"][aria-pressed="true"]')
        assert pressed(view) == [verdict]
    assert entry(view, 3)[1:] == ("sx", "jk?s")
    view.page.keyboard.press("Control+s")
    assert pressed(view) == ["undecided"]


def test_keys_are_listed_and_can_be_switched_off(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#latent=3")
    view.wait_for_latent(3)
    view.page.keyboard.press("?")
    listed = view.page.eval_on_selector_all("dialog kbd", "nodes => nodes.map(n => n.textContent)")
    assert set("jksxcln/?") <= set(listed)
    view.page.keyboard.press("s")
    assert pressed(view) == ["undecided"]
    view.page.uncheck("#keys-on")
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector("dialog", state="detached")
    view.page.keyboard.press("s")
    view.page.keyboard.press("?")
    assert pressed(view) == ["undecided"]
    assert view.page.query_selector("dialog") is None
    view.page.reload()
    view.wait_for_latent(3)
    view.page.keyboard.press("s")
    assert pressed(view) == ["undecided"]
    view.page.click(".bar button")
    view.page.check("#keys-on")
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("s")
    assert pressed(view) == ["starred"]


def test_undecided_are_worked_through_one_by_one(run: RunFolder, features: Any, visit: Any) -> None:
    """The order stays while stepping through; decided latents leave the table when it is shown again."""
    view = visit(run, "#label=new&decision=undecided")
    order = view.rows()
    assert set(order) == set(features.loc[features["label"] == "new", "latent"])
    view.page.keyboard.press("j")
    for latent, key in zip(order[:3], "sxs", strict=True):
        view.wait_for_latent(latent)
        view.page.keyboard.press(key)
        view.page.wait_for_selector('.decision [aria-pressed="true"]:not([data-verdict="undecided"])')
        view.page.keyboard.press("j")
    view.wait_for_latent(order[3])
    view.page.keyboard.press("k")
    view.wait_for_latent(order[2])
    view.page.reload()
    view.wait_for_latent(order[2])
    # The open latent is outside the filter now, so the next one is the first remaining.
    view.page.keyboard.press("j")
    view.wait_for_latent(order[3])
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector(f'.count-line:has-text("{len(order) - 3} of {N_LATENTS}")')
    assert view.rows() == order[3:]
    # In the table, too: a decided latent leaves, and the row that replaces it is focused.
    view.page.focus(".table-body")
    view.page.keyboard.press("ArrowDown")
    view.page.keyboard.press("j")
    view.page.wait_for_selector(f'.row[data-latent="{order[4]}"] a:focus')
    view.page.keyboard.press("x")
    view.page.wait_for_selector(f'.row[data-latent="{order[5]}"] a:focus')
    assert view.rows() == [order[3], *order[5:]]
    view.page.keyboard.press("k")
    view.page.wait_for_selector(f'.row[data-latent="{order[3]}"] a:focus')
    view.go(f"#latent={order[4]}")
    view.wait_for_latent(order[4])
    view.page.keyboard.press("c")
    view.go("#decision=starred,rejected&sort=decision")
    view.page.wait_for_selector(f'.count-line:has-text("3 of {N_LATENTS}")')
    assert view.rows() == [*sorted([order[0], order[2]]), order[1]]
    view.page.fill("#query", "no such words")
    view.page.wait_for_selector(".empty")


def test_search_reads_labels_and_notes(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    decide_three(view)
    for query, latent in (("refuses FOOD", 3), ("unsure", 9)):
        view.go(f"#q={query}")
        view.wait_for_search(query)
        assert view.rows() == [latent]


def test_two_tabs_share_their_decisions(run: RunFolder, visit: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    view = visit(run, "#latent=3")
    view.wait_for_latent(3)
    other = view.page.context.new_page()
    other.goto(view.address())
    other.wait_for_selector('#latent[data-latent="3"]')
    view.page.fill("#note", "from the first tab")
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("s")
    other.wait_for_selector('[data-verdict="starred"][aria-pressed="true"]')
    assert other.input_value("#note") == "from the first tab"
    other.keyboard.press("x")
    view.page.wait_for_selector('[data-verdict="rejected"][aria-pressed="true"]')
    # A focused field keeps what is being typed.
    other.focus("#note")
    view.page.fill("#note", "again")
    other.wait_for_timeout(150)
    assert other.input_value("#note") == "from the first tab"
    other.keyboard.press("End")
    other.keyboard.type("!")
    other.keyboard.press("Escape")
    view.page.keyboard.press("Escape")
    for page in (view.page, other):
        playwright.expect(page.locator("#note")).to_have_value("from the first tab!")


BLOCKED = (
    "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
)
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"


@pytest.mark.parametrize(
    ("script", "words"),
    [(BLOCKED, "stores nothing for this page (SecurityError)"), (FULL, "could not store the last change (QuotaExceededError)")],
)  # fmt: skip
def test_without_storage_the_page_says_so_and_warns_before_leaving(
    run: RunFolder, visit: Any, tmp_path: Path, script: str, words: str
) -> None:
    view = visit(run)
    view.page.context.add_init_script(script)
    view.page.reload()
    view.page.wait_for_selector("html[data-ready]")
    decide_three(view)
    assert entry(view, 3) == (["starred"], "refuses food", NOTE)
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector(f'.storage-note.warned:has-text("{words}")')
    with view.page.expect_event("dialog"):
        view.page.close(run_before_unload=True)
    assert len(view.dialogs) == 1
    saved(view, "export decisions", tmp_path / "decisions.json")
    with view.page.expect_event("close"):
        view.page.close(run_before_unload=True)
    assert len(view.dialogs) == 1


def test_unreadable_items_are_reported_and_left_unchanged(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    key = f"crosscoder/{run_digest(load_results(run))}/4"
    view.page.evaluate("key => localStorage.setItem(key, '{')", key)
    view.page.reload()
    view.page.wait_for_selector('.storage-note.warned:has-text("1 stored entries could not be read")')
    assert view.page.evaluate("key => localStorage.getItem(key)", key) == "{"
