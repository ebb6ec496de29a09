"""The page shows effect and cost of steering, and the checks in generated answers, with the numbers of causal.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.behaviors.behavior_files import BehaviorFolder
from analysis.report import write_report
from analysis.report.desiderata import COST
from analysis.report.phrases import percent
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..explained_runs import explained
from ..run_folder import make_run_folder

DOSES = (0.5, 1.0, 2.0, 4.0)


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.02}


def steering() -> list[dict[str, Any]]:
    """Return the named latents at four doses on each model, and a random direction that opposes the shift at one dose."""
    return [
        {
            "model": model, "direction": direction, "dose": dose, "share": estimate(share * dose), "kl": estimate(0.03 * dose),
            "perplexity": 26.5, "perplexity_changed": 26.5 + dose,
        }
        for model, share in (("reference", 0.21), ("intervened", 0.07))
        for direction, doses, share in (("named latents", DOSES, share), ("random", (1.0,), -0.04))
        for dose in doses
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run", n_latents=80)
    rewrite(explained(folder), steering=steering())
    write_page(folder)
    return folder


def rewrite(place: BehaviorFolder, **parts: Any) -> None:
    place.causal.write_text(json.dumps(json.loads(place.causal.read_text()) | parts))


def texts(view: Any, selector: str) -> list[str]:
    return view.page.eval_on_selector_all(selector, "nodes => nodes.map(n => n.textContent)")


def test_doses_are_those_of_the_file(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    rows = view.page.eval_on_selector_all(
        ".doses .numbers tbody tr", "rows => rows.map(row => Array.from(row.cells, cell => cell.textContent))"
    )
    expected = [
        [
            f"{row['model']}, {row['direction']} dose {row['dose']:g}",
            percent(row["share"]["value"])
            + f"{percent(row['share']['low'])} to {percent(row['share']['high'])}",
            f"{row['kl']['value']:.4f}{row['kl']['low']:.4f} to {row['kl']['high']:.4f}",
            f"26.50 to {row['perplexity_changed']:.2f}",
        ]
        for row in steering()
    ]
    assert rows == expected
    write_report(run)
    report = json.loads((run.report / "report.json").read_text())
    (lever,) = report["outlook"]["levers"]
    assert lever["text"]["text"] in texts(view, ".doses p")[0]
    assert view.console_messages == []


def test_dose_charts_match_their_numbers(run: RunFolder, visit: Any) -> None:
    """Heights are proportional to shares, doubled doses are equally spaced, and the cost limit is drawn at its level."""
    view = visit(run)
    points = view.page.eval_on_selector_all(
        ".dose-response svg",
        "charts => charts.map(c => c.querySelector('.series-0').getAttribute('points').split(' ').map(p => p.split(',').map(Number)))",
    )
    assert len(points) == 2
    for chart in points:
        across, down = zip(*chart, strict=True)
        steps = [after - before for before, after in zip(across, across[1:], strict=False)]
        assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
        # Shares are proportional to doses: 0.5, 1, 2, 4.
        assert (down[0] - down[3]) / (down[0] - down[1]) == pytest.approx(7, rel=0.05)
    (cost,) = view.page.eval_on_selector_all(
        ".dose-cost svg",
        """charts => charts.map(c => ({
            line: Number(c.querySelector('.limit').getAttribute('y1')),
            points: c.querySelector('.series-0').getAttribute('points').split(' ').map(p => Number(p.split(',')[1])),
        }))""",
    )
    level = {row["dose"]: row["kl"]["value"] for row in steering() if row["model"] == "reference"}
    slope = (cost["points"][3] - cost["points"][0]) / (level[4.0] - level[0.5])
    assert cost["line"] == pytest.approx(cost["points"][0] + slope * (COST - level[0.5]), abs=0.2)
    # The lines differ without color, and each is named.
    assert texts(view, ".dose-response:first-of-type .series-name").count("latents") == 1
    assert view.page.query_selector(".dose-response .point.open") is not None


def test_answers_are_those_of_the_file(run: RunFolder, visit: Any) -> None:
    answers = json.loads(BehaviorFolder(run.behaviors / "refusal").causal.read_text())["answers"]
    view = visit(run)
    shown = texts(view, ".answers .check p")
    for line, kind in zip(shown, ("necessity", "sufficiency"), strict=True):
        check = answers["together"][kind]
        assert line.startswith(
            f"{percent(check['value'])} ({percent(check['low'])} to {percent(check['high'])})"
        )
        assert ("not passed" in line) is not check["passed"]
        assert f"in 2 draws, corrected p {check['p_adjusted']:.3g}" in line
    assert "A claim about answers rests on these checks alone." in texts(view, ".answers .caption")[0]
    cells = view.page.eval_on_selector_all(
        ".answers .numbers tbody tr",
        "rows => rows.map(row => Array.from(row.cells, cell => cell.textContent))",
    )
    assert [row[0] for row in cells] == ["2", "55"]
    assert cells[0][1].startswith(percent(answers["together"]["necessity"]["value"]))
    assert cells[1][2].startswith(percent(answers["curve"][0]["sufficiency"]["value"]))


def test_without_doses_and_answers_no_empty_part_is_shown(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    rewrite(explained(folder), steering=[], answers=None)
    write_page(folder)
    view = visit(folder)
    assert view.page.query_selector(".behavior .bars") is not None
    assert view.page.query_selector(".doses figure, .doses .numbers, .answers") is None
    # Removing latents is a lever, too.
    assert "removing the named latents from the intervened model" in (view.page.text_content(".doses") or "")
    assert view.console_messages == []
