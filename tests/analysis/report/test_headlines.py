"""Every finding at the top of a report rests on checks that passed in the files of the run, and disappears if one of them fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.labels.rule import CLAIMED
from analysis.report.content import build_report
from analysis.report.headline_schema import Headline
from analysis.report.schema import Report
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder

from ..discovery_records import discovered, finding, one_null, record, varied
from ..report_runs import (
    change,
    checked,
    checked_causally,
    control_conditions,
    controlled,
    of_two_sizes,
    shifted,
    unchecked,
    with_everything,
)
from ..run_folder import condition, make_run_folder

Json = dict[str, Any]

# A claim in words, whatever the kind of the sentence.
CLAIMS = re.compile(
    r"is new:|are new:|is lost:|are lost:|(is|are) (replaced|rotated|rescaled):|same in both models,|causes? some of|"
    r"undoes [\d.]+ %( \([^)]*\))? of the shift|squared change is one|changed from|"
    r"(?<!established that )the intervened model (no longer|begins|says|ends|gives).*? in \d+ of|more changes? of behavior:"
)


def report_of(folder: RunFolder) -> Report:
    return build_report(load_results(folder), folder)


def edited(path: Path, edit: Callable[[Json], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def findings(report: Report) -> list[Headline]:
    return [headline for headline in report.summary if headline.kind == "finding"]


def texts(report: Report, kind: str) -> str:
    """Return what the opening says of the dictionary and the behaviors of the settings; findings of discovery are another test's."""
    return "\n".join(
        headline.text.text
        for headline in report.summary
        if headline.kind == kind and headline.about != "answers"
    )


def after_findings(report: Report) -> list[Headline]:
    return [headline for headline in report.summary if headline.about != "answers"]


# --- the checks, read from the files of the run -----------------------------------------------------------------------


def passed_in_files(folder: RunFolder, name: str) -> bool:
    """Whether a check passed, by the files that the analysis wrote and not by the report."""
    family, *rest = name.split("/")
    if family == "behaviors":
        behavior, *check = rest
        place = folder.behaviors / behavior
        if check == ["shift"]:
            return json.loads((place / "shift.json").read_text())["shift"]["established"] is True
        part, kind = check
        causal = json.loads((place / "causal.json").read_text())
        entry = causal[part][kind] if part == "together" else causal[part]["together"][kind]
        return entry["made"] is True and entry["passed"] is True
    if family == "discovery":
        found = json.loads(folder.findings.read_text())
        if rest == ["nulls"]:
            return (
                0 <= sum(null["findings"] for null in found["nulls"]) < len(found["findings"])
                and found["nulls"] != []
            )
        name, check = rest
        assert check == "held_out_prompts"
        (entry,) = [entry for entry in found["findings"] if entry["name"] == name]
        gained = entry["direction"] == "gained"
        beyond = entry["difference_low"] > 0 if gained else entry["difference_high"] < 0
        return beyond and entry["q_value"] <= found["false_discovery_rate"]
    summary = json.loads(folder.summary.read_text())
    if family == "conditions":
        (entry,) = [entry for entry in summary["checks"] if entry["name"] == rest[0]]
        return entry["passed"] is True
    if family == "change":
        found = summary["change"][rest[0]]
        return (
            all(entry["p"] <= 0.05 for entry in found)
            if isinstance(found, list)
            else found["established"] is True
        )
    assert family == "labels"
    table: Any = pd.read_parquet(folder.features)
    claimed = table[table["label"].isin(CLAIMED)]
    if rest == ["q_values"]:
        return bool((claimed["q_value"].dropna() <= summary["rule"]["false_discovery_rate"]).all())
    assert rest == ["found_again"]
    enough = (summary["controls"] or {}).get("seeds", 0) >= summary["rule"]["replications"] > 0
    return enough and bool((claimed["label_stability"] == 1).all())


def flip(folder: RunFolder, name: str) -> None:
    """Make one check fail in the files of the run."""
    family, *rest = name.split("/")
    if family == "behaviors":
        behavior, *check = rest
        if check == ["shift"]:
            power = {"verdict": "below the noise floor", "established": False}
            edited(folder.behaviors / behavior / "shift.json", lambda shift: shift["shift"].update(power))
            return
        part, kind = check

        def fail(causal: Json) -> None:
            together = causal[part] if part == "together" else causal[part]["together"]
            together[kind] = checked(together[kind]["value"], passed=False)

        edited(folder.behaviors / behavior / "causal.json", fail)
    elif family == "conditions":

        def miss(summary: Json) -> None:
            for entry in summary["checks"]:
                entry["passed"] = entry["passed"] and entry["name"] != rest[0]

        edited(folder.summary, miss)
    elif family == "discovery":

        def weaken(found: Json) -> None:
            if rest == ["nulls"]:
                found["nulls"][0]["findings"] = len(found["findings"])
                return
            for entry in found["findings"]:
                if entry["name"] == rest[0]:
                    entry["q_value"] = 0.25

        edited(folder.findings, weaken)
    elif family == "change":

        def doubt(summary: Json) -> None:
            found = summary["change"][rest[0]]
            if isinstance(found, list):
                found[0]["p"] = 0.2
            else:
                found["established"] = False

        edited(folder.summary, doubt)
    else:
        table: Any = pd.read_parquet(folder.features)
        column, value = ("q_value", 0.25) if rest == ["q_values"] else ("label_stability", 0.5)
        table.loc[table.index[table["label"].isin(CLAIMED)][0], column] = value
        table.to_parquet(folder.features)


