"""Every number in a report is a field of report.json, in all three formats; a number that is not is found."""

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from analysis.labels.evidence import Estimate, Evidence, LatentScaling
from analysis.report import content, write_report
from analysis.report.wording import Quote, Sentence, format_number, listed, named, say
from crosscoder.config import LabelRule
from crosscoder.run.folder import RunFolder
from tests.analysis.labels.verdicts import verdict_of

from ..number_walk import complaints, shown_in
from ..report_runs import of_two_sizes, report_text, with_everything
from ..run_folder import make_run_folder


def pooled(folder: RunFolder) -> None:
    """Make the run that of a shared-dictionary SAE: no norms, a firing rate for each model."""
    table: Any = pd.read_parquet(folder.features)
    table[["relative_norm", "decoder_cosine"]] = None
    table["density_reference"], table["density_intervened"] = table["density"] * 0.8, table["density"] * 1.2
    table.to_parquet(folder.features)


def little_measured(folder: RunFolder) -> None:
    """Remove the manifest, and most of what the summary measured."""
    folder.manifest.unlink()
    summary = json.loads(folder.summary.read_text())
    summary |= {"fve": None, "ce": None, "l0_target": None, "dead_share": None, "rule": None, "shift": None}
    folder.summary.write_text(json.dumps(summary))


def written(folder: RunFolder) -> tuple[Any, str, str]:
    write_report(folder)
    report = json.loads((folder.report / "report.json").read_text(encoding="utf-8"))
    return report, report_text(folder, "md"), report_text(folder, "html")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, str]:
    folder = make_run_folder(tmp_path_factory.mktemp("numbers") / "run")
    with_everything(folder)
    return written(folder)


# --- the guarantee ----------------------------------------------------------------------------------------------------


def test_every_number_of_a_full_report_is_a_field(everything: tuple[Any, str, str]) -> None:
    assert complaints(*everything) == []
    # The search saw hundreds of numbers, most of them as elements of the page.
    assert len(list(shown_in(everything[1]))) > 300
    assert everything[2].count("<data ") > 300


@pytest.mark.parametrize("made", [pooled, little_measured, of_two_sizes, None])
def test_every_number_of_other_reports_is_a_field(tmp_path: Path, made: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80, identical=made is None)
    if made is not None:
        made(folder)
    assert complaints(*written(folder)) == []


def drawn(random: np.random.Generator) -> Evidence:
    """Draw evidence of any kind, including thin and contradictory evidence."""

    def bounded() -> Estimate:
        value = float(random.choice([0.1, 0.3, 0.9])) * random.normal()
        width = float(random.choice([0.01, 0.6, np.nan], p=[0.7, 0.2, 0.1]))
        return Estimate(value, value - width, value + width)

    norms = random.choice([0.01, 0.3, 0.6, 1.0], 2) * random.uniform(0.9, 1.1, 2)
    n_documents = float(random.choice([3, 40]))
    toward = [LatentScaling(bounded(), bounded(), float(random.choice([0.2, 0.9]))) for _ in range(2)]
    return Evidence(
        n_tokens=9 * n_documents,
        n_documents=n_documents,
        norm_reference=float(norms[0]),
        norm_intervened=float(norms[1]),
        cosine=float(random.uniform(-0.2, 1)),
        new=toward[0],
        lost=toward[1],
        q_value=float(random.choice([0.001, 0.3])),
    )


def test_every_reason_of_the_rule_is_reported_with_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rule, random = make_run_folder(tmp_path / "run"), LabelRule(), np.random.default_rng(0)
    table: Any = pd.read_parquet(folder.features)
    for latent in range(len(table)):
        evidence = drawn(random)
        side = evidence.new if evidence.norm_intervened >= evidence.norm_reference else evidence.lost
        row: dict[str, Any] = {
            name: getattr(evidence, name)
            for name in ("norm_reference", "norm_intervened", "n_documents", "q_value")
        }
        row["decoder_cosine"] = evidence.cosine
        for name in ("nu_error", "nu_reconstruction"):
            row |= {
                f"{name}_new": getattr(evidence.new, name).value,
                f"{name}_lost": getattr(evidence.lost, name).value,
            }
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), getattr(side, name), strict=True))
        row["label"], row["reason"] = verdict_of(evidence, rule)
        table.loc[latent, list(row)] = list(row.values())
    table.to_parquet(folder.features)
    summary = json.loads(folder.summary.read_text()) | {"rule": rule.model_dump()}
    folder.summary.write_text(json.dumps(summary))
    monkeypatch.setattr(content, "_REASONS_SHOWN", 1000)
    report, *texts = written(folder)
    assert len(report["undetermined"]) >= 10
    assert complaints(report, *texts) == []


