"""Benchmark of the page on a made-up run: time and memory to build it, its size, and its response times in a browser."""

import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crosscoder.run.folder import RunFolder
from crosscoder.runtime.timing import BenchmarkTable

from ..browser.files import DATA
from .build_cost import Build, measured_build
from .large_run import N_EXAMPLES, TOKENS, write_large_run

N_OPENED = 30
"""Latents to open, at random, so mostly from different packs."""

_ABSENT = "no such words"
_SORTED = ("density", "relative_norm", "nu_error", "max_activation", "n_tokens")
_FILTERED = (
    "relative_norm=0.4..0.48",
    "density=0.001..0.01",
    "decoder_cosine=0.2..0.9",
    "label=new,lost",
    "q_value=..0.3",
)
_WAIT_MS = 300_000

# Changes the address and returns the milliseconds until the page shows the result, after layout. Reading a canvas forces it to draw.
_TIMED = """([address, selector, attribute, value]) => new Promise((resolve) => {
  const begin = performance.now();
  const node = document.querySelector(selector);
  const observer = new MutationObserver(() => {
    if (attribute && node.getAttribute(attribute) !== value) return;
    observer.disconnect();
    document.body.offsetHeight;
    document.querySelector(".scatter canvas")?.getContext("2d").getImageData(0, 0, 1, 1);
    resolve(performance.now() - begin);
  });
  observer.observe(node, { attributes: true, childList: true, characterData: true, subtree: !attribute });
  location.hash = address;
})"""


@dataclass(frozen=True)
class PageTiming:
    """Response times of the page in a browser, in milliseconds, and its memory."""

    ready: float
    latents: Sequence[float] = field(repr=False)
    sorts: Sequence[float] = field(repr=False)
    filters: Sequence[float] = field(repr=False)
    search: float
    heap_bytes: int


def page_benchmark(sizes: Sequence[int], repeats: int) -> Iterator[BenchmarkTable]:
    """Yield the benchmark of a made-up run of each size, with `repeats` browser sessions each."""
    for n_latents in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = write_large_run(Path(place) / "run", n_latents)
            build = measured_build(folder)
            timings = list(page_timings(folder, n_latents, repeats))
            yield _figures(n_latents, folder, build, timings)


def find_chromium() -> str | None:
    """Return the path of a local Chromium that playwright can drive; None if there is none."""
    if importlib.util.find_spec("playwright") is None:
        return None
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for found in map(shutil.which, names) if found), None)


def page_timings(folder: RunFolder, n_latents: int, repeats: int) -> Iterator[PageTiming]:
    """Yield the timings of the page, each in a fresh browser process; none without a browser."""
    chromium = find_chromium()
    if chromium is None:
        return
    from playwright.sync_api import sync_playwright

    address = (folder.browser / "index.html").resolve().as_uri()
    latents = np.random.default_rng(0).permutation(n_latents)[:N_OPENED].tolist()
    with sync_playwright() as driver:
        for _ in range(repeats):
            browser = driver.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
            )
            yield _time_page(browser, address, latents)
            browser.close()


def _time_page(browser: Any, address: str, latents: Sequence[int]) -> PageTiming:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address, timeout=_WAIT_MS)
    page.wait_for_selector("html[data-ready]", timeout=_WAIT_MS)
    ready = float(page.evaluate("performance.getEntriesByName('ready')[0].startTime"))
    counted = (".count-line", None, None)

    def timed(address: str, *until: str | None) -> float:
        # JavaScript numbers without a fraction arrive as int.
        return float(page.evaluate(_TIMED, [address, *until]))

    sorts = [timed(f"#sort={sign}{name}", *counted) for name in _SORTED for sign in ("", "-")]
    filters = [timed(f"#{words}", *counted) for words in _FILTERED]
    filters.append(timed("#", *counted))
    opened = [timed(f"#latent={latent}", "#latent", "data-latent", str(latent)) for latent in latents]
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
    begin = time.perf_counter()
    page.evaluate("address => { location.hash = address }", f"#q={_ABSENT}")
    page.wait_for_selector(f'.chip:has-text("{_ABSENT}")')
    page.wait_for_selector('.count-line:not(:has-text("searching"))', timeout=_WAIT_MS)
    search = 1e3 * (time.perf_counter() - begin)
    return PageTiming(ready, opened, sorts, filters, search, int(metrics["JSHeapUsedSize"]))


def _figures(
    n_latents: int, folder: RunFolder, build: Build, timings: Sequence[PageTiming]
) -> BenchmarkTable:
    files = list((folder.browser / DATA).glob("*.js"))
    index = (folder.browser / "index.html").stat().st_size
    record: dict[str, Any] = {
        "n_latents": n_latents,
        "build_seconds": build.seconds,
        "peak_bytes": build.peak_bytes,
        "held_bytes": build.held_bytes,
        "index_bytes": index,
        "data_bytes": sum(path.stat().st_size for path in files),
        "data_files": len(files),
        "openings": [vars(timing) for timing in timings],
    }
    rows = [
        ("build", f"{build.seconds:.1f} s"),
        ("peak memory of the build", _megabytes(build.peak_bytes)),
        ("of that, held before examples are read", _megabytes(build.held_bytes)),
        ("index.html", _megabytes(index)),
        (f"{len(files):,} files in {DATA}", _megabytes(record["data_bytes"])),
    ]

    def median_ms(name: str, worst: bool = True) -> str:
        each = [getattr(timing, name) for timing in timings]
        if not worst:
            return f"{statistics.median(each):,.0f} ms"
        middle = statistics.median(statistics.median(times) for times in each)
        return f"{middle:,.0f}, {statistics.median(max(times) for times in each):,.0f} ms"

    if timings:
        heap = statistics.median(timing.heap_bytes for timing in timings)
        rows += [
            ("ready", median_ms("ready", worst=False)),
            (f"open a latent, median and worst of {N_OPENED}", median_ms("latents")),
            ("sort, median and worst", median_ms("sorts")),
            ("filter and draw the scatter, median and worst", median_ms("filters")),
            ("search all text, nothing unpacked yet", median_ms("search", worst=False)),
            ("JavaScript heap", _megabytes(heap)),
        ]
    note = (
        f"Medians of {len(timings)} fresh browsers, opened from disk; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
        if timings
        else "Not measured in a browser: needs Chromium and playwright."
    )
    title = f"Page: {n_latents:,} latents, {N_EXAMPLES} examples of {TOKENS} tokens each"
    return BenchmarkTable(title, ("what", "figure"), tuple(rows), record, (note,))


def _megabytes(size: int | float) -> str:
    return f"{size / 1e6:,.1f} MB"