# --- runs of every kind -----------------------------------------------------------------------------------------------


def plain(folder: RunFolder) -> None:
    """No control, no behavior."""


def withheld(folder: RunFolder) -> None:
    """A run that misses a condition: every latent is undetermined."""
    with_everything(folder)
    table: Any = pd.read_parquet(folder.features)
    living = table["label"] != "dead"
    table.loc[living, "label"] = "undetermined"
    table.loc[living, "reason"] = "not labeled: the dictionary explains too little"
    table.to_parquet(folder.features)

    def fail(summary: Json) -> None:
        summary["checks"][0] = condition("fve_reference", 0.46875, 0.8, False)
        summary["withheld"] = "the dictionary explains too little"
        for label, entry in summary["counts"].items():
            entry["count"] = int((table["label"] == label).sum())

    edited(folder.summary, fail)


def unchecked_conditions(folder: RunFolder) -> None:
    """Conditions without a verdict: nothing was measured that could decide them."""
    controlled(folder)
    edited(
        folder.summary,
        lambda summary: [
            entry.update(passed=None, found=None) for entry in summary["checks"] if entry["name"] != "l0"
        ],
    )


def earlier_release(folder: RunFolder) -> None:
    """An analysis without conditions."""
    edited(folder.summary, lambda summary: [summary.pop(key) for key in ("checks", "withheld")])


def one_training(folder: RunFolder) -> None:
    """Fewer trainings than the rule asks for: nothing can be found again."""
    controlled(folder)
    table: Any = pd.read_parquet(folder.features)
    claimed = table["label"].isin(CLAIMED)
    table.loc[claimed, ["label", "label_stability"]] = ["undetermined", np.nan]
    table.to_parquet(folder.features)
    edited(folder.summary, lambda summary: summary["controls"].update(seeds=1))


def failed_checks(folder: RunFolder) -> None:
    """The set of latents does as much as random latents: removing 100 %, random latents 92.5 %."""
    shifted(folder, "refusal")
    lost = checked(1.0, passed=False) | {
        "random": [0.925, 0.025, 0.85],
        "random_mean": 0.6,
        "random_largest": 0.925,
    }

    def fail(causal: Json) -> None:
        for part in (causal, causal["answers"], causal["against"]):
            part["together"] = {"necessity": lost, "sufficiency": lost}
        causal |= {"level": "observed", "set_passed": False}
        causal["stability"] |= {"causal": 0}

    edited(folder.behaviors / "refusal" / "causal.json", fail)


def checks_not_made(folder: RunFolder) -> None:
    """Checks that could not pass, for want of draws and of prompts."""
    shifted(folder, "refusal")

    def skip(causal: Json) -> None:
        causal["together"] = {
            "necessity": unchecked(0.71, draws=39),
            "sufficiency": unchecked(0.83, draws=39),
        }
        causal["answers"]["together"] = {
            "necessity": unchecked(0.71, prompts=30), "sufficiency": unchecked(0.83, prompts=30),
        }  # fmt: skip
        causal["stability"] |= {
            "made": False,
            "why_not": "the check is not made",
            "trainings": None,
            "causal": None,
        }

    edited(folder.behaviors / "refusal" / "causal.json", skip)


def no_shifts(folder: RunFolder) -> None:
    """Every reason why a shift is not established."""
    for verdict in ("no difference", "not enough prompts", "below the noise floor", "smaller than asked"):
        shifted(folder, verdict.replace(" ", "_"), verdict=verdict)


def in_none(folder: RunFolder) -> None:
    """A change that is mostly in nothing that is established."""
    controlled(folder)
    edited(folder.summary, lambda summary: summary.update(change=change("error")))


def in_latents(folder: RunFolder) -> None:
    """A change that is mostly in latents of one model."""
    controlled(folder)
    edited(folder.summary, lambda summary: summary.update(change=change("one_sided")))


def without_nulls(folder: RunFolder) -> None:
    """Findings of a search that was not made where nothing changed."""
    discovered(folder, varied().model_copy(update={"nulls": ()}))


