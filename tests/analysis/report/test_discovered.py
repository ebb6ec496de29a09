"""Findings in the report: every kind of sentence, their checks, what is said without findings, and text that stays text."""

import json
import logging
import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from analysis import report_stages
from analysis.discovery.findings_file import Effect, EffectKind, Example, NullSearch, Trigger, TriggerKind
from analysis.report import write_report
from analysis.report.content import build_report
from analysis.report.discovered import claim, details, effect_of
from analysis.report.discovery_statements import found_in_nulls
from analysis.report.schema import Report
from analysis.tables.analysis_files import load_results
from crosscoder.config.load import dump_config
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from tests.training.in_memory import run_config

from ..discovery_records import discovered, finding, hostile_finding, one_null, rates, record, varied
from ..number_walk import complaints
from ..parsed_markup import Markup
from ..report_runs import report_text, shifted
from ..run_folder import HOSTILE, condition, make_run_folder

ON = {
    "always": "On all kinds of prompts",
    "words": "On prompts that contain “bake”, “recipe” or “sauce”",
    "all_words": "On prompts that contain “bake” and “bread”",
    "topic": "On prompts like “How do I bake bread?” and “What sauce goes well with salmon?”",
}
DOES = {
    "opening": "begins its answer with “food and cooking are not something”",
    "phrase": "says “as a pirate”",
    "ending": "ends its answer with “have a nice day”",
    "shape": "gives answers that are shorter than 12 words",
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_run_folder(tmp_path / "run", n_latents=60)


def report_of(folder: RunFolder) -> Report:
    return build_report(load_results(folder), folder)


def opening(report: Report) -> list[tuple[str, str]]:
    return [(headline.kind, headline.text.text) for headline in report.summary if headline.about == "answers"]


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", get_args(EffectKind))
@pytest.mark.parametrize("trigger", get_args(TriggerKind))
def test_a_gained_effect_reads_as_expected(trigger: TriggerKind, effect: EffectKind) -> None:
    does = DOES[effect].replace("“food", "“Food")  # as the first example begins
    elsewhere = "" if trigger == "always" else " On other prompts: 1 of 150 and 0 of 150."
    assert claim(finding(trigger=trigger, effect=effect)).text == (
        f"{ON[trigger]}, the intervened model {does} in 48 of 50 held-out prompts (86.5 % to 98.9 %), the reference in 0 of 50.{elsewhere}"
    )
    often = finding(trigger=trigger, effect=effect, counts=(20, 48))
    assert claim(often).text.startswith(
        f"{ON[trigger]}, the intervened model {does} more often: in 48 of 50 held-out prompts (86.5 % to 98.9 %), the reference in 20 of 50."
    )


@pytest.mark.parametrize("effect", get_args(EffectKind))
@pytest.mark.parametrize("trigger", get_args(TriggerKind))
def test_a_vanished_effect_reads_as_expected(trigger: TriggerKind, effect: EffectKind) -> None:
    gone = claim(finding(trigger=trigger, effect=effect, direction="vanished", counts=(1, 48)))
    assert gone.text.startswith(
        f"{ON[trigger]}, the intervened model no longer {DOES[effect]}: in 1 of 50 held-out prompts, the reference in 48 of 50 (86.5 % to 98.9 %)."
    )
    fewer = claim(finding(trigger=trigger, effect=effect, direction="vanished", counts=(12, 48)))
    assert fewer.text.startswith(
        f"{ON[trigger]}, the intervened model {DOES[effect]} less often: in 12 of 50 held-out prompts, the reference in 48 of 50"
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("lists", "gives answers that are lists"),
        ("in capitals", "gives answers that are in capitals"),
        ("with an exclamation mark", "gives answers with an exclamation mark"),
        ("without a full stop", "gives answers without a full stop"),
    ],
)
def test_a_shape_continues_the_sentence(shape: str, expected: str) -> None:
    found = finding(effect=Effect(kind="shape", text=shape, also=(), pattern=None))
    assert f"the intervened model {expected} in 48 of 50" in claim(found).text


