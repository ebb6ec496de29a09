"""The page shows the certainty of the counts in the report's sentences and charts, and names what was not measured."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.report import write_report
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..page_views import read_table, unpacked
from ..report_runs import limits, report_text
from ..run_folder import HOSTILE, make_run_folder

_CONTROLS = {
    "nulls": [
        {"name": "drift", "new": 3, "lost": 1, "rotated": 9, "alive": 150},
        {"name": HOSTILE[1], "lost": 2, "alive": 140},
    ],
    "identity": {"shared": 150, "alive": 150},
    "shuffled": {"shared": 3, "new": 70, "lost": 60, "alive": 150},
    "seeds": 2,
    "difference_fve": 0.25,
    "difference_fve_mixed": 0.1,
    "difference_heard": True,
}


def controlled(path: Path, **controls: Any) -> RunFolder:
    """A run with every control; every fifth latent has no q-value and no interval."""
    folder = make_run_folder(path, n_latents=80)
    summary = json.loads(folder.summary.read_text())
    summary |= {"controls": _CONTROLS | controls, "limits": limits()}
    summary["counts"]["new"] |= {"expected_false": 1.5, "low": 5.0, "high": 9.0}
    summary["counts"]["rotated"] |= {"low": 4.0, "high": 1234.0}
    folder.summary.write_text(json.dumps(summary))
    table = read_table(folder.features)
    table["q_value"], table["seed_stability"] = 0.0312, 0.5
    table["difference_cosine"], table["difference_latent"] = 0.83, 7
    unknown = table["latent"] % 5 == 0
    table.loc[unknown, ["q_value", "nu_error_low", "nu_error_high", "density_low", "shift_share_low"]] = (
        np.nan
    )
    table.to_parquet(folder.features)
    return folder


def overview_header(folder: RunFolder) -> dict[str, Any]:
    """Return the header of the overview pack of the written page."""
    write_page(folder)
    text = (folder.browser / "index.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'id="overview-data">([^<]*)<', text)
    return unpacked(found)[0]


def found_by(header: dict[str, Any]) -> dict[str, str | None]:
    return {result["name"]: result["text"] for result in header["control_results"]}


def test_payload_contains_the_results_of_the_controls_and_the_charts_of_the_report(tmp_path: Path) -> None:
    folder = controlled(tmp_path / "run")
    header = overview_header(folder)
    found = found_by(header)
    others = "0 rescaled and 0 reweighted among"
    rest = "latents that fire, by the rule alone, before q-values"
    assert found["null: drift"] == f"3 new, 1 lost, 0 replaced, 9 rotated, {others} 150 {rest}"
    assert found[f"null: {HOSTILE[1]}"] == f"0 new, 2 lost, 0 replaced, 0 rotated, {others} 140 {rest}"
    assert found["identity"] == (
        f"0 new, 0 lost, 0 replaced, 0 rotated, {others} 150 latents that fire: none, as expected"
    )
    assert found["shuffled"] == "2.00 % of 150 latents that fire are called shared, 86.7 % new or lost"
    seeds = found["other trainings"] or ""
    assert (
        seeds.startswith("0 % of ")
        and " are found again by all 2 other trainings; so are, with the same label, 0 of the " in seeds
    )
    assert (found["diff-SAE"] or "").startswith("reliable: ")
    assert "explains 25.0 % of the difference (10.0 % of a difference without structure)" in (
        found["diff-SAE"] or ""
    )
    write_report(folder)
    report = report_text(folder, "html")
    (curve,) = header["limits"]
    assert curve["drawing"] in report
    assert curve["drawing"].count("<polyline") == 2
    assert (
        curve["text"]
        == "the number of new and lost latents stays between 24 and 26 for a limit from 0.1 to 0.3; it is 0 for a limit of 0 and 65 for a limit of 0.4"
    )


def test_payload_states_defects_unreliable_controls_and_missing_controls(tmp_path: Path) -> None:
    defect = {"shared": 140, "rotated": 4, "alive": 150}
    folder = controlled(tmp_path / "run", identity=defect, difference_heard=False, nulls=[], shuffled=None)
    found = found_by(overview_header(folder))
    assert (found["identity"] or "").endswith(
        "4 rotated, 0 rescaled and 0 reweighted among 150 latents that fire: some, so doubt the labels"
    )
    assert (found["diff-SAE"] or "").startswith("not reliable: the diff-SAE explains 25.0 %")
    assert found["null: drift"] is None and found["shuffled"] is None
    header = overview_header(make_run_folder(tmp_path / "bare", n_latents=60))
    assert set(found_by(header)) == {
        "null: drift", "null: intermittent", "identity", "shuffled", "other trainings", "diff-SAE",
    }  # fmt: skip

    assert set(found_by(header).values()) == {None}
    assert header["limits"] == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run without any control."""
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run", n_latents=80)
    write_page(folder)
    return folder


