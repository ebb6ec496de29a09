"""Page and report show rules and written explanations with their scores, poor ones too, and show model output as plain text."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.browser.section import Section
from analysis.report import write_report
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.explained_runs import written
from tests.analysis.page_views import sections_of, write_page
from tests.analysis.report_runs import report_text, ruled
from tests.analysis.run_folder import HOSTILE, make_run_folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_run_folder(tmp_path / "run", n_latents=80)


def panel(view: Any, name: str) -> str:
    return view.page.inner_text(f"#latent .{name}")


def test_a_run_without_either_adds_nothing(folder: RunFolder) -> None:
    assert sections_of(folder)[-1] == Section()
    ruled(folder)
    assert sections_of(folder)[-1] != Section()


@pytest.mark.parametrize("width", [1280, 390])
def test_rules_are_shown_with_their_scores_even_poor_ones(folder: RunFolder, visit: Any, width: int) -> None:
    ruled(folder)
    write_page(folder)
    view = visit(folder, "#latent=3", width=width)
    view.wait_for_latent(3)
    text = panel(view, "rule")
    assert "token in" in text and HOSTILE[0] in text and "42" in text
    assert "0.97 (0.94 to 0.98)" in text and "chance is 0.5" in text
    assert "61 firings in 23 documents" in text and "of 25,003 tokens" in text
    assert "does not pay" not in text
    view.page.goto(view.page.url.replace("latent=3", "latent=4"))
    view.wait_for_latent(4)
    bad = panel(view, "rule")
    assert "place not in" in bad and "0.52" in bad and "does not pay" in bad
    view.page.goto(view.page.url.replace("latent=4", "latent=2"))
    view.wait_for_latent(2)
    assert "undetermined: fires in 3 documents." in panel(view, "rule")
    assert not view.console_messages and not view.dialogs


def test_written_explanations_are_shown_with_their_control(folder: RunFolder, visit: Any) -> None:
    written(folder, hostile=True)
    write_page(folder)
    view = visit(folder, "#latent=3")
    view.wait_for_latent(3)
    text = panel(view, "written")
    assert HOSTILE[0] in text
    assert "0.88" in text and "0.69 to 0.95" in text, "score of its explanation"
    assert "0.53" in text and "latent 4" in text, "score of the control explanation"
    assert "Means over latents: detection 0.88, control 0.53 (1 scored)" in text
    assert "6 verdicts are too few" in text and "0.91" in text and "12,345 tokens" in text
    view.page.goto(view.page.url.replace("latent=3", "latent=4"))
    view.wait_for_latent(4)
    assert "20 replies of the judge were neither yes nor no" in panel(view, "written")
    view.page.goto(view.page.url.replace("latent=4", "latent=6"))
    view.wait_for_latent(6)
    assert "No explanation: fires in no document" in panel(view, "written")
    assert not view.console_messages and not view.dialogs


def test_the_table_shows_the_score_and_the_search_includes_written_explanations(
    folder: RunFolder, visit: Any
) -> None:
    ruled(folder)
    written(folder)
    write_page(folder)
    view = visit(folder, "#sort=-rule_auroc")
    assert "rule AUROC" in view.page.inner_text(".row.head")
    assert all(latent % 3 == 0 for latent in view.rows()[:10])
    view.page.fill("#query", "fires on food words")
    view.wait_for_search("fires on food words")
    assert {3, 4} == set(view.rows())
    assert not view.console_messages


def test_files_of_another_dictionary_are_named(folder: RunFolder) -> None:
    ruled(folder)
    table: Any = pd.read_parquet(folder.features)
    table.iloc[:40].to_parquet(folder.features)
    with pytest.raises(FormatError, match=r"rules\.parquet: holds latent 79, but the dictionary has 40"):
        write_page(folder)


def test_the_report_names_rule_and_score_of_each_claim(folder: RunFolder) -> None:
    ruled(folder)
    write_report(folder)
    report = json.loads((folder.report / "report.json").read_text())
    claims = [claim for group in report["groups"] for claim in group["claims"]]
    assert len(claims) > 10
    for claim in claims:
        rule = claim["rule"]
        match claim["latent"] % 3:
            case 0:
                assert rule["numbers"]["rule_auroc"] == 0.96875 and rule["numbers"]["n_documents"] == 23
                assert HOSTILE[0] in rule["quotes"].values() and "AUROC 0.97 (0.94 to 0.98)" in rule["text"]
            case 1:
                assert "AUROC 0.52 (not measured to not measured)" not in rule["text"]
                assert "not in" in rule["text"] and "costs at least as many bits as it saves" in rule["text"]
            case _:
                assert "undetermined" in rule["text"] and rule["numbers"]["n_firings"] == 3
    markdown = report_text(folder)
    without_rule = markdown.count("No rule for where it fires (undetermined):")
    assert markdown.count("Rule for where it fires:") + without_rule == len(claims)


def test_a_report_without_rules_does_not_mention_them(folder: RunFolder) -> None:
    write_report(folder)
    report = json.loads((folder.report / "report.json").read_text())
    assert all(claim["rule"] is None for group in report["groups"] for claim in group["claims"])
    assert "where it fires" not in report_text(folder)