def many_in_nulls(folder: RunFolder) -> None:
    """A search that finds as much where nothing changed."""
    discovered(folder, varied().model_copy(update={"nulls": (one_null(5, "sure"),)}))


def weak_findings(folder: RunFolder) -> None:
    """Findings of which one has a large q-value, and one an interval that holds no difference."""
    weak = finding("weak", q_value=0.0625), finding("wide", "topic", difference_low=-0.03125)
    gone = finding("gone", "always", "phrase", "vanished", difference_high=0.0)
    discovered(folder, record(*weak, gone, finding("clear", effect="ending"), finding("more", q_value=1.0)))


def nothing_discovered(folder: RunFolder) -> None:
    """A search without a finding."""
    discovered(folder, record(incomplete="its time was spent"))


RUNS = (
    plain, controlled, with_everything, of_two_sizes, withheld, unchecked_conditions, earlier_release, one_training, failed_checks,
    checks_not_made, no_shifts, in_none, in_latents, without_nulls, many_in_nulls, weak_findings, nothing_discovered,
)  # fmt: skip


@pytest.mark.parametrize("made", RUNS)
def test_every_finding_rests_on_checks_that_passed(
    tmp_path: Path, made: Callable[[RunFolder], object]
) -> None:
    folder = make_run_folder(tmp_path / "run")
    made(folder)
    report = report_of(folder)
    known = {ground.name: ground.verdict for ground in report.grounds}
    for headline in report.summary:
        if headline.kind == "finding":
            assert headline.rests_on, headline.text.text
            for name in headline.rests_on:
                assert known[name] == "pass" and passed_in_files(folder, name), name
        else:
            assert not headline.rests_on
            assert not CLAIMS.search(headline.text.text), headline.text.text


