"""The page shows behaviors and checkpoints with the report's sentences and the files' numbers, and omits them if a run has none."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.behaviors.behavior_files import BehaviorFolder
from analysis.browser import build
from analysis.browser.attributed_tokens import PROMPTS, TOKENS, attributed_tokens
from analysis.browser.payload import Gist, TokenTable, latent_packs, overview_pack
from analysis.browser.report_section import report_section
from analysis.report import write_report
from analysis.report.content import build_report
from analysis.report.phrases import percent
from analysis.tables.analysis_files import load_results
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..explained_runs import CHECKPOINTS, N_PROMPTS, NAMED, explained, followed
from ..page_views import read_table, unpacked
from ..report_runs import shifted
from ..run_folder import HOSTILE, make_run_folder


def header_and_chunk(folder: RunFolder, chunk: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the headers of the overview pack and of one latent pack of the written page."""
    write_page(folder)
    text = (folder.browser / "index.html").read_text(encoding="utf-8")
    (overview,) = re.findall(r'id="overview-data">([^<]*)<', text)
    (latents,) = re.findall(rf'id="chunk-{chunk}">([^<]*)<', text)
    return unpacked(overview)[0], unpacked(latents)[0]


def array(folder: RunFolder, name: str) -> np.ndarray:
    """Return a float32 array of the overview pack."""
    text = (folder.browser / "index.html").read_text(encoding="utf-8")
    (overview,) = re.findall(r'id="overview-data">([^<]*)<', text)
    header, body = unpacked(overview)
    _, offset, length = header["arrays"][name]
    return np.frombuffer(body, dtype=np.float32, count=length, offset=offset)


def flat(pieces: list[Any]) -> str:
    return "".join(piece if isinstance(piece, str) else piece[0] for piece in pieces)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_without_behaviors_and_snapshots_only_the_requirements_are_added(tmp_path: Path) -> None:
    """Positive control: with them every pack differs."""
    plain, extended = (make_run_folder(tmp_path / name, n_latents=80) for name in ("plain", "extended"))
    explained(extended)
    followed(extended)

    def packs(folder: RunFolder, with_sections: bool) -> list[str]:
        results = load_results(folder)
        required = report_section(build_report(results, folder))
        sections = (
            build.page_sections(folder, results, build_report(results, folder))
            if with_sections
            else [required]
        )
        tokens, gist = TokenTable(), Gist(len(results.features))
        made = list(latent_packs(results, tokens, gist, sections))
        return [overview_pack(results, gist, tokens, sections), *made]

    assert packs(plain, with_sections=True) == packs(plain, with_sections=False)
    assert all(one != other for one, other in zip(packs(extended, True), packs(extended, False), strict=True))


