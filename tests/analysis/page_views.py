"""A written page in a browser, and what its packs hold, for the tests of the page."""

import base64
import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.browser.files import SINGLE_FILE_BYTES
from crosscoder.folder import RunFolder

LAYOUTS = {SINGLE_FILE_BYTES: "one file", 0: "folder"}
"""Limits that lead to each layout of a small page, and its name."""


def page_files(folder: RunFolder) -> dict[str, bytes]:
    """Everything that belongs to a page."""
    place = folder.browser
    return {
        str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }


def read_table(path: Path) -> Any:
    """A Parquet file as pandas; its stubs know too little of rows and columns to help here."""
    return pd.read_parquet(path)


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

    def open_latent(self, latent: int) -> None:
        self.page.wait_for_selector(f'#latent[data-latent="{latent}"]')


def unpacked(text: str) -> tuple[dict[str, Any], bytes]:
    data = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]
