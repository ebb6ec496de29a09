"""Decisions as files and as Markdown: files are imported or refused as a whole, and their text is never run as code."""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from analysis.browser.identity import run_digest
from analysis.report import write_report
from analysis.report.phrases import percent
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..explained_runs import explained
from ..page_decisions import NOTE, counts, decide_three, entry, imported, open_latent, saved
from ..page_views import View, read_table
from ..run_folder import HOSTILE, N_LATENTS, make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run")
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def features(run: RunFolder) -> Any:
    return read_table(run.features)


# --- in files ---------------------------------------------------------------------------------------------------------


def test_exported_decisions_can_be_imported_elsewhere(run: RunFolder, visit: Any, tmp_path: Path) -> None:
    view = visit(run)
    decide_three(view)
    path = saved(view, "export decisions", tmp_path / "decisions.json")
    file = json.loads(path.read_text(encoding="utf-8"))
    assert (file["schema_version"], file["run"]) == (1, run_digest(load_results(run)))
    assert [one["latent"] for one in file["decisions"]] == [3, 7, 9]
    other = visit(run)
    assert counts(other)["undecided"] == N_LATENTS
    assert (
        imported(other, path)
        == "decisions.json: 3 imported, 0 skipped because the entry here is as new or newer."
    )
    for latent in (3, 7, 9):
        assert entry(other, latent) == entry(view, latent)
    again = saved(other, "export decisions", tmp_path / "again.json")
    assert json.loads(again.read_text(encoding="utf-8"))["decisions"] == file["decisions"]
    other.page.reload()
    assert entry(other, 3) == (["starred"], "refuses food", NOTE)
    assert other.console_messages == []


def test_of_two_entries_the_later_one_stays(run: RunFolder, visit: Any, tmp_path: Path) -> None:
    view = visit(run)
    decide_three(view)
    file = json.loads(saved(view, "export decisions", tmp_path / "first.json").read_text(encoding="utf-8"))
    older, newer = file["decisions"][0], file["decisions"][1]
    older |= {"time": "2020-01-01T00:00:00.000Z", "note": "older"}
    ahead = datetime.fromisoformat(newer["time"]) + timedelta(hours=1)
    time = ahead.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    newer |= {"time": time, "verdict": None, "label": "", "note": ""}
    path = tmp_path / "second.json"
    path.write_text(json.dumps(file))
    assert (
        imported(view, path)
        == "second.json: 1 imported, 2 skipped because the entry here is as new or newer."
    )
    assert entry(view, 3)[2] == NOTE
    # An entry cleared elsewhere, later, is cleared here too.
    assert entry(view, 7) == (["undecided"], "", "")
    # A later decision here stays, even though the clock of the file was ahead.
    view.page.keyboard.press("s")
    view.page.keyboard.press("Escape")
    assert (
        imported(view, path)
        == "second.json: 0 imported, 3 skipped because the entry here is as new or newer."
    )
    assert entry(view, 7)[0] == ["starred"]


def one(**change: Any) -> dict[str, Any]:
    return {
        "latent": 3, "verdict": "starred", "label": "", "note": "", "time": "2026-01-01T00:00:00.000Z",
    } | change  # fmt: skip


