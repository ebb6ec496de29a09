"""Helpers for tests of the page: a written page in a browser, and its packs."""

import base64
import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.browser import build
from analysis.browser.files import SINGLE_FILE_BYTES
from analysis.browser.section import Section
from analysis.report.content import build_report
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder

LAYOUTS = {SINGLE_FILE_BYTES: "one file", 0: "folder"}
"""For each layout of a small page, the size limit that gives it."""


SEVERE_IMPACTS = ("serious", "critical")
"""Impacts of axe-core findings that no page may have."""


def write_page(folder: RunFolder, single_file_bytes: int = SINGLE_FILE_BYTES) -> Path:
    """Write the page of a run, with the report built from its files."""
    return build.write_page(folder, build_report(load_results(folder), folder), single_file_bytes)


def sections_of(folder: RunFolder) -> list[Section]:
    """Return the sections of the page besides the table of latents."""
    results = load_results(folder)
    return build.page_sections(folder, results, build_report(results, folder))


def page_files(folder: RunFolder) -> dict[str, bytes]:
    """Return all files of a page by path."""
    place = folder.browser
    return {
        str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }


def read_table(path: Path) -> Any:
    """Read a Parquet file with pandas; typed Any, because the stubs of pandas are too narrow."""
    return pd.read_parquet(path)


# The page's own listener was added first, so it has run when this one runs.
_GO = """place => new Promise((resolve) => {
    const before = location.hash;
    addEventListener("hashchange", () => resolve(), { once: true });
    location.hash = place;
    if (location.hash === before) resolve();
})"""


# Scroll events of a frame fire before its animation callbacks.
_SCROLL = """top => new Promise((drawn) => {
    document.querySelector(".table-body").scrollTop = top;
    requestAnimationFrame(drawn);
})"""


@dataclass
class View:
    """A page in the browser, with its requests, console messages and dialogs."""

    page: Any
    requests: list[str] = field(default_factory=list)
    console_messages: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def rows(self) -> list[int]:
        return [
            int(latent)
            for latent in self.page.eval_on_selector_all(
                ".spacer .row", "nodes => nodes.map(n => n.dataset.latent)"
            )
        ]

    def count(self) -> str:
        return self.page.inner_text(".count-line")

    def wait_for_search(self, query: str) -> None:
        """Wait until the search for `query` has covered every latent. (Waiting on a JavaScript condition would need eval.)"""
        self.page.wait_for_selector(f'.chip:has-text("{query}")')
        self.page.wait_for_selector('.count-line:not(:has-text("searching"))')

    def address(self) -> str:
        """Return the address. (Playwright's `url` lags behind changes of the part after the #.)"""
        return self.page.evaluate("location.href")

    def go(self, place: str) -> None:
        """Go to another state of the page, "#…", and wait until the page has updated, except for packs."""
        self.page.evaluate(_GO, place)

    def scroll_table(self, top: int) -> None:
        """Scroll the table to `top` pixels and wait for the rows, which the page creates before the next frame."""
        self.page.evaluate(_SCROLL, top)

    def wait_for_decisions(self) -> None:
        """Wait until the page shows the latest decisions; it updates once per batch of changes, after the current task."""
        self.page.evaluate("new Promise((shown) => setTimeout(shown))")

    def wait_for_latent(self, latent: int) -> None:
        self.page.wait_for_selector(f'#latent[data-latent="{latent}"]')


def unpacked(text: str) -> tuple[dict[str, Any], bytes]:
    data = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def open_view(context: Any, address: str) -> View:
    """Open a page in its own context and wait until it is ready."""
    view = View(context.new_page())
    view.page.on("request", lambda request: view.requests.append(request.url))
    view.page.on("console", lambda message: view.console_messages.append(message.text))
    view.page.on("pageerror", lambda error: view.console_messages.append(str(error)))
    view.page.on("dialog", lambda dialog: (view.dialogs.append(dialog.message), dialog.dismiss()))
    view.page.goto(address)
    view.page.wait_for_selector("html[data-ready]", timeout=60_000)
    return view


def require_no_severe_findings(view: View, axe: Any) -> None:
    """Check that axe-core finds nothing severe on the page; `axe` is the module of its driver."""
    found = axe.Axe().run(view.page).response
    assert len(found["passes"]) > 15
    severe = [
        f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:160] for node in one['nodes'][:4]]}"
        for one in found["violations"]
        if one["impact"] in SEVERE_IMPACTS
    ]
    assert not severe, "\n".join(severe)
