"""Keys and clicks that follow each other faster than the browser fires hashchange."""

from typing import Any

import pytest

from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..run_folder import make_run_folder

# Several keys or clicks in one task, so that no browser event can come between them on any machine.
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


def test_each_key_acts_on_the_state_after_the_previous_one(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#sort=latent")
    keys = ("j", "j", "k", "j", "Escape", "j", "j")
    shown = view.page.evaluate(TOGETHER, [["key", key] for key in keys])
    # Back in the table, the row of the last latent is focused, and keys move from row to row.
    where = (0, 1, 0, 1, None, None, None)
    assert shown == [
        ["#sort=latent" if latent is None else f"#latent={latent}&sort=latent", latent is not None]
        for latent in where
    ]
    assert view.page.evaluate("document.activeElement.closest('.row').dataset.latent") == "3"
    view.page.keyboard.press("Enter")
    view.wait_for_latent(3)
    assert view.console_messages == []


def test_no_step_undoes_the_previous_one(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    clicks = ['.label-toggle[data-label="new"]', '.label-toggle[data-label="lost"]', '[data-sort="density"]']
    shown = view.page.evaluate(TOGETHER, [["click", selector] for selector in clicks])
    assert [place for place, _ in shown] == ["#label=new", "#label=new,lost", "#sort=-density&label=new,lost"]
    assert len(view.page.query_selector_all(".chip")) == 2
    # A link changes the address by itself; a click before the page has updated acts on the new address.
    view.go("#latent=3&label=new")
    view.wait_for_latent(3)
    view.page.evaluate("document.activeElement.blur()")
    shown = view.page.evaluate(TOGETHER, [["click", ".back"], ["key", "j"]])
    assert shown[1] == [f"#latent={view.rows()[0]}&label=new", True]


def test_keys_typed_before_a_field_appears_are_not_shortcuts(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#sort=latent")
    view.page.focus('.row[data-latent="2"] a')
    view.page.evaluate(TOGETHER, [["key", key] for key in "nsxj"])
    view.page.wait_for_selector('#latent[data-latent="2"] #note:focus')
    view.wait_for_decisions()
    assert view.page.get_attribute('.decision [aria-pressed="true"]', "data-verdict") == "undecided"
    # After Escape the keys are shortcuts again.
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("x")
    view.wait_for_decisions()
    assert view.page.get_attribute('.decision [aria-pressed="true"]', "data-verdict") == "rejected"


def test_the_previous_latent_is_not_shown_while_the_next_one_loads(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#latent=3&sort=latent")
    view.wait_for_latent(3)
    loading = view.page.evaluate(
        """() => {
            document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
            document.querySelector('.row[data-latent="7"] a').click();
            const latent = document.getElementById("latent");
            return [latent.hidden, latent.textContent];
        }"""
    )
    assert loading == [False, ""]
    view.wait_for_latent(7)


def test_a_search_runs_even_if_the_field_is_left_at_once(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    view.page.focus("#query")
    view.page.keyboard.type("salmon")
    view.page.keyboard.press("Escape")
    assert view.page.evaluate("location.hash") == "#q=salmon"
    assert view.page.input_value("#query") == "salmon"
    view.wait_for_search("salmon")