def test_overview_shows_the_certainty_of_the_counts(tmp_path: Path, visit: Any) -> None:
    folder = controlled(tmp_path / "run")
    header = overview_header(folder)
    view = visit(folder)
    row = '.strip-row:has([data-label="{}"]) .{}'
    shown = {
        (label, part): view.page.text_content(row.format(label, part))
        for label in ("new", "lost", "rotated")
        for part in ("interval", "expected-false")
    }
    assert shown == {
        ("new", "interval"): "95 % interval 5 to 9",
        ("new", "expected-false"): "1.5 expected under the nulls tried",
        ("lost", "interval"): "95 % interval not measured",
        ("lost", "expected-false"): "expected under the nulls tried: not measured",
        ("rotated", "interval"): "95 % interval 4 to 1,234",
        ("rotated", "expected-false"): "expected under the nulls tried: not measured",
    }
    lines = view.page.eval_on_selector_all(
        ".control-results dd", "nodes => nodes.map(n => n.lastChild.textContent)"
    )
    assert lines == [result["text"] or "not measured" for result in header["control_results"]]
    names = view.page.eval_on_selector_all(".control-results dt", "nodes => nodes.map(n => n.textContent)")
    assert names == [result["name"] for result in header["control_results"]]
    assert view.page.query_selector_all("img") == []
    paths = view.page.eval_on_selector_all(
        ".limits polyline", "nodes => nodes.map(n => n.getAttribute('points'))"
    )
    assert paths == re.findall(r'points="([^"]*)"', header["limits"][0]["drawing"])
    assert view.page.eval_on_selector(".limits svg", "n => n.getBoundingClientRect().height") > 40
    stroke = "n => getComputedStyle(n).stroke"
    assert view.page.eval_on_selector(".limits .curve", stroke) != view.page.eval_on_selector(
        ".limits .expected", stroke
    )
    assert view.console_messages == []


def test_without_controls_nothing_is_blank(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    cells = view.page.eval_on_selector_all(
        ".strip-row .interval, .strip-row .expected-false, .control-results .found",
        "nodes => nodes.map(n => n.textContent)",
    )
    assert len(cells) == 9 * 2 + 6
    assert all("not measured" in cell for cell in cells)
    assert "Sensitivity to each limit\nnot measured" in re.sub(r"\n+", "\n", view.page.inner_text(".certain"))
    view.page.click(".columns summary")
    missing = view.page.eval_on_selector_all(
        ".columns label.missing", "nodes => nodes.map(n => [n.textContent, n.firstChild.disabled])"
    )
    assert missing == [[f"{name}: not measured", True] for name in ("q", "seeds", "same label", "diff-SAE")]


def test_table_shows_certainty_and_names_what_is_missing(tmp_path: Path, visit: Any) -> None:
    folder = controlled(tmp_path / "run")
    write_page(folder)
    view = visit(folder)
    heads = view.page.eval_on_selector_all(".row.head .cell", "nodes => nodes.map(n => n.textContent)")
    assert {"q", "seeds", "diff-SAE"} < set(heads)
    view.go("#columns=latent,q_value,nu_error_low,density_low,shift_share_high&sort=latent")
    view.page.wait_for_selector('[data-sort="nu_error_low"]')
    titles = view.page.eval_on_selector_all(".row.head .cell", "nodes => nodes.map(n => n.textContent)")
    assert titles == ["latent ↑", "q", "ν error, low", "density, low", "shift share, high"]
    table = read_table(folder.features)
    for latent in (0, 1):
        cells = view.page.eval_on_selector_all(
            f'.row[data-latent="{latent}"] .cell', "nodes => nodes.map(n => n.textContent)"
        )
        low = f"{table['nu_error_low'][latent]:.2f}".replace("-", "−")
        expected = ["not measured"] * 3 if latent == 0 else ["0.0312", low]
        assert cells[1 : 1 + len(expected)] == expected
        assert cells[4].endswith("%")


@pytest.mark.parametrize("heard", [True, False])
def test_latent_shows_its_certainty(tmp_path: Path, visit: Any, heard: bool) -> None:
    folder = controlled(tmp_path / "run", difference_heard=heard)
    write_page(folder)
    table = read_table(folder.features)
    fires = table["label"] != "dead"
    known = int(table.loc[fires & (table["latent"] % 5 != 0), "latent"].iloc[0])
    unknown = int(table.loc[fires & (table["latent"] % 5 == 0), "latent"].iloc[0])
    view = visit(folder, f"#latent={known}")
    view.wait_for_latent(known)
    text = view.page.inner_text(".how-sure")
    assert "0.0312" in text and "0.50" in text and "0.83" in text and "diff-SAE latent 7" in text
    assert ("not reliable" in text) is not heard
    assert "not measured" not in text
    view.go(f"#latent={unknown}")
    view.wait_for_latent(unknown)
    assert "q-value\nnot measured" in re.sub(r"\n+", "\n", view.page.inner_text(".how-sure"))
    assert "interval not measured" in view.page.inner_text(".nu .leans >> nth=0")
    assert view.page.inner_text(".rest").count("interval not measured") == 2