def test_the_search_for_claims_sees_those_of_a_full_report(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    with_everything(folder)
    report = report_of(folder)
    assert len(CLAIMS.findall(texts(report, "finding"))) >= 8
    discovered_ones = [headline for headline in report.summary if headline.about == "answers"]
    assert len(discovered_ones) == 4
    assert all(CLAIMS.search(headline.text.text) for headline in discovered_ones)


@pytest.mark.slow
def test_a_finding_disappears_with_each_check_that_it_rests_on(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    with_everything(folder)
    files = [path for path in folder.path.rglob("*") if path.suffix in (".json", ".parquet")]
    before = {path: path.read_bytes() for path in files}
    whole = findings(report_of(folder))
    names = {name for headline in whole for name in headline.rests_on}
    assert {name.split("/")[0] for name in names} == {
        "conditions",
        "labels",
        "change",
        "behaviors",
        "discovery",
    }
    for name in sorted(names):
        flip(folder, name)
        assert not passed_in_files(folder, name)
        left = findings(report_of(folder))
        said = {headline.text.text for headline in left}
        for headline in whole:
            if name in headline.rests_on:
                assert headline.text.text not in said, (name, headline.text.text)
        assert not any(name in headline.rests_on for headline in left)
        for path, content in before.items():
            path.write_bytes(content)
    assert findings(report_of(folder)) == whole


# --- what is said instead ---------------------------------------------------------------------------------------------


def test_a_run_that_misses_a_condition_says_first_that_nothing_is_labeled(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    withheld(folder)
    report = report_of(folder)
    assert report.withheld
    first = after_findings(report)[0]
    assert (first.kind, first.about) == ("not established", "labels withheld")
    assert report.why_withheld == first.text
    assert first.text.text == (
        "Nothing is labeled: the dictionary explains 46.9 % of the variance of the reference (at least 80.0 % asked for). What to change: train "
        "longer (training.n_tokens), or raise k or crosscoder.n_latents."
    )
    assert not re.search(r"\b(new|lost|rotated|shared)\b|the same in both", texts(report, "finding"))


@pytest.mark.parametrize("name", [entry["name"] for entry in control_conditions()] + ["l0", "fve_intervened"])
def test_every_condition_is_put_into_words_with_what_to_change(tmp_path: Path, name: str) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    controlled(folder)
    edited(
        folder.summary,
        lambda summary: [entry.update(passed=entry["name"] != name) for entry in summary["checks"]],
    )
    first = report_of(folder).summary[0].text
    assert first.text.startswith("Nothing is labeled: ") and "train longer (training.n_tokens)" in first.text
    assert name not in first.text, "a stranger does not know the name"
    assert first.numbers


def test_a_set_that_does_no_more_than_random_latents_is_no_finding(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    failed_checks(folder)
    report = report_of(folder)
    assert "refusal changed from" in texts(report, "finding")
    open_ = texts(report, "not established")
    assert "no latents are shown to cause the shift" in open_
    assert "None of 4 checks shows of the 2 named latents more than of random latents." in open_
    requirements = {requirement.key: requirement for requirement in report.desiderata}
    assert requirements["validity.faithfulness"].verdict == "fail"


def test_a_claim_holds_in_the_metric_of_its_check_alone(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    shifted(folder, "refusal")

    def only_nats(causal: Json) -> None:
        causal["answers"]["together"] = {
            kind: checked(0.5, passed=False) for kind in ("necessity", "sufficiency")
        }

    edited(folder.behaviors / "refusal" / "causal.json", only_nats)
    report = report_of(folder)
    claimed = texts(report, "finding")
    assert "refusal, in nats: 2 latents together cause" in claimed and "causal in 3 of 3 trainings" in claimed
    assert "generated answers" not in claimed
    assert "more of it in generated answers than random latents do" in texts(report, "not established")


def test_what_was_not_checked_says_what_it_would_need(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    checks_not_made(folder)
    open_ = texts(report_of(folder), "not established")
    assert "it would need 39 different random draws" in open_
    assert "24 held-out prompts are too few, 30 are needed" in open_


def test_a_shift_that_is_not_established_says_what_could_not_have_been_seen(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    no_shifts(folder)
    report = report_of(folder)
    open_ = texts(report, "not established")
    assert "5 held-out prompts cannot establish a shift, however large; it takes at least 14." in open_
    assert (
        "With 14 prompts of the same spread, a shift under 34.4 % would still not be seen reliably." in open_
    )
    assert "A shift under 28.1 % could not have been seen reliably with 24 prompts" in open_
    effects = {statement.name: statement.text.text for statement in report.outlook.side_effects}
    assert "cannot establish a shift" in effects["not known: too few prompts"]
    assert "could not have been seen" in effects["no unintended shift established"]


def test_too_few_trainings_claim_no_change_and_say_how_many_it_takes(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    one_training(folder)
    report = report_of(folder)
    n_claimed = 7 + 3 + 4 + 6 + 5 + 2
    assert (
        "Which latents changed is not established: 2 other trainings must find a change again, and the run has 1 (controls.seeds). By this "
        f"training alone, {n_claimed + 9} latents would be called changed" in texts(report, "not established")
    )
    assert (
        "the same in both models, as far as this dictionary sees (it explains 41.7 % of the difference)"
        in texts(report, "finding")
    )


def test_an_analysis_without_conditions_claims_no_label(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    earlier_release(folder)
    report = report_of(folder)
    assert findings(report) == []
    assert "Run crosscoder analyze again." in texts(report, "not established")


def test_failed_requirements_are_named_with_failed_conditions(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    controlled(folder)
    table: Any = pd.read_parquet(folder.features)
    removed = table.index[(table["label"] == "undetermined") | (table["label"] == "shared")]
    table.loc[removed, "candidate"], table.loc[removed, "label_stability"] = "rotated", 0.0
    table.to_parquet(folder.features)
    edited(
        folder.summary,
        lambda summary: summary.update(fve={"reference": 0.875, "intervened": 0.875, "difference": 0.75}),
    )
    report = report_of(folder)
    robustness = next(one for one in report.desiderata if one.key == "validity.robustness")
    assert robustness.verdict == "fail"
    (last,) = [headline.text.text for headline in report.summary if headline.kind == "conditions"]
    assert "No condition for a comparison failed." in last
    assert f"validity: robustness (found {robustness.shown.text}; required at least 50.0 %)" in last


@pytest.mark.parametrize(
    ("made", "kind", "words"),
    [
        (in_none, "measured", "is in nothing that is established"),
        (in_latents, "finding", "of the squared change is in latents labeled new, lost or replaced"),
        (with_everything, "finding", "of the squared change is one constant direction on every token"),
    ],
)
def test_the_first_sentence_says_which_part_carries_most(
    tmp_path: Path, made: Callable[[RunFolder], object], kind: str, words: str
) -> None:
    folder = make_run_folder(tmp_path / "run")
    made(folder)
    first = after_findings(report_of(folder))[0]
    assert (first.kind, words in first.text.text) == (kind, True)


def test_what_pushes_against_the_shift_is_named(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    shifted(folder, "refusal")
    report = report_of(folder)
    assert "1 other latent pushes against the shift" in texts(report, "finding")
    said = " ".join(sentence.text for sentence in report.behaviors[0].sentences)
    assert "the 31 latents found to carry the shift sum to 118.8 %" in said
    assert "found to push against it to −20.3 %" in said
    causal = checked_causally()
    causal["against"] |= {"named": [], "latents": []}
    (folder.behaviors / "refusal" / "causal.json").write_text(json.dumps(causal))
    assert "against the shift" not in texts(report_of(folder), "finding")
