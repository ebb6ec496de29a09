"""Steps of a reader that follow each other faster than a browser tells the page of its new address."""

from typing import Any

import pytest

from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..run_folder import make_run_folder

# Several keys or clicks in one task: nothing of the browser can come between them, however fast the machine is.
TOGETHER = """steps => {
    const shown = [];
    for (const [kind, what] of steps) {
        if (kind === "key") document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: what, bubbles: true, cancelable: true }));
        else document.querySelector(what).click();
        shown.push([location.hash, document.getElementById("overview").hidden]);
    }
    return shown;
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("steps") / "run", n_latents=130)
    write_page(folder)
    return folder


def test_each_key_finds_the_page_as_the_last_one_left_it(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#sort=latent")
    keys = ("j", "j", "k", "j", "Escape", "j", "j")
    shown = view.page.evaluate(TOGETHER, [["key", key] for key in keys])
    # Back in the table the focus is on the row of the latent that was left, and moves from row to row.
    where = (0, 1, 0, 1, None, None, None)
    assert shown == [
        ["#sort=latent" if latent is None else f"#latent={latent}&sort=latent", latent is not None]
        for latent in where
    ]
    assert view.page.evaluate("document.activeElement.closest('.row').dataset.latent") == "3"
    view.page.keyboard.press("Enter")
    view.open_latent(3)
    assert view.complaints == []


def test_no_step_undoes_the_one_before(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    clicks = ['.label-toggle[data-label="new"]', '.label-toggle[data-label="lost"]', '[data-sort="density"]']
    shown = view.page.evaluate(TOGETHER, [["click", selector] for selector in clicks])
    assert [place for place, _ in shown] == ["#label=new", "#label=new,lost", "#sort=-density&label=new,lost"]
    assert len(view.page.query_selector_all(".chip")) == 2
    # A link changes the address by itself; what is clicked before the page has followed goes on from there.
    view.go("#latent=3&label=new")
    view.open_latent(3)
    view.page.evaluate("document.activeElement.blur()")
    shown = view.page.evaluate(TOGETHER, [["click", ".back"], ["key", "j"]])
    assert shown[1] == [f"#latent={view.rows()[0]}&label=new", True]


def test_what_is_typed_before_its_field_is_there_is_no_command(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#sort=latent")
    view.page.focus('.row[data-latent="2"] a')
    view.page.evaluate(TOGETHER, [["key", key] for key in "nsxj"])
    view.page.wait_for_selector('#latent[data-latent="2"] #note:focus')
    view.settled()
    assert view.page.get_attribute('.decision [aria-pressed="true"]', "data-verdict") == "undecided"
    # And after it the keys are commands again.
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("x")
    view.settled()
    assert view.page.get_attribute('.decision [aria-pressed="true"]', "data-verdict") == "rejected"


def test_a_latent_that_was_left_is_not_shown_while_the_next_one_loads(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#latent=3&sort=latent")
    view.open_latent(3)
    loading = view.page.evaluate(
        """() => {
            document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
            document.querySelector('.row[data-latent="7"] a').click();
            const latent = document.getElementById("latent");
            return [latent.hidden, latent.textContent];
        }"""
    )
    assert loading == [False, ""]
    view.open_latent(7)


def test_a_search_that_is_left_at_once_is_searched(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    view.page.focus("#query")
    view.page.keyboard.type("salmon")
    view.page.keyboard.press("Escape")
    assert view.page.evaluate("location.hash") == "#q=salmon"
    assert view.page.input_value("#query") == "salmon"
    view.searched("salmon")