def test_payload_contains_the_sentences_and_numbers_of_the_report(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    place = explained(folder)
    shifted(folder, "small_talk", established=False)
    header, chunk = header_and_chunk(folder)
    write_report(folder)
    report = json.loads((folder.report / "report.json").read_text())
    for shown, behavior in zip(header["behaviors"], report["behaviors"], strict=True):
        assert [flat(pieces) for pieces in shown["sentences"]] == [
            one["text"] for one in behavior["sentences"]
        ]
        for name in ("name", "description", "unit", "established", "shift", "floor", "p_value"):
            assert shown[name] == behavior[name], name
    refusal, small_talk = header["behaviors"]
    assert small_talk["explanation"] is None
    expected = report["behaviors"][0]["explanation"]
    for part in ("origins", "level", "curve", "necessity", "sufficiency"):
        assert refusal["explanation"][part] == expected[part], part
    for requirement, own in zip(header["desiderata"], report["desiderata"], strict=True):
        assert requirement["name"] == f"{own['family']}: {own['name']}"
        assert requirement["verdict"] == own["verdict"]
        assert flat(requirement["shown"]) == own["shown"]["text"]
    table = read_table(place.latents)
    np.testing.assert_array_equal(
        array(folder, "column:attributed/refusal"), table["share_held_out"].astype(np.float32)
    )
    assert set(chunk["attributed_tokens"]) == {str(latent) for latent in NAMED}
    first = refusal["explanation"]["latents"][0]
    assert first["attribution"]["low"] == pytest.approx(table["share_held_out_low"][3], rel=1e-6)
    assert first["necessity"]["random"] == [0.015625, -0.125]


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_prompts_are_those_with_the_largest_attribution(tmp_path: Path, direction: float) -> None:
    """Compare with a naive pandas computation; rows are numbered within a batch, so several prompts share a row number."""
    place = explained(make_run_folder(tmp_path / "run", n_latents=80))
    tokens, prompts = read_table(place.tokens), read_table(place.prompts)
    tokens["value"] *= direction
    tokens.to_parquet(place.tokens)
    found = attributed_tokens(place, NAMED, direction)
    for latent in NAMED:
        own = tokens[tokens["latent"] == latent]
        sums = (own.groupby("prompt")["value"].sum() * direction).sort_values(ascending=False)
        assert [entry["prompt"] for entry in found[latent]] == [
            prompts["prompt"][at] for at in sums.index[:PROMPTS]
        ]
        for entry, prompt in zip(found[latent], sums.index, strict=False):
            assert entry["sum"] == pytest.approx(direction * sums[prompt], rel=1e-5)
            assert entry["rows"] == 2
            by_row = own[own["prompt"] == prompt].groupby("row")["value"].sum() * direction
            in_row = tokens[(tokens["prompt"] == prompt) & (tokens["row"] == by_row.idxmax())]
            assert [position for position, _, _ in entry["tokens"]] == sorted(set(in_row["position"]))
            fired = in_row[in_row["latent"] == latent].set_index("position")["value"]
            shown = {position: value for position, _, value in entry["tokens"] if value is not None}
            assert shown == pytest.approx(fired.to_dict(), rel=1e-5)
    (strongest, *_) = found[3]
    assert strongest["prompt"] == "Prompt 6?"
    assert max(strongest["tokens"], key=lambda token: direction * (token[2] or 0))[:2] == [8, " t8"]


def test_long_and_numerous_prompts_are_truncated(tmp_path: Path) -> None:
    place = explained(make_run_folder(tmp_path / "run", n_latents=80))
    prompts = pd.concat([read_table(place.prompts)] * 10, ignore_index=True)
    prompts["prompt"] = "x" * 10_000
    prompts.to_parquet(place.prompts)
    rows = [
        {
            "prompt": prompt,
            "row": 0,
            "position": at,
            "token": "t",
            "latent": 3,
            "value": float(at == 250) + 0.01,
        }
        for prompt in range(len(prompts))
        for at in range(500)
    ]
    pd.DataFrame(rows).to_parquet(place.tokens)
    found = attributed_tokens(place, [3], 1.0)[3]
    assert len(found) == PROMPTS
    for entry in found:
        assert len(entry["prompt"]) < 500
        assert len(entry["tokens"]) == TOKENS
        assert entry["left_out"] == 500 - TOKENS
        assert 1.01 in [value for _, _, value in entry["tokens"]]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    place = explained(folder)
    tokens = read_table(place.tokens)
    tokens.assign(prompt=tokens["prompt"] + N_PROMPTS).to_parquet(place.tokens)
    with pytest.raises(FormatError, match=r"tokens\.parquet: holds prompt \d+, but prompts\.parquet has 9"):
        write_page(folder)
    tokens.drop(columns="value").to_parquet(place.tokens)
    with pytest.raises(
        FormatError, match=r"tokens\.parquet: no column value; run crosscoder attribute again"
    ):
        write_page(folder)
    tokens.to_parquet(place.tokens)
    table = read_table(place.latents)
    table.assign(latent=table["latent"] + 1).to_parquet(place.latents)
    with pytest.raises(
        FormatError, match=r"attribution\.parquet: holds latent 60, but the dictionary has 60"
    ):
        write_page(folder)
    table.to_parquet(place.latents)
    followed(folder)
    path = folder.analysis / "trajectories.parquet"
    read_table(path).iloc[1:].to_parquet(path)
    with pytest.raises(FormatError, match=r"trajectories\.parquet: not one row for each of 60 latents and 4"):
        write_page(folder)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FormatError, match=r"trajectories\.parquet: not a readable Parquet file"):
        write_page(folder)


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run", n_latents=80)
    explained(folder)
    shifted(folder, "small_talk", established=False)
    followed(folder)
    write_page(folder)
    return folder


def numbers(view: Any, selector: str) -> list[str]:
    """Return the texts of all matching elements, including hidden ones."""
    return view.page.eval_on_selector_all(selector, "nodes => nodes.map(n => n.textContent)")