def smuggle(report: Any, place: Literal["sentence", "nested sentence", "words", "retold"]) -> None:
    """Add a number that is in no field to one kind of text of a report."""
    sentence = report["summary"][0]["text"]
    match place:
        case "sentence":
            sentence["text"], sentence["template"] = (
                f"{sentence[key]} It took 271 steps." for key in ("text", "template")
            )
        case "nested sentence":
            fact = report["groups"][0]["claims"][0]["facts"][0]["value"]
            fact["text"], fact["template"] = (f"{fact[key]}, 0.31 before" for key in ("text", "template"))
        case "words":
            report["checks"][0]["meaning"] += " in 97.3 % of all cases"
        case "retold":
            report["undetermined"][0]["example"] += ", nu_error 0.4242"


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("sentence", "summary[0].text: 271 is in none of its numbers"),
        ("nested sentence", "groups[0].claims[0].facts[0].value: 0.31 is in none of its numbers"),
        ("words", "checks[0].meaning: 97.3 % is words alone"),
        ("retold", "undetermined[0].example: 0.4242 is in none of its numbers"),
    ],
)
def test_a_number_that_is_in_no_field_of_the_json_is_found(
    everything: tuple[Any, str, str], place: Any, line: str
) -> None:
    report = json.loads(json.dumps(everything[0]))
    smuggle(report, place)
    assert complaints(report, *everything[1:]) == [line]


def test_a_number_that_only_a_template_shows_is_found(everything: tuple[Any, str, str]) -> None:
    report, markdown, html = everything
    assert complaints(report, f"{markdown}\nIn all 271,828 tokens.\n", html) == [
        "report.md: 271,828 is in no field"
    ]
    for added, line in (
        ("<p>Of 1,024 latents.</p>", "report.html: 1,024 is no data element"),
        ('<p><data value="271828.5">271,828</data></p>', "report.html: 271828.5 is in no field"),
        (f'<p><data value="{report["checks"][1]["value"]}">7</data></p>', "report.html: 7 is not"),
    ):
        (found,) = complaints(report, markdown, html.replace("</main>", f"{added}</main>", 1))
        assert found.startswith(line)


def test_a_number_that_differs_from_the_stored_one_is_found(everything: tuple[Any, str, str]) -> None:
    """In report.json, a sentence whose text and numbers differ cannot even be read."""
    report, markdown, html = everything
    element = re.search(r"<data value=\"([\d.]+)\">([\d.]+) %</data>", html)
    assert element is not None
    (found,) = complaints(
        report, markdown, html.replace(element[0], element[0].replace(element[2], "77.7"), 1)
    )
    assert found == f"report.html: 77.7 % is not {element[1]}"
    sentence = json.loads(
        json.dumps(next(one["text"] for one in report["summary"] if one["text"]["numbers"]))
    )
    sentence["numbers"] = dict.fromkeys(sentence["numbers"], 0.5)
    with pytest.raises(ValidationError, match="text does not match template and numbers"):
        Sentence.model_validate(sentence)


# --- the search itself ------------------------------------------------------------------------------------------------


@given(
    st.one_of(st.floats(-1e7, 1e7), st.integers(-(10**7), 10**7)),
    st.sampled_from(["percent", "whole", ".2f", ".4f", ".1f", "g", ".2g", ".3g", ",.0f"]),
)
def test_formatted_numbers_are_read_back(number: float, form: str) -> None:
    (found,) = shown_in(f"about {format_number(number, form)}, or so.")
    assert found.is_of(number)


def test_names_and_citations_are_not_numbers() -> None:
    text = "L0 of SmolLM2-135M at model.layers.15 (latent scaling, Minder et al. 2025) in seed_1, runs/2024/x, k-means"
    assert list(shown_in(text)) == []
    assert [found.text for found in shown_in("(5 to 1,024), 4–7: 0.5; −0.25. × 5.8e+03")] == [
        "5", "1,024", "4", "7", "0.5", "−0.25", "5.8e+03",
    ]  # fmt: skip


# --- sentences --------------------------------------------------------------------------------------------------------


def test_a_sentence_stores_the_numbers_it_was_made_from() -> None:
    sentence = say(
        "Of {n:counted latent}, {share:percent} fire on {token} in {source}{rest}.",
        n=1024, share=0.0123, token=Quote(" a{b}"), source=named("chat"), rest="",
    )  # fmt: skip
    assert str(sentence) == "Of 1,024 latents, 1.23 % fire on “ a{b}” in chat."
    assert sentence.numbers == {"n": 1024, "share": 0.0123}
    assert sentence.quotes == {"token": " a{b}", "source": "chat"}
    assert Sentence.model_validate_json(sentence.model_dump_json()) == sentence


def test_a_missing_number_is_not_measured_and_stays_a_field() -> None:
    for missing in (None, float("nan"), float("inf")):
        sentence = say("It is {value:percent}.", value=missing)
        assert (sentence.text, sentence.numbers) == ("It is not measured.", {"value": None})


def test_numbers_of_parts_keep_separate_names() -> None:
    part = say("{n:,} new", n=2)
    assert say("{found}: doubt", found=part).numbers == {"n": 2}
    row = listed([("a{b", part), ("a|b", part), ("c", part)], "; ")
    assert row.text == "2 new; 2 new; 2 new"
    assert row.numbers == {"a_b.n": 2, "a_b_1.n": 2, "c.n": 2}
    for template in ("{one} and {other}", "{n} and {other}", "{other} and {n}"):
        with pytest.raises(ValueError, match="two parts of a sentence have n; rename one"):
            say(template, one=part, n=1, other=say("{n:,} lost", n=3))
    with pytest.raises(ValueError, match="n is both a number and a quotation"):
        say("{n} and {one}", one=part, n=named("n"))
    assert say("{n}, of {n:percent}", n=1, unused=part).numbers == {"n": 1}


def test_braces_in_words_are_literal() -> None:
    assert say("{verb} {{n}}", verb="sets {x} of").text == "sets {x} of {n}"
