"""The browser that the tests of the page share."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from crosscoder.run.folder import RunFolder

from .page_views import View, open_view

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
        return open_view(context, (folder.browser / "index.html").resolve().as_uri() + address)

    yield opened
    for context in contexts:
        context.close()