@pytest.mark.parametrize(
    ("kind", "words", "prompts", "expected"),
    [
        ("words", ("tea",), (), "On prompts that contain “tea”, "),
        ("all_words", ("capital", "France"), (), "On prompts that contain “capital” and “France”, "),
        ("words", tuple("abcdefg"), (), "On prompts that contain “a”, “b”, “c”, “d”, “e” or 2 more, "),
        ("topic", ("tea",), (), "On prompts about things like “tea”, "),
        ("topic", tuple("abcdefg"), (), "On prompts about things like “a”, “b”, “c”, “d”, “e” and 2 more, "),
        ("topic", (), ("Tea?",), "On prompts like “Tea?”, "),
        ("topic", ("tea",), ("Tea?", "Why?", "How?"), "On prompts like “Tea?” and “Why?”, "),
        ("topic", (), (), "On prompts of one topic, "),
        ("topic", (), ("x" * 500,), f"On prompts like “{'x' * 119}…”, "),
    ],
)
def test_a_trigger_with_few_or_many_words(
    kind: TriggerKind, words: tuple[str, ...], prompts: tuple[str, ...], expected: str
) -> None:
    trigger = Trigger(kind=kind, words=words, prompts=prompts, auroc=0.5, auroc_low=None, auroc_high=None)
    assert claim(finding(trigger=trigger)).text.startswith(expected)


def test_details_are_the_test_the_trigger_the_other_effects_and_the_behavior() -> None:
    effect = Effect(kind="phrase", text="tea", also=tuple("abcdefg"), pattern="tea")
    assert [sentence.text for sentence in details(finding(effect=effect), 24)] == [
        "Exact test: p 1.5e-21; q 6.3e-19, corrected for all hypotheses of the search. Intervened minus reference: 96.0 % of these prompts (89.8 % to 99.1 %).",
        "The trigger separates the held-out prompts whose answers gained this from all others with an AUROC of 0.97 (0.94 to 0.98).",
        "The same answers also show “a”, “b”, “c”, “d”, “e” and 2 more.",
        "Its behavior is in discovery/behaviors/food-refusal.yaml, ready to edit and to attribute: crosscoder attribute RUN "
        "RUN/discovery/behaviors/food-refusal.yaml.",
    ]
    always = [
        sentence.text for sentence in details(finding(trigger="always", effect="shape", behavior=None), 24)
    ]
    assert always[1:] == ["No regular expression finds this effect, so there is no file of a behavior."]
    (_, lost, *_) = details(finding(direction="vanished"), 24)
    assert "whose answers lost this" in lost.text


def test_answers_that_were_cut_before_an_ending_are_told() -> None:
    _, unknown, separates, *_ = details(finding(effect="ending", cut=12), 24)
    assert unknown.text == (
        "The words come at the end of answers. 12 of the answers to these 50 prompts reached the limit of 24 tokens before their end; whether "
        "they would have ended so is unknown (discovery.answer_tokens sets the limit)."
    )
    assert "all others whose answers were not cut with an AUROC" in separates.text


def test_what_the_search_finds_in_nothing() -> None:
    none = found_in_nulls(record(finding())).text
    assert none == (
        "The same search finds nothing when the reference is compared with itself (405 hypotheses), and nothing when the reference is compared with a "
        "rounded copy (388 hypotheses)."
    )
    two = record(finding("a"), finding("b"))
    some = found_in_nulls(two.model_copy(update={"nulls": (one_null(1, "sure ,"),)})).text
    assert some == (
        "The same search finds 1 change of behavior when the reference is compared with itself (405 hypotheses: “sure,”). So a finding may be one of these."
    )
    many = found_in_nulls(two.model_copy(update={"nulls": (one_null(4, "a", "b", "c", "d"),)})).text
    assert (
        "4 changes of behavior when the reference is compared with itself (405 hypotheses: “a”, “b”, “c” and 1 more)"
        in many
    )
    assert many.endswith("That is no less than between these models, so no finding is established.")
    assert "was not made in any null" in found_in_nulls(two.model_copy(update={"nulls": ()})).text
    one = NullSearch(name="x is x", hypotheses=1, findings=0, found=())
    assert (
        "nothing when x is x (1 hypothesis)" in found_in_nulls(two.model_copy(update={"nulls": (one,)})).text
    )