def changed(**change: Any) -> Callable[[dict[str, Any]], str]:
    return lambda file: json.dumps(file | change)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: json.dumps(file)[:-9], "not JSON"),
        (lambda file: "[]", "not a decisions file; its kind is missing, not “crosscoder decisions”"),
        (lambda file: "null", "not a decisions file"),
        (changed(kind="report"), 'its kind is "report"'),
        (changed(schema_version=2), "schema_version is 2; this page reads version 1"),
        (changed(schema_version="1"), 'schema_version is "1"; this page reads version 1'),
        (changed(run="0" * 32, compared="A → B"), 'decisions on another run ("A → B", run "00000000'),
        (changed(extra=1), "unknown field extra"),
        (changed(decisions={}), "decisions is {}, not a list"),
        (changed(exported="now"), 'exported is "now", not a time'),
        (changed(decisions=[one(latent=N_LATENTS)]), f"decisions[0]: latent is {N_LATENTS}; the dictionary has"),
        (changed(decisions=[one(), one(latent=-1)]), "decisions[1]: latent is -1"),
        (changed(decisions=[one(latent=2.5)]), "latent is 2.5"),
        (changed(decisions=[one(latent="3")]), 'latent is "3"'),
        (changed(decisions=[one(), one()]), "latent 3 has more than one entry"),
        (changed(decisions=[one(verdict="starred ")]), 'verdict is "starred "'),
        (changed(decisions=[one(verdict="undecided")]), "not “starred”, “rejected” or null"),
        (changed(decisions=[one(label="x" * 81)]), "one line of at most 80 characters"),
        (changed(decisions=[one(label="two\nlines")]), "one line of at most 80 characters"),
        (changed(decisions=[one(note="x" * 4001)]), "not text of at most 4,000 characters"),
        (changed(decisions=[one(note=None)]), "note is null"),
        (changed(decisions=[one(time="2026-01-01")]), "time is"),
        (changed(decisions=[one(time="2026-02-31T00:00:00.000Z")]), "not a time such as"),
        (changed(decisions=[one(time="2999-01-01T00:00:00.000Z")]), "more than a day ahead"),
        (changed(decisions=[{"latent": 3}]), "no field verdict"),
        (changed(decisions=[one(), "x"]), "decisions[1]: not an entry"),
    ],
)  # fmt: skip
def test_invalid_files_are_refused_and_nothing_is_lost(
    refusing: View, run: RunFolder, tmp_path: Path, make: Callable[[dict[str, Any]], str], words: str
) -> None:
    """Valid entries of a file with an invalid one are not imported either."""
    file = {
        "schema_version": 1, "kind": "crosscoder decisions", "run": run_digest(load_results(run)), "compared": "A → B",
        "exported": "2026-01-01T00:00:00.000Z", "decisions": [one(latent=50)],
    }  # fmt: skip
    path = tmp_path / "decisions.json"
    path.write_text(make(file), encoding="utf-8")
    before = stored_items(refusing)
    message = imported(refusing, path)
    assert message.startswith("Nothing was imported. decisions.json: ")
    assert words in message
    assert "\n" not in message
    assert stored_items(refusing) == before
    assert counts(refusing) == {"starred": 1, "rejected": 1, "noted": 2, "undecided": N_LATENTS - 2}
    assert refusing.console_messages == []


@pytest.fixture(scope="module")
def refusing(run: RunFolder, chromium: Any) -> Any:
    """One page for all refused files; its decisions must be the same after each."""
    context = chromium.new_context()
    view = View(context.new_page())
    view.page.on("console", lambda message: view.console_messages.append(message.text))
    view.page.on("pageerror", lambda error: view.console_messages.append(str(error)))
    view.page.goto((run.browser / "index.html").resolve().as_uri())
    view.page.wait_for_selector("html[data-ready]")
    decide_three(view)
    view.go("#")
    view.page.wait_for_selector("#overview:not([hidden])")
    yield view
    context.close()


def stored_items(view: View) -> dict[str, str]:
    return view.page.evaluate("({...localStorage})")


def test_another_runs_file_is_refused(run: RunFolder, visit: Any, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "other", seed=1)
    write_page(folder)
    view = visit(folder)
    decide_three(view)
    path = saved(view, "export decisions", tmp_path / "other.json")
    here = visit(run)
    message = imported(here, path)
    assert "decisions on another run" in message
    assert run_digest(load_results(folder)) in message and run_digest(load_results(run)) in message
    assert counts(here)["undecided"] == N_LATENTS


def test_hostile_decisions_stay_text(run: RunFolder, visit: Any, tmp_path: Path) -> None:
    entries = [
        one(latent=index, label=text.replace("\u2028", " ")[:80], note=f"{text}\n{text}")
        for index, text in enumerate(HOSTILE)
    ]
    file = {
        "schema_version": 1, "kind": "crosscoder decisions", "run": run_digest(load_results(run)), "compared": HOSTILE[0],
        "exported": "2026-01-01T00:00:00.000Z", "decisions": entries,
    }  # fmt: skip
    path = tmp_path / "<img src=x>.json"
    path.write_text(json.dumps(file))
    view = visit(run)
    assert "7 imported" in imported(view, path)
    view.go("#decision=starred&sort=latent")
    view.page.wait_for_selector(f'.count-line:has-text("{len(HOSTILE)} of {N_LATENTS}")')
    shown = view.page.text_content(".spacer") or ""
    assert HOSTILE[1] in shown
    assert "\\u202egnp.exe" in shown and "\u202e" not in shown
    open_latent(view, 1)
    assert view.page.input_value("#note") == f"{HOSTILE[1]}\n{HOSTILE[1]}"
    markdown = saved(view, "save summary", tmp_path / "audit.md").read_text(encoding="utf-8")
    assert "\u202e" not in markdown and "\u2028" not in markdown
    # Outside code spans all markup is escaped.
    plain = re.sub(r"(`+) .*? \1|(`+).*?\2", "", markdown)
    assert not re.search(r"(?<!\\)<", plain)
    assert not re.search(r"(?<!\\)\[x", plain)
    assert view.page.query_selector_all("img, iframe, object, embed, form, b, i") == []
    assert view.dialogs == []
    assert view.console_messages == []


