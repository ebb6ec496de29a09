"""A latent's page shows the histograms of its values per text source, with the counts of the file."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from analysis.bench.large_run import write_large_run
from analysis.latents.histograms import ActivationHistograms
from analysis.report.phrases import percent
from analysis.tables.analysis_files import load_results
from analysis.tables.columns import HISTOGRAMS
from analysis.tables.histogram_rows import legacy_histograms_path
from crosscoder.dictionary.sparse_latents import SparseLatents
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..page_views import read_table
from ..run_folder import HOSTILE, SOURCES, make_run_folder
from ..table_checks import described

LATENT = 3

ROWS = """rows => rows.map(row => ({
    name: row.cells[0].textContent,
    density: row.cells[1].firstChild.textContent,
    share: Number(row.querySelector(".share-track").style.getPropertyValue("--at")),
    label: row.querySelector("svg").getAttribute("aria-label"),
    bars: Array.from(row.querySelectorAll("rect"), bar => [Number(bar.getAttribute("x")), Number(bar.getAttribute("height"))]),
    titles: Array.from(row.querySelectorAll("title"), title => title.textContent),
}))"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run", n_latents=80)
    write_page(folder)
    return folder


def rows_of(folder: RunFolder, latent: int) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(folder.histograms).to_pylist() if row["latent"] == latent]


def test_each_source_has_the_counts_of_the_file(run: RunFolder, visit: Any) -> None:
    stored = rows_of(run, LATENT)
    features = read_table(run.features)
    view = visit(run, f"#latent={LATENT}")
    view.wait_for_latent(LATENT)
    every, *shown = view.page.eval_on_selector_all(".by-source tbody tr", ROWS)
    assert [row["name"] for row in shown] == [row["source"] for row in stored] == list(SOURCES)
    counts = np.array([row["counts"] for row in stored])
    for row, own, name in zip([every, *shown], [counts.sum(axis=0), *counts], ["", *SOURCES], strict=True):
        found = [int(title.split(": ")[1].split(" ")[0].replace(",", "")) for title in row["titles"]]
        assert found == own.tolist()
        density = features[f"density/{name}" if name else "density"][LATENT]
        assert row["density"] == percent(density)
        assert f"Histogram of {own.sum()} latent values between 0 and " in row["label"]
    tokens = SOURCES["prose"]["tokens"]
    full = int(counts[1].argmax())
    assert shown[1]["titles"][full].endswith(f", {percent(counts[1][full] / tokens)} of its tokens")
    # Densities shown in this table are not repeated in the list.
    assert "on chat" not in view.page.inner_text(".rest")
    assert view.page.query_selector("figure.histogram") is None
    assert view.console_messages == []


def test_rows_share_bins_and_scale(run: RunFolder, visit: Any) -> None:
    """Equal shares of a source's tokens have equal heights in every row, although the sources differ in size."""
    stored = rows_of(run, LATENT)
    view = visit(run, f"#latent={LATENT}")
    view.wait_for_latent(LATENT)
    _, *shown = view.page.eval_on_selector_all(".by-source tbody tr", ROWS)
    assert [[at for at, _ in row["bars"]] for row in shown] == [[at for at, _ in shown[0]["bars"]]] * 2
    least = 1 / max(row["tokens"] for row in stored)
    rates = np.array([np.array(row["counts"]) / row["tokens"] for row in stored])
    heights = np.log1p(rates / least) / np.log1p(rates.max() / least) * 28
    for row, expected in zip(shown, heights, strict=True):
        drawn = [height for _, height in row["bars"]]
        assert drawn == pytest.approx(np.where(expected > 0, np.maximum(expected, 1.5), 0), abs=1e-6)
    lefts = view.page.eval_on_selector_all(
        ".by-source svg",
        "nodes => nodes.map(n => [n.getBoundingClientRect().left, n.getBoundingClientRect().right])",
    )
    assert lefts == [lefts[0]] * 3


def of_sources(folder: RunFolder, names: list[str]) -> None:
    """Replace the text sources of the run."""
    table = read_table(folder.features)
    table = table.drop(columns=[name for name in table if name.startswith("density/")])
    counted = ActivationHistograms(len(table), len(names))
    random = np.random.default_rng(0)
    for latent in table.loc[table["label"] != "dead", "latent"]:
        values = torch.from_numpy(random.exponential(2, 400)).float()
        firings = SparseLatents(torch.arange(400), torch.full((400,), latent), values, (400, len(table)))
        counted.update(firings, torch.from_numpy(random.integers(len(names), size=400)))
    pq.write_table(counted.table(names, torch.arange(1, len(names) + 1) * 1000), folder.histograms)
    table.assign(**{f"density/{name}": 0.01 for name in names}).to_parquet(folder.features)