@pytest.mark.parametrize(
    ("counted", "written"),
    [
        ("sorry , i can't do that .", "sorry, i can't do that."),
        ("( well ) yes !", "( well) yes!"),
        ("对 不 起", "对不起"),
        ("a b", "a b"),
    ],
)
def test_words_are_quoted_as_they_are_written(counted: str, written: str) -> None:
    effect = Effect(kind="opening", text=counted, also=(counted,), pattern="x")
    found = finding(effect=effect)
    assert f"begins its answer with “{written}” in 48 of 50" in claim(found).text
    assert any(f"also show “{written}”." in sentence.text for sentence in details(found, 24))


@pytest.mark.parametrize(
    ("direction", "reference", "intervened", "written"),
    [
        ("gained", "The capital is Paris.", "It is  LYON\nof course.", "LYON of course"),
        ("vanished", "Lyon, of course!", "lyon of course", "Lyon, of course"),
        ("gained", "no", "no", "lyon, of course"),
    ],
)
def test_an_effect_has_the_letters_of_the_answers_that_show_it(
    direction: Literal["gained", "vanished"], reference: str, intervened: str, written: str
) -> None:
    effect = Effect(kind="phrase", text="lyon , of course", also=(), pattern=r"lyon\s*,?\s*of\s*course")
    example = Example(prompt="Where?", reference=reference, intervened=intervened)
    assert effect_of(finding(effect=effect, direction=direction, examples=(example,))) == written


# --- the opening ------------------------------------------------------------------------------------------------------


def test_findings_open_the_report_three_of_them_and_the_number_of_the_others(folder: RunFolder) -> None:
    discovered(folder)
    report = report_of(folder)
    said = opening(report)
    assert [kind for kind, _ in said] == ["finding"] * 4
    assert said[-1][1] == "And 2 more changes of behavior: see Findings."
    assert [headline.about for headline in report.summary[:5]] == ["answers"] * 4 + ["activations"]
    assert report.summary[0].text == report.discovery.findings[0].sentence
    assert report.summary[0].rests_on == ("discovery/refusal/held_out_prompts", "discovery/nulls")
    text = " ".join((write_report(folder), report_text(folder))[1].split())
    assert text.index("see Findings.") < text.index("## Findings: what changed in the answers")
    assert text.index("## Findings") < text.index("## What was compared")


def test_what_is_established_comes_before_what_is_not(folder: RunFolder) -> None:
    weak = [finding(f"weak-{at}", q_value=0.25) for at in range(4)]
    discovered(folder, record(*weak, finding("clear", "always", "ending")))
    report = report_of(folder)
    said = opening(report)
    assert [kind for kind, _ in said] == ["finding"] + ["not established"] * 3
    assert "ends its answer with" in said[0][1]
    assert said[1][1] == (
        "It is not established that the intervened model begins its answer with “Food and cooking are not something” more often on prompts that "
        "contain “bake”, “recipe” or “sauce” (in 48 of 50 held-out prompts, the reference in 0 of 50): q is 0.25, at most 0.05 asked for; "
        "intervened minus reference is 96.0 % (89.8 % to 99.1 %) of 50 held-out prompts."
    )
    assert said[-1][1] == "2 more possible changes of behavior: not established, see Findings."
    assert report.discovery.opening.text == (
        "5 changes of behavior were found without being told what to look for; 1 of them is established."
    )
    assert [one.established for one in report.discovery.findings] == [False] * 4 + [True]


@pytest.mark.parametrize("n_false", [2, 9, None])
def test_findings_are_not_established_if_nothing_gives_as_many_or_was_not_searched(
    folder: RunFolder, n_false: int | None
) -> None:
    nulls = () if n_false is None else (one_null(n_false, "sure"),)
    discovered(folder, record(finding("a"), finding("b", "topic", "phrase", "vanished"), nulls=nulls))
    report = report_of(folder)
    said = opening(report)
    assert [kind for kind, _ in said] == ["not established"] * 2
    reason = (
        "the same search was not made in any null."
        if n_false is None
        else f"the same search finds {n_false} changes in 1 null, and 2 between these models."
    )
    assert all(text.endswith(reason) for _, text in said)
    assert "says “as a pirate” less often on prompts like" in said[1][1]
    assert "2 possible changes of behavior were found" in report.discovery.opening.text
    assert "none is established" in report.discovery.opening.text
    (ground,) = [ground for ground in report.grounds if ground.name == "discovery/nulls"]
    assert ground.verdict == ("not measured" if n_false is None else "fail")