# --- as Markdown ------------------------------------------------------------------------------------------------------


def test_summary_contains_the_numbers_of_the_files(visit: Any, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    explained(folder)
    summary = json.loads(folder.summary.read_text())
    summary["counts"]["new"] |= {"expected_false": 1.5, "low": 5.0, "high": 9.0}
    folder.summary.write_text(json.dumps(summary))
    write_page(folder)
    features = read_table(folder.features)
    view = visit(folder)
    decide_three(view)
    text = saved(view, "save summary", tmp_path / "audit.md").read_text(encoding="utf-8")
    row = features.iloc[3]
    assert text.startswith("# Audit: SmolLM2-135M-Instruct → SmolLM2-135M-Instruct + refuse-food\n")
    assert "51,200 held-out tokens of 900 documents (chat 30,100, prose 21,100)" in text
    assert f"| variance explained, difference | {percent(0.417)} |" in text
    new = int((features["label"] == "new").sum())
    assert f"| new | {new} | 5 to 9 | 1.5 |" in text
    lost = int((features["label"] == "lost").sum())
    assert f"| lost | {lost} | not measured | not measured |" in text
    starred, rejected = text.split("## Starred: 1\n")[1].split("## Rejected: 1\n")
    assert starred.lstrip().startswith(f"### Latent 3: {row['label']}, “refuses food”\n")
    assert "- evidence: causal\n" in starred
    assert "- decision: starred\n" in starred
    assert "> Fires on food.\\\n> Look again: 2 \\< 3 \\| 4\n" in starred

    def fixed(value: float) -> str:
        return f"{value:.2f}".replace("-", "−")

    nu = f"{fixed(row['nu_error_low'])} to {fixed(row['nu_error_high'])}"
    assert f"| ν error | {fixed(row['nu_error'])} | {nu} |" in starred
    assert f"| cosine | {fixed(row['decoder_cosine'])} |" in starred
    share = f"{percent(row['shift_share_low'])} to {percent(row['shift_share_high'])}"
    assert f"| shift share | {percent(row['shift_share'])} | {share} |" in starred
    assert f"| documents | {row['n_documents']} |" in starred
    assert "| q | not measured |  |" in starred
    attributed = read_table(folder.behaviors / "refusal" / "attribution.parquet").iloc[3]
    bounds = f"{percent(attributed['share_held_out_low'])} to {percent(attributed['share_held_out_high'])}"
    assert f"| attributed share of the shift of refusal | {percent(0.21875)} | {bounds} |" in starred
    assert "removed from the intervened model: passed" in starred
    rejected, undecided = rejected.split("## Undecided")
    assert rejected.strip() == f"- latent 7 ({features['label'][7]})"
    assert f"{N_LATENTS - 2} of {N_LATENTS} latents were neither starred nor rejected." in undecided
    # The report's sentences and verdicts; what was not measured is named as such.
    write_report(folder)
    report = json.loads((folder.report / "report.json").read_text())
    plain_text = text.replace("\\", "").replace("`", "")
    for sentence in report["behaviors"][0]["sentences"]:
        assert sentence["text"] in plain_text
    for requirement in report["desiderata"]:
        assert (
            f"| {requirement['family']}: {requirement['name']} | {requirement['shown']['text']} | "
            in plain_text
        )
    assert "- null: drift: not measured\n" in text
    assert re.search(rf"\| 4 \({features['label'][4]}\) \| observed \| .* not passed \| .* passed \|", text)
    assert view.console_messages == []


NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"


def test_a_latent_is_copied_or_shown_selected_for_copying(run: RunFolder, features: Any, visit: Any) -> None:
    view = visit(run, permissions=["clipboard-read", "clipboard-write"])
    decide_three(view)
    open_latent(view, 3)
    view.page.click('button:has-text("copy as Markdown")')
    view.page.wait_for_selector('#status:has-text("copied")')
    copied = view.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"## Latent 3: {features['label'][3]}, “refuses food”\n")
    view.page.click('button:has-text("copy link")')
    view.page.wait_for_selector('#status:has-text("link")')
    assert view.page.evaluate("navigator.clipboard.readText()") == view.address()
    without = visit(run)
    without.page.context.add_init_script(NO_CLIPBOARD)
    without.page.reload()
    decide_three(without)
    open_latent(without, 3)
    without.page.click('button:has-text("copy as Markdown")')
    without.page.wait_for_selector("dialog textarea:focus")
    assert "Not copied" in without.page.inner_text("dialog")
    assert without.page.evaluate("getSelection().toString()") == copied
    assert without.page.input_value("dialog textarea") == copied
    without.page.keyboard.press("Escape")
    without.page.wait_for_selector("dialog", state="detached")
    without.wait_for_latent(3)