def ranged(estimate: dict[str, float]) -> str:
    """Format an estimate as the page does in one cell."""
    bounds = f"{percent(estimate['low'])} to {percent(estimate['high'])}" if "low" in estimate else ""
    return percent(estimate["value"]) + bounds


def test_overview_shows_each_behavior(run: RunFolder, visit: Any) -> None:
    place = BehaviorFolder(run.behaviors / "refusal")
    attribution, causal = (json.loads(path.read_text()) for path in (place.attribution, place.causal))
    view = visit(run)
    assert numbers(view, ".behavior-name") == ["refusal", "small_talk"]
    heads = numbers(view, ".behavior > summary")
    assert "shift 62.5 % (56.2 % to 65.6 %), noise floor 37.5 %" in heads[0]
    assert "named latents: causal" in heads[0]
    assert "no shift established (62.5 %" in heads[1]
    refusal, small_talk = view.page.query_selector_all(".behavior")
    assert refusal.get_attribute("open") is not None
    # Bars and lines refer to the stand-in metric, and the page says so.
    assert "the shift in the stand-in metric, in nats" in (refusal.text_content() or "")
    assert small_talk.query_selector("table, svg") is None
    write_report(run)
    report = json.loads((run.report / "report.json").read_text())
    sentences = numbers(view, '[data-behavior="refusal"] .behavior-sentences p')
    assert sentences == [sentence["text"] for sentence in report["behaviors"][0]["sentences"]]
    origins, latents, curve, layers = (
        numbers(view, f'[data-behavior="refusal"] {place}')
        for place in (
            "table.bars:has(caption:text('shift comes')) tbody td.numeric",
            "table.bars:has(caption:text('named')) tbody td.numeric",
            ".numbers:has(summary:text('together')) td",
            ".numbers:has(summary:text('Layers')) td",
        )
    )
    held_out = attribution["held_out"]
    shares = [held_out["parts"][name]["share"] for name in ("latents", "bias", "error", "left_out")]
    missed = {"value": held_out["residual_share"]}
    assert origins == [ranged(share) for share in (*shares, missed, held_out["above"]["share"])]
    table = read_table(place.latents)
    named = table.rename(columns=lambda name: name.removeprefix("share_held_out_")).loc[list(NAMED)]
    named = named.rename(columns={"share_held_out": "value"})[["value", "low", "high"]]
    assert latents == [ranged(row) for row in named.to_dict("records")]
    assert curve == [
        ranged(point[kind]) for point in causal["curve"] for kind in ("necessity", "sufficiency")
    ]
    assert layers == [ranged(row["represented"]) for row in attribution["layers"]]
    assert len(view.page.query_selector_all("rect.column")) == len(attribution["layers"])
    assert view.page.query_selector("rect.column >> nth=3").get_attribute("class") == "column marked"
    verdicts = numbers(view, ".desiderata .verdict")
    assert verdicts == [requirement["verdict"] for requirement in report["desiderata"]]
    assert view.console_messages == []
    assert view.requests == [(run.browser / "index.html").resolve().as_uri()]


def test_bar_lengths_match_their_numbers(run: RunFolder, visit: Any) -> None:
    """Bars start at zero; a part that opposes the shift extends to the other side."""
    place = BehaviorFolder(run.behaviors / "refusal")
    attribution = json.loads(place.attribution.read_text())
    before = json.dumps(attribution)
    attribution["held_out"]["parts"]["error"]["share"] = {"value": -0.25, "low": -0.5, "high": -0.125}
    place.attribution.write_text(json.dumps(attribution))
    write_page(run)
    view = visit(run)
    place.attribution.write_text(before)
    write_page(run)
    boxes = view.page.eval_on_selector_all(
        '[data-behavior="refusal"] table.bars:first-of-type .track',
        """tracks => tracks.slice(-6).map(track => ["fill", "zero"].map(name => {
            const box = track.querySelector(`.track-${name}`).getBoundingClientRect();
            return [box.left, box.width, track.getBoundingClientRect().width];
        }))""",
    )
    for (fill, zero), share in zip(boxes, (0.2, 0.1667, -0.25), strict=False):
        left, width, whole = fill
        # The scale ranges from the lowest interval end to 1.
        assert width == pytest.approx(abs(share) / 1.5 * whole, abs=1)
        end = left if share > 0 else left + width
        assert end == pytest.approx(zero[0], abs=1.5)


