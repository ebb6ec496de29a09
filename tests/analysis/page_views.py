"""A written page in a browser, and what its packs hold, for the tests of the page."""

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
"""Limits that lead to each layout of a small page, and its name."""


GRAVE = ("serious", "critical")
"""Impacts of what axe-core finds that no page may have."""


def write_page(folder: RunFolder, single_file_bytes: int = SINGLE_FILE_BYTES) -> Path:
    """The page of a run, with the report that its files give."""
    return build.write_page(folder, build_report(load_results(folder), folder), single_file_bytes)


def sections_of(folder: RunFolder) -> list[Section]:
    """Everything that the page holds besides the table of latents."""
    results = load_results(folder)
    return build.page_sections(folder, results, build_report(results, folder))


def page_files(folder: RunFolder) -> dict[str, bytes]:
    """Everything that belongs to a page."""
    place = folder.browser
    return {
        str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }


def read_table(path: Path) -> Any:
    """A Parquet file as pandas; its stubs know too little of rows and columns to help here."""
    return pd.read_parquet(path)


# The page's own listener was there first, so that it has run when this one does.
_GO = """place => new Promise((followed) => {
    const before = location.hash;
    addEventListener("hashchange", () => followed(), { once: true });
    location.hash = place;
    if (location.hash === before) followed();
})"""


# Scroll events of a frame come before what is asked for in it.
_SCROLL = """top => new Promise((drawn) => {
    document.querySelector(".table-body").scrollTop = top;
    requestAnimationFrame(drawn);
})"""


@dataclass
class View:
    """A page in the browser, with everything it asked for and complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
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

    def searched(self, query: str) -> None:
        """Waits until the search for `query` has read every latent. (Waiting on a JavaScript condition would need eval.)"""
        self.page.wait_for_selector(f'.chip:has-text("{query}")')
        self.page.wait_for_selector('.count-line:not(:has-text("searching"))')

    def address(self) -> str:
        """Where the page is. (Playwright's own `url` follows a change of the part after the # a while later.)"""
        return self.page.evaluate("location.href")

    def go(self, place: str) -> None:
        """To another place of the same page, "#…", as a link leads there; waits until the page has followed, but for packs."""
        self.page.evaluate(_GO, place)

    def scroll_table(self, top: int) -> None:
        """To so many pixels from its top; waits for the rows there, which the page makes before it draws the next frame."""
        self.page.evaluate(_SCROLL, top)

    def settled(self) -> None:
        """Waits until the page has shown what was decided: it does so once for all that changed together, after the task at hand."""
        self.page.evaluate("new Promise((shown) => setTimeout(shown))")

    def open_latent(self, latent: int) -> None:
        self.page.wait_for_selector(f'#latent[data-latent="{latent}"]')


def unpacked(text: str) -> tuple[dict[str, Any], bytes]:
    data = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def opened_view(context: Any, address: str) -> View:
    """A page in a context of its own, once it is ready, with everything that it asks for and complains of."""
    view = View(context.new_page())
    view.page.on("request", lambda request: view.requests.append(request.url))
    view.page.on("console", lambda message: view.complaints.append(message.text))
    view.page.on("pageerror", lambda error: view.complaints.append(str(error)))
    view.page.on("dialog", lambda dialog: (view.dialogs.append(dialog.message), dialog.dismiss()))
    view.page.goto(address)
    view.page.wait_for_selector("html[data-ready]", timeout=10_000)
    return view


def require_nothing_grave(view: View, axe: Any) -> None:
    """What axe-core finds on a page as it is; `axe` is the module of its driver."""
    found = axe.Axe().run(view.page).response
    assert len(found["passes"]) > 15
    told = [
        f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:160] for node in one['nodes'][:4]]}"
        for one in found["violations"]
        if one["impact"] in GRAVE
    ]
    assert not told, "\n".join(told)