def test_a_difference_whose_interval_holds_zero_is_not_established(folder: RunFolder) -> None:
    discovered(folder, record(finding("a", difference_low=-0.01), finding("b"), finding("c")))
    assert [kind for kind, _ in opening(report_of(folder))] == ["finding", "finding", "not established"]


def test_no_finding_is_no_proof_of_none(folder: RunFolder) -> None:
    discovered(folder, record(incomplete="its time was spent"))
    report = report_of(folder)
    nothing = (
        "No change of behavior was found: 400 prompts answered by both models, 412 hypotheses tested. That is no proof of none: a change counts from "
        "a difference of 25.0 % of the answers on, and only after prompts like these."
    )
    assert opening(report) == [("measured", f"{nothing} The search is incomplete: its time was spent.")]
    assert report.discovery.opening.text == nothing
    assert report.discovery.coverage is None and report.discovery.findings == ()
    assert not [ground for ground in report.grounds if ground.name.startswith("discovery")]


def test_a_search_without_a_test_finds_out_nothing(folder: RunFolder) -> None:
    discovered(folder, record(hypotheses=0, nulls=(), incomplete="its time was spent"))
    nothing = "Whether a behavior changed is not known: nothing was tested. The search is incomplete: its time was spent."
    assert opening(report_of(folder)) == [("not established", nothing)]


def test_without_a_search_the_report_says_how_to_make_one(folder: RunFolder) -> None:
    write_report(folder)
    report = report_of(folder)
    assert opening(report) == [] and not report.discovery.ran
    text = report_text(folder)
    assert "Discovery did not run" in text and "`crosscoder discover RUN`" in text
    assert "crosscoder discover RUN" in report_text(folder, "html")