def test_with_one_source_there_is_one_histogram(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    of_sources(folder, ["files"])
    write_page(folder)
    (stored,) = rows_of(folder, LATENT)
    view = visit(folder, f"#latent={LATENT}")
    view.wait_for_latent(LATENT)
    titles = view.page.eval_on_selector_all(
        "figure.histogram title", "nodes => nodes.map(n => n.textContent)"
    )
    assert [int(title.split(" ")[0]) for title in titles] == stored["counts"]
    assert "on files" in view.page.inner_text(".rest")
    assert view.page.query_selector(".by-source") is None
    assert view.console_messages == []


@pytest.mark.parametrize("width", [1280, 390])
def test_ten_sources_with_long_and_hostile_names_fit(tmp_path: Path, visit: Any, width: int) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    names = [*HOSTILE, "a name that is much longer than any column of a table could be", "code", "chat"]
    of_sources(folder, names)
    write_page(folder)
    view = visit(folder, f"#latent={LATENT}", width=width)
    view.wait_for_latent(LATENT)
    rows = view.page.eval_on_selector_all(".by-source tbody tr", ROWS)
    assert len(rows) == 11
    assert rows[1]["name"] == HOSTILE[0] and rows[4]["name"] == "\\u202egnp.exe"
    assert view.page.query_selector_all("img, iframe, object, embed, form, b, i") == []
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = view.page.eval_on_selector_all(
        ".by-source tbody tr",
        "rows => rows.map(row => [row.cells[0].getBoundingClientRect().right, row.cells[1].getBoundingClientRect().left, row.querySelector('svg').getBoundingClientRect().width])",
    )
    assert all(end <= begin and wide > 100 for end, begin, wide in boxes)
    assert view.dialogs == [] and view.console_messages == []


# --- runs of earlier releases ----------------------------------------------------------------------------------------


def as_before(folder: RunFolder) -> dict[str, Any]:
    """Replace histograms.parquet by the file of earlier releases."""
    features = read_table(folder.features).query("label != 'dead'")
    old = {}
    for latent, largest in zip(features["latent"], features["max_activation"], strict=True):
        counts = (np.arange(20)[::-1] * (latent + 1)).tolist()
        old[str(latent)] = {"edges": np.linspace(0, largest, 21).tolist(), "counts": counts}
    legacy_histograms_path(folder).write_text(json.dumps({"activation": old}))
    folder.histograms.unlink()
    return old


def test_a_run_of_an_earlier_release_shows_its_histogram(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=150)
    old = as_before(folder)
    write_page(folder)
    view = visit(folder)
    last = max(map(int, old))
    assert last > 128
    for latent in (LATENT, last):
        view.go(f"#latent={latent}")
        view.wait_for_latent(latent)
        titles = view.page.eval_on_selector_all(
            "figure.histogram title", "nodes => nodes.map(n => n.textContent)"
        )
        assert [int(title.split(" ")[0].replace(",", "")) for title in titles] == old[str(latent)]["counts"]
        largest = view.page.inner_text("figure.histogram .axis span:last-child")
        assert float(largest) == pytest.approx(old[str(latent)]["edges"][-1], rel=5e-3)
        assert view.page.query_selector(".by-source") is None
        assert "on chat" in view.page.inner_text(".rest")
    histogram = load_results(folder).histograms.of(last)
    assert histogram is not None
    np.testing.assert_allclose(histogram.edges, old[str(last)]["edges"])
    assert {name: counts.tolist() for name, counts in histogram.counts.items()} == {
        None: old[str(last)]["counts"]
    }
    assert view.console_messages == []


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    content = folder.histograms.read_bytes()
    folder.histograms.write_bytes(content[:-9])
    with pytest.raises(FormatError, match=r"histograms\.parquet: not a readable Parquet file"):
        write_page(folder)
    folder.histograms.unlink()
    with pytest.raises(FormatError, match=r"histograms\.parquet: not found; run crosscoder analyze first"):
        write_page(folder)
    for damaged in ("{", "[]", '{"activation": {"x": 1}}', '{"activation": {"0": {"edges": []}}}'):
        legacy_histograms_path(folder).write_text(damaged)
        with pytest.raises(FormatError, match=r"histograms\.json: not a file of histograms \("):
            write_page(folder)


def test_a_synthetic_run_has_the_histograms_of_a_real_one(tmp_path: Path) -> None:
    folder = write_large_run(tmp_path / "run", 1100)
    described(folder.histograms, HISTOGRAMS)
    table, features = pq.read_table(folder.histograms).to_pandas(), read_table(folder.features)
    assert set(table["latent"]) == set(features.loc[features["label"] != "dead", "latent"])
    largest = features["max_activation"][table["latent"]].to_numpy()
    bins, width = table["counts"].map(len).to_numpy(), table["width"].to_numpy()
    assert ((bins - 1) * width <= largest).all() and (largest < bins * width).all()
    assert re.fullmatch("chat,prose", ",".join(dict.fromkeys(table["source"])))
