"""A run in a notebook: its numbers are those of the files, and model or data text is never markup."""

import inspect
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import crosscoder
from analysis import Run
from analysis.notebook.latent import Latent
from analysis.report import write_report
from crosscoder.config.load import dump_config
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder
from tests.dictionaries import small_crosscoder
from tests.training.in_memory import run_config

from ..explained_runs import NAMED, explained
from ..page_views import read_table
from ..report_runs import controlled, shifted
from ..run_folder import HOSTILE, HOSTILE_LATENT, N_LATENTS, condition, make_run_folder

ALLOWED = {"div", "style", "p", "span", "small", "h4", "table", "tr", "th", "td", "bdi", "data"}


def as_run(folder: RunFolder) -> RunFolder:
    """Add the settings that every run has."""
    folder.config.write_text(dump_config(run_config(folder.path)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = as_run(make_run_folder(tmp_path_factory.mktemp("notebook") / "run"))
    controlled(folder)
    explained(folder, hostile=True)
    shifted(folder, "small_talk", established=False)
    write_report(folder)
    save_crosscoder(small_crosscoder("topk", "two"), folder.crosscoder)
    folder.metrics.write_text('{"step": 1, "tokens": 10, "metrics/l0": 3.5}\n')
    return folder


@pytest.fixture(scope="module")
def run(folder: RunFolder) -> Run:
    return Run.load(str(folder.path))


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_features_are_the_file_with_documented_types(run: Run, folder: RunFolder) -> None:
    table: Any = run.features
    stored = read_table(folder.features)
    assert table.index.name == "latent" and table.index.tolist() == stored["latent"].tolist()
    assert set(table.columns) == set(stored.columns) - {"latent"}
    for name in ("relative_norm", "nu_error_low", "q_value"):
        np.testing.assert_array_equal(table[name], stored[name])
    assert table["label"].tolist() == stored["label"].tolist()
    assert (
        str(table["twin"].dtype) == "Int32" and table["twin"].isna().sum() == stored["twin"].isna().sum() > 0
    )
    assert str(table["n_tokens"].dtype) == "int64"
    assert table["evidence"].max() == "causal", "levels of evidence are in order"


def test_a_latent_has_its_numbers_with_intervals(run: Run, folder: RunFolder) -> None:
    row = read_table(folder.features).loc[3]
    latent = run.latent(3)
    assert (latent.label, latent.evidence, latent.reason) == (row["label"], "causal", row["reason"])
    assert latent.numbers["nu_error"] == (row["nu_error"], row["nu_error_low"], row["nu_error_high"])
    assert latent.numbers["decoder_cosine"].low is None
    assert not {"nu_error_low", "label", "latent"} & set(latent.numbers)
    assert latent.table.loc["density/chat", "meaning"].startswith(
        "Share of the held-out tokens of one text source"
    )
    dead = read_table(folder.features).query("label == 'dead'")["latent"].iloc[0]
    assert run.latent(int(dead)).numbers["twin"].value is None
    assert run.latent(int(dead)).examples == ()


def test_a_latent_has_its_histogram_by_source(run: Run, folder: RunFolder) -> None:
    rows = [row for row in pq.read_table(folder.histograms).to_pylist() if row["latent"] == 3]
    histogram: Any = run.latent(3).histogram
    assert histogram.columns.tolist() == [row["source"] for row in rows] == ["chat", "prose"]
    for row in rows:
        assert histogram[row["source"]].tolist() == row["counts"]
    assert [bins.left for bins in histogram.index] == [rows[0]["width"] * at for at in range(len(histogram))]
    assert all(bins.closed == "left" for bins in histogram.index)
    dead = read_table(folder.features).query("label == 'dead'")["latent"].iloc[0]
    assert run.latent(int(dead)).histogram.empty


def test_examples_contain_contributions_to_both_models_per_token(run: Run, folder: RunFolder) -> None:
    rows = [row for row in pq.read_table(folder.examples).to_pylist() if row["latent"] == HOSTILE_LATENT]
    examples = run.latent(HOSTILE_LATENT).examples
    assert [one.quantile for one in examples] == [None] * 6 + [0.75, 0.5, 0.25]
    assert [one.rank for one in examples[:6]] == list(range(6))
    first = next(row for row in rows if row["quantile"] is None and row["rank"] == 0)
    table: Any = examples[0].table
    assert table.loc[first["position"], "values"] == np.float32(first["peak"])
    assert table["intervened"].tolist() == pytest.approx(first["intervened"])
    assert table["tokens"].tolist() == first["tokens"]
    assert len(run.examples([HOSTILE_LATENT])) == len(rows)


def test_logits_are_one_table_per_model_top_first(run: Run) -> None:
    logits: Any = run.latent(HOSTILE_LATENT).logits
    assert list(logits) == ["reference", "intervened", "difference"]
    top = logits["intervened"].query("side == 'top'")
    assert logits["intervened"]["side"].iloc[0] == "top"
    assert top["value"].is_monotonic_decreasing and top["token"].iloc[0] == HOSTILE[0]
    assert len(run.logits([HOSTILE_LATENT])) == sum(map(len, logits.values()))


def test_a_list_no_better_than_random_says_so(run: Run) -> None:
    def cells(latent: int) -> list[str]:
        return re.findall(
            r"<td><bdi>(difference, \w+)</bdi></td><td><bdi>(.*?)</td>", run.latent(latent)._repr_html_()
        )

    shared: Any = run.features.query("label == 'shared'").index
    odd, even = (int(shared[shared % 2 == rest][0]) for rest in (1, 0))
    assert all("does not read as tokens" in shown and "cc-token" not in shown for _, shown in cells(odd))
    assert all("cc-token" in shown for _, shown in cells(even))
    assert len(cells(odd)) == len(cells(even)) == 2


def test_behaviors_are_those_of_the_report(run: Run) -> None:
    report = run.report
    assert report is not None
    assert {name: found.reported for name, found in run.behaviors.items()} == {
        behavior.name: behavior for behavior in report.behaviors
    }
    found = run.behaviors[HOSTILE[0]]
    assert found.attribution.index.name == "latent"
    assert found.attribution.loc[3, "evidence"] == "causal"
    assert str(found.attribution["rank"].dtype) in ("Int64", "float64")
    checks: Any = found.checks
    assert checks["latents"].drop_duplicates().tolist() == ["all named", *NAMED]
    alone = checks.query("latents == 4 and check == 'necessity'").iloc[0]
    assert (alone["share"], alone["passed"]) == (0.0052, False)
    assert len(found.prompts) == 9
    silent = run.behaviors["small_talk"]
    assert not silent.established and silent.checks.empty and silent.explanation is None
    with pytest.raises(
        FormatError, match=r"attribution\.parquet: not found, because no shift of small_talk is explained"
    ):
        _ = silent.attribution


def test_other_files_are_loaded_on_demand(run: Run, folder: RunFolder) -> None:
    assert run.summary["n_latents"] == N_LATENTS
    assert run.metrics["metrics/l0"].tolist() == [3.5]
    assert run.dictionary.config == small_crosscoder("topk", "two").config
    assert run.config.output == folder.path


def test_figures_by_name(run: Run) -> None:
    pytest.importorskip("matplotlib")
    assert "labels" in run.plots and "behaviors/refusal/shift" in run.plots
    figure = run.plot("labels")
    assert [axes.get_xlabel() for axes in figure.axes] == ["latents (logarithmic above 1), with interval"]
    with pytest.raises(ConfigError, match=r"plot: the run has no figure 'lables' \(did you mean 'labels'"):
        run.plot("lables")


# --- errors -----------------------------------------------------------------------------------------------------------


def test_missing_files_are_one_line_errors(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run folder"):
        Run.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="not a run folder"):
        Run.load(tmp_path / "empty")
    for latent in (-1, N_LATENTS):
        with pytest.raises(
            ConfigError, match=f"latent: {latent} is out of range; the dictionary has latents 0 to 199"
        ):
            run.latent(latent)
    (tmp_path / "young").mkdir()
    young = Run.load(as_run(RunFolder(tmp_path / "young")).path)
    assert repr(young).endswith(": not analyzed)") and "has not been analyzed yet" in young._repr_html_()
    assert young.behaviors == {} and young.report is None
    for asked in (lambda: young.features, lambda: young.latent(0), lambda: young.summary):
        with pytest.raises(FormatError, match=r"summary\.json: not found; run crosscoder analyze first"):
            asked()
    with pytest.raises(FormatError, match=r"metrics\.jsonl: missing"):
        _ = young.metrics


# --- how it looks -----------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Collects all tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def shown_by(run: Run) -> dict[str, str]:
    latent = run.latent(HOSTILE_LATENT)
    things = {
        "run": run,
        "latent": latent,
        "example": latent.examples[0],
        "behavior": run.behaviors[HOSTILE[0]],
    }
    return {name: thing._repr_html_() for name, thing in things.items()}


def test_model_and_data_text_is_never_markup(run: Run) -> None:
    for name, html in shown_by(run).items():
        tags = Tags(html)
        assert tags.tags <= ALLOWED, name
        assert tags.attributes <= {"class", "style", "title", "value"}, name
        assert "http" not in html and "url(" not in html and "@import" not in html
        assert "\u202e" not in html and "\u2028" not in html, (
            "characters that reorder or hide text are spelled out"
        )
    assert "alert(1)" in Tags(shown_by(run)["example"]).text, "the control: the hostile tokens are there"
    assert "{{ 7 * 7 }}" in Tags(shown_by(run)["example"]).text


def test_both_rows_are_shaded_by_contribution(run: Run) -> None:
    example = run.latent(HOSTILE_LATENT).examples[0]
    html = example._repr_html_()
    pairs = re.findall(r'<span class="cc-pair[^"]*" title="([^"]*)">(.*?)</span>', html)
    assert len(pairs) == len(example.tokens)
    largest = max(example.reference.max(), example.intervened.max())
    peak = example.position - example.start
    widths = [float(width) for width in re.findall(r"border-bottom-width: ([\d.]+)px", pairs[peak][1])]
    assert widths == pytest.approx(
        [4 * example.reference[peak] / largest, 4 * example.intervened[peak] / largest], abs=0.006
    )
    assert f'cc-peak" title="{pairs[peak][0]}"' in html or "cc-peak" in html
    silent = int(np.flatnonzero(example.values == 0)[0])
    assert pairs[silent][1].count("border-bottom-width: 0.00px") == 2


def test_repr_is_a_short_summary(run: Run) -> None:
    assert re.search(r"refuse-food; 7 new, 3 lost", repr(run))
    assert re.fullmatch(r"Latent\(3: \w+, causal(, -?[\d.]+% of the shift)?\)", repr(run.latent(3)))
    assert "not established" in repr(run.behaviors["small_talk"])
    assert repr(run.latent(HOSTILE_LATENT).examples[0]).startswith("Example(latent=5, document=")


def test_completion_offers_all_attributes(run: Run) -> None:
    assert {"features", "latent", "behaviors", "summary", "report", "dictionary", "metrics", "plot"} <= set(
        dir(run)
    )
    assert {"numbers", "examples", "logits", "label"} <= set(dir(run.latent(0)))
    assert inspect.getdoc(Run.features) and inspect.getdoc(Latent.logits)


def test_reading_writes_nothing(run: Run, folder: RunFolder) -> None:
    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}

    before = state()
    shown_by(run)
    assert isinstance(run.features, pd.DataFrame)
    assert state() == before


def test_a_run_that_misses_a_condition_says_that_nothing_is_labeled(tmp_path: Path) -> None:
    folder = as_run(make_run_folder(tmp_path / "run", n_latents=60))
    summary = json.loads(folder.summary.read_text())
    summary["checks"][0] = condition("fve_reference", 0.46875, 0.8, False)
    folder.summary.write_text(json.dumps(summary))
    run = Run.load(folder.path)
    said = "Nothing is labeled: the dictionary explains 46.9 % of the variance of the reference"
    # With and without a written report.
    assert said in Tags(run._repr_html_()).text
    write_report(folder)
    assert said in Tags(Run.load(folder.path)._repr_html_()).text
    assert "nothing is labeled" in repr(run) and " new" not in repr(run)


def test_the_package_loads_it_on_demand() -> None:
    program = "import sys, crosscoder; assert 'analysis' not in sys.modules; crosscoder.Run; print(crosscoder.Run.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "analysis.notebook.run"
    assert crosscoder.Run is Run


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    folder = as_run(make_run_folder(tmp_path / "runs" / "my-pair"))
    controlled(folder)
    explained(folder)
    write_report(folder)
    save_crosscoder(small_crosscoder("topk", "two"), folder.crosscoder)
    folder.metrics.write_text('{"step": 1, "tokens": 10, "metrics/l0": 3.5}\n')
    guide = (Path(__file__).parents[3] / "docs" / "notebook.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) >= 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/notebook.md", "exec"), names)
    assert (tmp_path / "shift_share.pdf").read_bytes().startswith(b"%PDF")


def test_a_browser_shows_it_without_running_anything(run: Run, chromium: Any, tmp_path: Path) -> None:
    for scheme in ("light", "dark"):
        page = chromium.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
        seen: list[str] = []
        page.on("dialog", lambda dialog, seen=seen: (seen.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request, seen=seen: seen.append(request.url))
        page.set_content("<!doctype html>" + "".join(shown_by(run).values()))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator(".cc-peak").count() == 7
        assert not seen
        page.close()
    assert json.loads(json.dumps(shown_by(run)))