def test_links_open_the_latent_by_mouse_and_by_keyboard(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#label=new")
    view.page.click(".behavior a >> nth=1")
    view.wait_for_latent(4)
    assert "label=new" in view.address()
    view.page.keyboard.press("Escape")
    view.page.focus(".behavior a >> nth=0")
    view.page.keyboard.press("Enter")
    view.wait_for_latent(3)
    view.page.keyboard.press("Escape")
    view.page.focus('[data-behavior="small_talk"] > summary')
    view.page.keyboard.press("Enter")
    view.page.wait_for_selector('[data-behavior="small_talk"][open]')
    view.page.click(".more")
    view.page.wait_for_selector('[data-sort="shift_share"]')
    table = read_table(BehaviorFolder(run.behaviors / "refusal").latents)
    assert "sort=-attributed" in view.address()
    _, _, place = view.address().partition("#")
    view.go("#" + place.replace("label=new&", "").replace("&label=new", ""))
    assert view.count() == "80 of 80 latents"
    single = table["share_held_out"].astype(np.float32)
    expected = table.assign(key=single).sort_values("key", ascending=False, kind="stable")["latent"]
    assert view.rows()[:6] == expected.tolist()[:6]


def test_latent_shows_its_share_and_its_checks(run: RunFolder, visit: Any) -> None:
    place = BehaviorFolder(run.behaviors / "refusal")
    table = read_table(place.latents)
    view = visit(run, "#latent=4")
    view.wait_for_latent(4)
    text = view.page.inner_text(".latent-behavior")
    row = table.iloc[4]
    assert f"{percent(row['share_held_out'])}\n{percent(row['share_held_out_low'])} to" in text
    assert percent(row["share_find"]) in text
    assert "rank\n2\n" in re.sub(r"\n+", "\n", text)
    assert (
        "0.52 % (−1.00 % to 2.00 %) undone: not passed; 34.4 % at the norm of random latents; random latents −5.47 % on average"
        in text
    )
    assert "83.0 % (76.8 % to 86.1 %) produced: passed;" in text
    strokes = view.page.eval_on_selector_all(
        "#latent .random-draws", "nodes => nodes.map(n => n.querySelectorAll('.draw').length)"
    )
    assert strokes == [2, 2]
    # Two latents that were not checked: one pushes in the direction of the shift, the other does not.
    for latent, rank in ((6, "3"), (20, "none")):
        view.go(f"#latent={latent}")
        view.wait_for_latent(latent)
        text = re.sub(r"\n+", "\n", view.page.inner_text(".latent-behavior"))
        assert f"rank\n{rank}\n" in text
        assert percent(table["share_held_out"][latent]) in text
        assert "Not among the 2 named latents" in text
        assert view.page.query_selector(".attributed, #latent .random-draws") is None
    assert view.console_messages == []


def test_latent_shows_the_tokens_that_its_share_is_attributed_to(run: RunFolder, visit: Any) -> None:
    place = BehaviorFolder(run.behaviors / "refusal")
    expected = attributed_tokens(place, [3], 1.0)[3]
    view = visit(run, "#latent=3")
    view.wait_for_latent(3)
    assert numbers(view, ".attributed-prompt .prompt") == [entry["prompt"] for entry in expected]
    shown = view.page.eval_on_selector_all(
        ".attributed-prompt",
        """prompts => prompts.map(prompt => Array.from(prompt.querySelectorAll(".attributed-token"), token => [
            token.firstChild.textContent, token.dataset.value === undefined ? null : Number(token.dataset.value),
            Number(token.firstChild.style.getPropertyValue("--v"))]))""",
    )
    assert [[token[:2] for token in prompt] for prompt in shown] == [
        [[token, value] for _, token, value in entry["tokens"]] for entry in expected
    ]
    strongest = max((token for prompt in shown for token in prompt), key=lambda token: token[2])
    assert strongest[0] == " t8"
    assert strongest[2] == 1
    # Only every third position has a named latent, so every shown token follows a gap.
    gaps = view.page.eval_on_selector_all(
        ".attributed-prompt", "prompts => prompts.map(prompt => prompt.querySelectorAll('.ellipsis').length)"
    )
    assert gaps == [len(entry["tokens"]) for entry in expected]


def test_filters_by_evidence(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    assert numbers(view, "[data-filter=evidence]") == ["observed79", "associated0", "causal1"]
    heads = numbers(view, ".row.head .cell")
    assert "evidence" in heads
    view.page.click('.level[data-value="causal"]')
    view.page.wait_for_selector('.level[data-value="causal"][aria-pressed="true"]')
    assert view.rows() == [3]
    assert view.page.evaluate("location.hash") == "#evidence=causal"
    view.page.click('.level[data-value="observed"]')
    view.page.wait_for_selector(".chip >> nth=1")
    assert view.count() == "80 of 80 latents"
    view.page.click('.chip:has-text("causal")')
    view.page.wait_for_selector('.level[data-value="causal"][aria-pressed="false"]')
    assert view.count() == "79 of 80 latents"
    view.go("#evidence=causal&label=dead")
    view.page.wait_for_selector('.count-line:has-text("0 of 80")')
    view.go("#sort=-evidence")
    view.page.wait_for_selector('.count-line:has-text("80 of 80")')
    assert view.rows()[0] == 3
    assert view.console_messages == []


def test_overview_shows_the_checkpoints(run: RunFolder, visit: Any) -> None:
    monitoring = json.loads(run.summary.read_text())["monitoring"]
    view = visit(run)
    assert numbers(view, ".checkpoints tbody th bdi")[::1][0] == CHECKPOINTS[0]
    rows = view.page.eval_on_selector_all(
        ".checkpoints tbody tr", "rows => rows.map(row => Array.from(row.cells, cell => cell.textContent))"
    )
    assert [row[0].startswith(name) for row, name in zip(rows, CHECKPOINTS, strict=True)] == [True] * 4
    assert rows[0][1:] == ["the reference, from which all changes are measured"]
    for row, one, begins in zip(
        rows[1:], monitoring["checkpoints"][1:], monitoring["onset"]["by_checkpoint"][1:], strict=True
    ):
        found = [percent(one[name]) for name in ("relative_change", "relative_step", "unexplained")]
        assert row[1:5] == [*found, str(begins)]
    assert rows[1][5].startswith(
        "raised by 1 latent and the constant offsetstatistic 5.85, threshold 2.93, p 0.0123"
    )
    assert "latent 7 3.45 %" in rows[1][5]
    assert rows[2][5] == "not measured"
    assert rows[3][5].startswith("not raised")
    view.page.click(".alarm-latent a")
    view.wait_for_latent(7)


def test_latent_shows_its_trajectory(run: RunFolder, visit: Any) -> None:
    table = read_table(run.analysis / "trajectories.parquet").sort_values(["latent", "checkpoint"])
    own = table[table["latent"] == 70].reset_index()
    view = visit(run, "#latent=70")
    view.wait_for_latent(70)
    cells = view.page.eval_on_selector_all(
        ".trajectory tbody tr", "rows => rows.map(row => Array.from(row.cells, cell => cell.textContent))"
    )
    grown = own["shift"] / own["shift"].iloc[-1]
    assert [row[0] for row in cells] == list(CHECKPOINTS)
    assert cells[0][1:3] == ["not measured", "not measured"]
    for time in (1, 2, 3):
        ends = {
            "value": own["shift_share"][time],
            "low": own["shift_share_low"][time],
            "high": own["shift_share_high"][time],
        }
        assert cells[time][1:3] == [ranged(ends), percent(grown[time])]
        assert float(cells[time][3]) == pytest.approx(own["norm"][time], rel=5e-3)
    points = view.page.eval_on_selector_all(
        ".trajectory polyline", "lines => lines.map(n => n.getAttribute('points').split(' ').length)"
    )
    assert points == [3, 3, 4]
    # The onset is checkpoint 2 (of 0 to 3), so its line passes through the third point of the norm.
    across = view.page.eval_on_selector_all(
        ".trajectory line.onset", "lines => lines.map(n => Number(n.getAttribute('x1')))"
    )
    marks = view.page.eval_on_selector_all(
        ".course:last-of-type .point", "nodes => nodes.map(n => Number(n.getAttribute('cx')))"
    )
    assert across == pytest.approx([marks[2]] * 3)
    assert CHECKPOINTS[2] in view.page.inner_text(".trajectory .pairs")
    view.go("#latent=71")
    view.wait_for_latent(71)
    assert "not certain" in view.page.inner_text(".trajectory .pairs")
    assert view.page.query_selector(".trajectory line.onset") is None
    assert view.console_messages == []


def test_missing_parts_leave_no_empty_sections(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    write_page(folder)
    view = visit(folder)
    absent = ".behaviors, .monitoring, [data-filter=evidence], .latent-behavior, .trajectory, .attributed"
    assert view.page.query_selector(absent) is None
    write_report(folder)
    report = json.loads((folder.report / "report.json").read_text())
    assert numbers(view, ".desiderata .verdict") == [one["verdict"] for one in report["desiderata"]]
    assert "evidence" not in numbers(view, ".row.head .cell")
    view.go("#latent=3")
    view.wait_for_latent(3)
    assert view.page.query_selector(absent) is None
    assert view.console_messages == []


def test_a_behavior_without_a_gradient_says_so(tmp_path: Path, visit: Any) -> None:
    """Without a gradient nothing is attributed, and the shift is only split at and above the hookpoint."""
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    place = explained(folder)
    attribution = json.loads(place.attribution.read_text())
    attribution["held_out"]["parts"] = attribution["layers"] = None
    place.attribution.write_text(json.dumps(attribution))
    names = [name for name in read_table(place.latents) if name.startswith("share")]
    read_table(place.latents).drop(columns=names).to_parquet(place.latents)
    place.tokens.unlink()
    write_page(folder)
    view = visit(folder)
    named = "table.bars:has(caption:text('named')) tbody td.numeric"
    assert numbers(view, named) == ["not measured"] * 2
    assert view.page.query_selector(".more, rect.column") is None
    view.page.click(".behavior a >> nth=0")
    view.wait_for_latent(3)
    assert "attributed share\nnot measured" in re.sub(r"\n+", "\n", view.page.inner_text(".latent-behavior"))
    assert "undone: passed" in view.page.inner_text(".latent-behavior")
    assert view.page.query_selector(".attributed") is None
    assert view.console_messages == []


def test_hostile_behaviors_stay_text(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    explained(folder, hostile=True)
    followed(folder)
    write_page(folder)
    view = visit(folder)
    overview = view.page.text_content("#overview") or ""
    assert numbers(view, ".behavior-name") == [HOSTILE[0]]
    view.page.click(".more")
    view.page.wait_for_selector('[aria-sort="descending"], .count-line')
    view.go("#latent=3")
    view.wait_for_latent(3)
    latent = view.page.text_content("#latent") or ""
    assert HOSTILE[0] in overview and HOSTILE[1] in overview
    shown = set(numbers(view, ".attributed-prompt .prompt")) | set(numbers(view, ".attributed-token bdi"))
    assert HOSTILE[0] in shown and HOSTILE[1] in shown
    for text in (overview, latent):
        assert "\u2028" not in text
        assert "\u202e" not in text
    assert view.page.query_selector_all("img, iframe, object, embed, form, b, i") == []
    runnable = view.page.eval_on_selector_all(
        "script", "nodes => nodes.filter(n => n.type !== 'text/plain').length"
    )
    assert runnable == 1
    isolated = view.page.eval_on_selector_all(
        ".attributed bdi, .latent-behavior bdi, .trajectory bdi",
        "nodes => nodes.map(n => getComputedStyle(n).unicodeBidi)",
    )
    assert set(isolated) == {"isolate"}
    assert view.dialogs == []
    assert view.console_messages == []
    assert view.requests == [(folder.browser / "index.html").resolve().as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", ["", "#latent=3"])
def test_fits_a_phone_in_both_themes(run: RunFolder, visit: Any, address: str, scheme: str) -> None:
    view = visit(run, address, width=390, color_scheme=scheme)
    for summary in view.page.query_selector_all("details:not([open]) > summary"):
        if summary.is_visible():
            summary.click()
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert view.console_messages == []


def test_lines_differ_without_color(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    dashes = view.page.eval_on_selector_all(
        ".behavior .series", "lines => lines.map(n => getComputedStyle(n).strokeDasharray)"
    )
    assert len(set(dashes)) == 2
    assert view.page.query_selector_all(".behavior circle.point") != []
    assert view.page.query_selector_all(".behavior rect.point.open") != []
    assert sorted(numbers(view, ".behavior-parts > div:not(.doses, .answers) .series-name")) == [
        "added",
        "removed",
    ]
    labels = view.page.eval_on_selector_all(".lines", "nodes => nodes.map(n => n.getAttribute('aria-label'))")
    assert all(re.search(r"\d", label) for label in labels)
