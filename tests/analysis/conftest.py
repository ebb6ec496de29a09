"""The browser that the tests of the page share."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from crosscoder.folder import RunFolder

from .page_views import View

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if _CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    contexts = []

    def opened(folder: RunFolder, address: str = "", width: int = 1280, **options: Any) -> View:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        view = View(context.new_page())
        view.page.on("request", lambda request: view.requests.append(request.url))
        view.page.on("console", lambda message: view.complaints.append(message.text))
        view.page.on("pageerror", lambda error: view.complaints.append(str(error)))
        view.page.on("dialog", lambda dialog: (view.dialogs.append(dialog.message), dialog.dismiss()))
        view.page.goto((folder.browser / "index.html").resolve().as_uri() + address)
        view.page.wait_for_selector("html[data-ready]", timeout=10_000)
        return view

    yield opened
    for context in contexts:
        context.close()