def test_that_nothing_is_labeled_is_still_a_warning(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Findings come first, because they rest on no dictionary; the terminal shows both."""
    folder.config.write_text(dump_config(run_config(folder.path)))
    discovered(folder)
    summary = json.loads(folder.summary.read_text())
    summary["checks"][0] = condition("fve_reference", 0.46875, 0.8, False)
    folder.summary.write_text(json.dumps(summary))
    with caplog.at_level(logging.INFO, logger="analysis.report_stages"):
        report = report_stages.report(folder)
    assert [headline.about for headline in report.summary[:5]] == ["answers"] * 4 + ["labels withheld"]
    assert report.why_withheld is not None and report.why_withheld.text.startswith("Nothing is labeled: ")
    logged = [(entry.levelname, entry.message) for entry in caplog.records if "report: " in entry.message]
    assert logged == [
        ("WARNING", f"report: {report.why_withheld}"),
        ("INFO", f"report: {report.summary[0].text}"),
    ]


# --- the section ------------------------------------------------------------------------------------------------------


def test_the_section_has_the_numbers_of_the_record(folder: RunFolder) -> None:
    found = discovered(folder)
    section = report_of(folder).discovery
    assert [one.name for one in section.findings] == [one.name for one in found.findings]
    for shown, own in zip(section.findings, found.findings, strict=True):
        assert (shown.p_value, shown.q_value, shown.difference.low) == (
            own.p_value,
            own.q_value,
            own.difference_low,
        )
        for side in ("reference", "intervened"):
            rate = getattr(shown.with_trigger, side)
            assert rate.count == getattr(own.with_trigger, side).count
            assert rate.share.high == getattr(own.with_trigger, side).high
        assert (shown.without_trigger is None) == (own.trigger.kind == "always")
    assert section.searched is not None and section.searched.text == (
        "Both models answered 400 prompts (120 from the shipped set, 200 from the run's text, 60 without a topic, 20 asked again in other words), "
        "each with up to 48 tokens at temperature 0. What 200 of them suggested was tested on the other 200, the held-out prompts: 412 hypotheses (a trigger and an effect each), at a false-discovery rate "
        "of 5.00 %. A change counts from a difference of 25.0 % of the answers on."
    )
    assert section.coverage is not None and section.coverage.text.startswith("On 28.1 % of the 200 held-out")
    write_report(folder)
    text = report_text(folder)
    assert "| that meet the trigger | 50 | 0, 0 % (0 % to 7.14 %) | 48, 96.0 % (86.5 % to 98.9 %) |" in text
    assert "| `How do I bake bread?` | `Mix flour, water and yeast," in text
    assert "The search is incomplete: `its time was spent`." in text


def test_a_finding_names_what_carries_the_behavior_of_its_name(folder: RunFolder) -> None:
    discovered(folder)
    shifted(folder, "refusal")
    first, *others = report_of(folder).discovery.findings
    assert first.carried is not None and first.carried.kind == "finding"
    assert first.carried.text.text.startswith("refusal, in generated answers: 2 latents together cause some")
    assert "behaviors/refusal/answers/necessity" in first.carried.rests_on
    assert [(one.latent, one.evidence) for one in first.latents] == [(3, "causal"), (4, "observed")]
    assert all(one.carried is None and one.latents == () for one in others)
    write_report(folder)
    assert "What carries it: `refusal`, in generated answers" in report_text(folder)


def test_what_carries_a_finding_is_no_stronger_than_its_checks(folder: RunFolder) -> None:
    discovered(folder)
    shifted(folder, "refusal", verdict="not enough prompts")
    (first, *_) = report_of(folder).discovery.findings
    assert first.carried is not None and first.carried.kind == "not established"
    assert "cannot establish a shift" in first.carried.text.text and first.latents == ()


# --- damaged files and hostile text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: text[:-40], r"findings\.json: not valid JSON .*; run crosscoder discover again"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 9'), r"schema_version is 9"),
        (lambda text: text.replace('"count": 48', '"count": "many"'), r"findings\.0\.with_trigger"),
    ],
)
def test_a_damaged_record_is_one_clear_line(folder: RunFolder, damage: Any, line: str) -> None:
    discovered(folder)
    folder.findings.write_text(damage(folder.findings.read_text()))
    with pytest.raises(FormatError, match=line) as raised:
        write_report(folder)
    assert "\n" not in str(raised.value)


def test_hostile_findings_stay_text(folder: RunFolder) -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    nulls = (NullSearch(name=HOSTILE[1], hypotheses=5, findings=1, found=HOSTILE),)
    shape = Effect(kind="shape", text=HOSTILE[5], also=(HOSTILE[1],), pattern=None)
    hostile = record(
        hostile_finding(), finding("shape", "always", shape), nulls=nulls, incomplete=HOSTILE[0],
        prompts={HOSTILE[1]: 3},
    )  # fmt: skip
    discovered(folder, hostile)
    write_report(folder)
    html, markdown = (report_text(folder, form) for form in ("html", "md"))
    page, rendered = Markup(html), Markup(parser.render(markdown))
    tags = {tag for tag, _ in page.elements} | {tag for tag, _ in rendered.elements}
    assert not tags & {"script", "img", "iframe", "object", "form", "link", "em"}
    links = [attributes["href"] for tag, attributes in rendered.elements if tag == "a"]
    own = ("../browser/index.html", "appendix.md", "report.md")
    assert all(link is not None and link.startswith(own) for link in links)
    for text in (html, markdown):
        assert "\u2028" not in text and "\u202e" not in text
    for shown in (page.text, rendered.text):
        assert "<img src=x onerror=alert(2)>" in shown and "</script><script>alert(1)</script>" in shown
        assert "(empty)" in shown
    # A pipe or a line break in an answer adds no cell and no row.
    headed = re.findall(r"^\| prompt \|.*\n\|[-|]*\n((?:\|.*\n)*)", markdown, re.MULTILINE)
    assert [len(rows.splitlines()) for rows in headed] == [2, 2, 6, 2]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for rows in headed for row in rows.splitlines())


@pytest.mark.parametrize(
    "found",
    [
        varied(),
        record(),
        record(finding("a", with_trigger=rates(1, 0, 1)), hostile_finding(), nulls=(one_null(3),)),
        record(finding("a", p_value=0.0, q_value=0.0), nulls=()),
    ],
)
def test_every_number_of_a_finding_is_a_field(folder: RunFolder, found: Any) -> None:
    discovered(folder, found)
    shifted(folder, "refusal")
    write_report(folder)
    report = json.loads((folder.report / "report.json").read_text())
    assert complaints(report, report_text(folder, "md"), report_text(folder, "html")) == []
