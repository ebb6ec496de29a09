"""Helpers for tests of decisions on the page."""

from pathlib import Path

from .page_views import View

NOTE = "Fires on food.\nLook again: 2 < 3 | 4"


def open_latent(view: View, latent: int, more: str = "") -> None:
    view.go(f"#latent={latent}{more}")
    view.wait_for_latent(latent)


def pressed(view: View) -> list[str]:
    view.wait_for_decisions()
    return view.page.eval_on_selector_all(
        '.decision [aria-pressed="true"]', "nodes => nodes.map(n => n.dataset.verdict)"
    )


def entry(view: View, latent: int) -> tuple[list[str], str, str]:
    """Return verdict, label and note on the page of a latent."""
    open_latent(view, latent)
    return pressed(view), view.page.input_value("#own-label"), view.page.input_value("#note")


def decide_three(view: View) -> None:
    open_latent(view, 3)
    view.page.keyboard.press("s")
    view.page.fill("#own-label", "refuses food")
    view.page.fill("#note", NOTE)
    view.page.keyboard.press("Escape")
    open_latent(view, 7)
    view.page.click('[data-verdict="rejected"]')
    open_latent(view, 9)
    view.page.fill("#note", "unsure")
    view.wait_for_decisions()


def counts(view: View) -> dict[str, int]:
    view.wait_for_decisions()
    texts = view.page.eval_on_selector_all(
        "[data-filter=decision]", "nodes => nodes.map(n => [n.dataset.value, n.lastChild.textContent])"
    )
    return {name: int(count.replace(",", "")) for name, count in texts}


def saved(view: View, button: str, path: Path) -> Path:
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector("#overview:not([hidden])")
    with view.page.expect_download() as waiting:
        view.page.click(f'.triage button:has-text("{button}")')
    waiting.value.save_as(path)
    return path


def imported(view: View, path: Path) -> str:
    view.page.set_input_files("#decisions-file", path)
    view.page.wait_for_selector(f'.import-result:has-text("{path.name}")')
    return view.page.inner_text(".import-result")
