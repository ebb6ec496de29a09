"""The report states what the files contain and no more than the evidence supports, and lets no text become markup."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.labels.rule import CLAIMED
from analysis.report import write_report
from analysis.report.limit_curves import same_around
from analysis.report.phrases import markdown, markdown_code, percent, seconds, token, visible
from analysis.report.schema import Report
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..parsed_markup import Markup
from ..report_runs import controlled, controls, of_two_sizes, plain_difference, report_text, survey, swept
from ..run_folder import HOSTILE, HOSTILE_LATENT, make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("report") / "run")
    write_report(folder)
    return folder


def read_table(path: Path) -> Any:
    """Read a Parquet file with pandas, untyped: its stubs do not describe rows and columns well enough."""
    return pd.read_parquet(path)


def read(folder: RunFolder) -> Report:
    return Report.model_validate_json((folder.report / "report.json").read_text(encoding="utf-8"))


def changed(folder: RunFolder, **changes: Any) -> Report:
    """Return the report of a run after changes of its summary."""
    summary = json.loads(folder.summary.read_text()) | changes
    folder.summary.write_text(json.dumps(summary))
    write_report(folder)
    return read(folder)


def verdict(report: Report, name: str) -> str:
    (found,) = [check.verdict for check in report.checks if check.name == name]
    return found


def claims(report: Report) -> list[Any]:
    return [claim for group in report.groups for claim in group.claims]


# --- phrases ----------------------------------------------------------------------------------------------------------


def test_numbers_are_formatted() -> None:
    assert [percent(value) for value in (0.123, 0.0123, 0.00042, 0.0, 1.0, -0.02, None)] == [
        "12.3 %", "1.23 %", "0.042 %", "0 %", "100.0 %", "−2.00 %", "not measured",
    ]  # fmt: skip
    assert [seconds(value) for value in (3.21, 121.5, 7300.0)] == ["3.2 s", "2 min 2 s", "2 h 1 min"]


def test_invisible_characters_are_spelled_out() -> None:
    assert visible("a\n\u2028\u202e\x00b") == "a↵\\u2028\\u202e\\u0000b"
    assert token("  ") == "␣"
    assert token(" word") == "word"


@pytest.mark.parametrize("text", [*HOSTILE, "``", "`", " a ", "1. b", "- c", "a\nb"])
def test_markdown_shows_the_text_itself(text: str) -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt()
    for source in (markdown(text), markdown_code(text)):
        html = parser.render(f"x {source} y")
        assert {tag for tag, _ in Markup(html).elements} <= {"p", "code"}
        shown = re.sub(r"\s+", " ", Markup(html).text)
        assert re.sub(r"\s+", " ", visible(text)).strip() in shown


# --- content ----------------------------------------------------------------------------------------------------------


def test_claims_have_the_numbers_of_the_table(run: RunFolder) -> None:
    features = read_table(run.features)
    report = read(run)
    assert len(claims(report)) > 20
    for claim in claims(report):
        row = features.iloc[claim.latent]
        assert claim.label == row["label"]
        assert claim.evidence == row["evidence"] == "observed"
        for name, value in claim.numbers.items():
            assert value == (None if pd.isna(row[name]) else pytest.approx(float(row[name]))), name
        assert claim.link == f"../browser/index.html#latent={claim.latent}"


def test_groups_are_ordered_and_name_each_latent_once(run: RunFolder) -> None:
    features = read_table(run.features)
    report = read(run)
    assert [group.name for group in report.groups] == [
        "new",
        "lost",
        "shift",
        "replaced",
        "rotated",
        "rescaled",
        "reweighted",
    ]
    claimed = [claim.latent for claim in claims(report)]
    assert len(claimed) == len(set(claimed))
    by_name = {group.name: group for group in report.groups}
    for name in ("new", "lost"):
        expected = features[features["label"] == name].sort_values("shift_share", key=np.abs, ascending=False)
        assert [claim.latent for claim in by_name[name].claims] == expected["latent"].tolist()
    shares = [claim.numbers["shift_share"] or 0 for claim in by_name["shift"].claims]
    assert shares == sorted(shares, reverse=True)
    others = features[~features["latent"].isin(claimed)]
    assert others["shift_share"].max() <= min(shares)


def test_a_share_that_rests_on_few_documents_is_told_last(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    table: Any = pq.read_table(folder.features).to_pandas()
    table["shift_share_low"] = table["shift_share"] - 0.2 * table["shift_share"].abs()
    unlabeled = table[table["label"].isin(["shared", "undetermined"])].sort_values(
        "shift_share", ascending=False
    )
    reaching, without, *others = unlabeled["latent"].head(9).tolist()
    table.loc[reaching, "shift_share_low"] = -0.01
    table.loc[without, ["shift_share_low", "shift_share_high"]] = np.nan
    table.loc[others, "shift_share_low"] = table.loc[others, "shift_share"] * np.linspace(
        0.9, 0.1, len(others)
    )
    table.loc[~table["latent"].isin(unlabeled["latent"].head(9)), "shift_share"] = -0.5
    table.to_parquet(folder.features, index=False)
    write_report(folder)
    group = next(group for group in read(folder).groups if group.name == "shift")
    assert [claim.latent for claim in group.claims] == [*others, reaching]
    assert "share of the shift is not established" in (group.claims[-1].doubt or "")
    assert not any("not established" in (claim.doubt or "") for claim in group.claims[:-1])
    assert (
        group.statement is not None
        and "a share that rests on few documents comes last" in group.statement.text
    )


def test_a_claim_names_peaks_and_lens_tokens_of_the_files(run: RunFolder) -> None:
    report = read(run)
    new = next(group for group in report.groups if group.name == "new")
    claim = next(claim for claim in new.claims if claim.latent != HOSTILE_LATENT)
    examples = [row for row in pq.read_table(run.examples).to_pylist() if row["latent"] == claim.latent]
    (top,) = [row for row in examples if row["quantile"] is None and row["rank"] == 0]
    assert claim.sentence.quotes["peak"] == top["tokens"][top["position"] - top["start"]]
    lens = read_table(run.logits).query("latent == @claim.latent and model == 'intervened' and side == 'top'")
    for word in lens.sort_values("rank")["token"].head(5):
        assert f"“{word.strip()}”" in claim.sentence.text
    assert "in the intervened model only" in claim.sentence.text


def test_a_claim_says_where_a_direction_does_not_read_as_tokens(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    write_report(folder)
    new, both = (
        next(group for group in read(folder).groups if group.name == name).claims[0].latent
        for name in ("new", "rotated")
    )
    table: Any = pq.read_table(folder.logits).to_pandas()
    lists = table["latent"] == new
    table.loc[lists, "readable"] = False
    in_both = table["latent"] == both
    table.loc[in_both, "readable"] = (table["model"] == "intervened") & (table["side"] == "top")
    table.to_parquet(folder.logits, index=False)
    write_report(folder)
    found = {claim.latent: claim.sentence for claim in claims(read(folder))}
    assert found[new].text.endswith(
        "Through the logit lens, its direction in the intervened model does not read as tokens."
    )
    assert not any(name.startswith("points") for name in found[new].quotes)
    other = found[both]
    assert (
        "the difference between its two directions does not read as tokens; the top tokens of its direction in the intervened model are “"
        in other.text
    )
    assert any(name.startswith("points_at") for name in other.quotes)


def test_claims_are_no_stronger_than_the_evidence(run: RunFolder) -> None:
    for claim in claims(read(run)):
        words = "".join(piece.text for piece in claim.sentence.pieces() if piece.kind == "words")
        assert not re.search(
            r"\b(causes?|drives?|makes|responsible|pushes|because|proves?|controls?)\b", words
        )
    text = report_text(run)
    for name in (
        *("Expected under the nulls tried", "Q-values", "Null pair", "Found again by other trainings"),
        *("Agreement with another method", "Causal checks"),
    ):
        assert f"- {name}: not measured" in text


def test_results_of_controls_are_reported_with_their_numbers(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    table = controlled(folder)
    claimed = table["label"].isin(CLAIMED)
    write_report(folder)
    text = report_text(folder)
    assert "`drift`: 3 new, 1 lost," in text
    assert (
        "0 new, 0 lost, 0 replaced, 0 rotated, 0 rescaled and 0 reweighted among 150 latents that fire"
        in text
    )
    assert "2.00 % of 150 latents that fire are called shared, 86.7 % new or lost" in text
    assert "new: only in the intervened model (5 to 9 if other held-out text had been read)." in text
    assert (
        "3 new and 0 lost are expected under the nulls tried, models that differ by as much but in no feature (at most 7.8 and 3.0), before the "
        "other trainings were asked." in text
    )
    assert (
        "9 further latents would be called rotated by this training alone; the other trainings do not find them again."
        in text
    )
    assert (
        "| nu_error | upper bound of ν error | 0.2 | the number of new and lost latents stays between 24 and 26 for a limit from 0.1 to 0.3; "
        "it is 0 for a limit of 0 and 65 for a limit of 0.4 |" in text
    )
    page = report_text(folder, "html")
    assert page.count("<polyline") == 2 and 'x1="120.0"' in page
    assert "new 3 (at most 7.8), lost 0 (at most 3.0)" in text
    third, n_claimed = int((claimed & (table["latent"] % 3 == 0)).sum()), int(claimed.sum())
    assert "are found again by all 2 other trainings; so are, with the same label, " in text
    assert f"{n_claimed} of the {n_claimed + 9} that this training alone would call changed" in text
    assert f"{third} of the {int(claimed.sum())} latents labeled as changed do so along" in text
    assert "the diff-SAE explains 25.0 % of the difference (10.0 % of a difference without structure)" in text
    changed(folder, controls=controls() | {"difference_heard": False})
    text = report_text(folder)
    assert (
        "not used: the diff-SAE explains 25.0 % of the difference, but 10.0 % of a difference without" in text
    )


def test_no_new_or_lost_latent_is_reported_with_its_interval(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", identical=False)
    table = read_table(folder.features)
    table.loc[table["label"].isin(["new", "lost"]), "label"] = "undetermined"
    pq.write_table(pa.Table.from_pandas(table), folder.features)
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    for side, high in (("new", 2.0), ("lost", 0.0)):
        summary["counts"][side] |= {"low": 0.0, "high": high, "expected_false": 0.0}
    folder.summary.write_text(json.dumps(summary), encoding="utf-8")
    write_report(folder)
    text = report_text(folder)
    assert "none is called new (only in the intervened model) or lost (only in the reference)" in text
    assert (
        "by the label rule (up to 2 new and 0 lost if other held-out text had been read). 4 latents are replaced"
        in text
    )
    first = text.split("\n")[2]
    assert "6 latents are rotated" in first, "other changes are named in the first sentence"
    n_open = int((table["label"] == "undetermined").sum())
    assert f"For {n_open} latents the evidence does not settle what changed (undetermined)." in first
    summary["counts"]["new"]["high"] = 0.0
    folder.summary.write_text(json.dumps(summary), encoding="utf-8")
    write_report(folder)
    assert "by the label rule (0 to 0 of either if other held-out text had been read)." in report_text(folder)


@pytest.mark.parametrize(
    ("counts", "at", "expected"),
    [
        ([0, 5, 5, 6, 9], 2, (1, 3)),
        ([40, 40, 40], 1, (0, 2)),
        ([0, 30, 100], 1, (1, 1)),
        ([0, 0, 1], 0, (0, 2)),
    ],
)
def test_a_count_is_the_same_within_a_tenth_or_one(
    counts: list[int], at: int, expected: tuple[int, int]
) -> None:
    assert same_around(counts, at) == expected


def test_counts_are_those_of_the_table(run: RunFolder) -> None:
    report = read(run)
    found = read_table(run.features)["label"].value_counts().to_dict()
    assert {count.label: count.count for count in report.counts if count.count} == found
    assert all(count.expected_false is None for count in report.counts)


def test_every_claim_and_every_section_is_in_both_texts(run: RunFolder) -> None:
    text = report_text(run)
    page = Markup(report_text(run, "html"))
    links = {attributes.get("href") for tag, attributes in page.elements if tag == "a"}
    for claim in claims(read(run)):
        assert f"]({claim.link})" in text
        assert claim.link in links
    for title in (
        "What was compared",
        "Can it be compared",
        "What changed",
        "Certainty",
        "What is not explained",
        "How it was made",
    ):
        assert f"## {title}\n" in text
        assert title in page.text
    for stage in ("harvest", "train", "analyze"):
        assert re.search(rf"\| {stage} \| .*crosscoder run", text)
    assert "torch `2.13.0`" in text


def test_remainders_are_reported(run: RunFolder) -> None:
    summary = json.loads(run.summary.read_text())
    report = read(run)
    values = {statement.name: statement.value for statement in report.unexplained}
    assert values["variance of the difference that the dictionary does not explain"] == pytest.approx(
        1 - summary["fve"]["difference"]
    )
    shares = [
        values[f"activation shift {name}"] for name in ("explained by latents", "in the bias", "in the error")
    ]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
    (reason,) = report.undetermined
    assert reason.count == (read_table(run.features)["label"] == "undetermined").sum()


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({}, "variance explained (difference)", "fail"),
        (
            {"fve": {"reference": 0.9, "intervened": 0.9, "difference": 0.6}},
            "variance explained (difference)",
            "pass",
        ),
        (
            {"fve": {"reference": 0.79, "intervened": 0.9, "difference": 0.6}},
            "variance explained (reference)",
            "fail",
        ),
        (
            {"fve": {"reference": 0.84, "intervened": 0.9, "difference": 0.6}},
            "gap in variance explained",
            "fail",
        ),
        (
            {"fve": {"reference": 0.86, "intervened": 0.9, "difference": 0.6}},
            "gap in variance explained",
            "pass",
        ),
        (
            {"fve": {"reference": None, "intervened": 0.9, "difference": 0.6}},
            "gap in variance explained",
            "not measured",
        ),
        ({"l0": 31.4}, "latents per token (L0)", "pass"),
        ({"l0": 20.0}, "latents per token (L0)", "fail"),
        ({"l0_target": None}, "latents per token (L0)", "not measured"),
        ({"ce": None}, "loss recovered (reference)", "not measured"),
        ({"dead_share": 0.4}, "dead latents", "fail"),
        ({"cosine": 0.2}, "cosine of the two models' activations", "fail"),
        ({"relative_difference": 0.0}, "there is a difference", "fail"),
    ],
)
def test_verdict_follows_the_value(tmp_path: Path, changes: dict[str, Any], name: str, expected: str) -> None:
    report = changed(make_run_folder(tmp_path / "run", n_latents=60), **changes)
    assert verdict(report, name) == expected


def test_activations_from_files_are_not_called_the_same_text(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    folder.manifest.unlink()
    report = changed(folder, hookpoint=None)
    assert verdict(report, "one tokenizer") == "not measured"
    assert verdict(report, "the same tokens") == "not measured"
    assert "No stage was recorded" in report_text(folder)


# --- nothing to report ------------------------------------------------------------------------------------------------


def test_nothing_new_is_stated(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    features = read_table(folder.features)
    features.loc[features["label"].isin(["new", "lost"]), "label"] = "undetermined"
    features.to_parquet(folder.features)
    write_report(folder)
    report = read(folder)
    assert (
        "none is called new (only in the intervened model) or lost (only in the reference)"
        in report.summary[0].text.text
    )
    features["label"] = "undetermined"
    features.to_parquet(folder.features)
    write_report(folder)
    assert (
        "For all of them the evidence does not settle what changed (undetermined)."
        in read(folder).summary[0].text.text
    )
    for group in report.groups[:2]:
        assert group.claims == ()
        assert group.statement is not None
        assert group.statement.text.startswith(f"No latent is called {group.name}")


def test_identical_models_are_called_identical(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", identical=True)
    write_report(folder)
    report = read(folder)
    assert report.identical
    assert report.summary[0].text.text.startswith("Both models computed identical activations")
    assert [group.name for group in report.groups] == ["new", "lost"]
    assert claims(report) == []
    for form in ("md", "html"):
        assert "identical activations" in report_text(folder, form)


def test_rows_without_text_are_called_rows(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    examples = pq.read_table(folder.examples)
    ids = [[-1] * len(row) for row in examples["token_ids"].to_pylist()]
    place = examples.schema.get_field_index("token_ids")
    pq.write_table(
        examples.set_column(place, "token_ids", pa.array(ids, pa.list_(pa.int32()))), folder.examples
    )
    pq.write_table(pq.read_table(folder.logits).slice(0, 0), folder.logits)
    write_report(folder)
    for claim in claims(read(folder)):
        assert claim.sentence.text.startswith("Fires most strongly on row ")
        assert "logit lens" not in claim.sentence.text
    assert "Logit lens: not measured" in report_text(folder)


def test_latents_that_fire_mostly_on_the_template_are_doubted(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    features = read_table(folder.features)
    features.loc[HOSTILE_LATENT, "template_share"] = 0.93
    features.to_parquet(folder.features)
    write_report(folder)
    doubts = {claim.latent: claim.doubt for claim in claims(read(folder))}
    assert (
        doubts.pop(HOSTILE_LATENT)
        == "More than half of its firings are on chat-template tokens: it may track the template rather than the content."
    )
    assert set(doubts.values()) == {None}


# --- hostile text -----------------------------------------------------------------------------------------------------


def hostile_run(path: Path) -> RunFolder:
    folder = make_run_folder(path, n_latents=60)
    features = read_table(folder.features)
    features.loc[features["label"] == "undetermined", "reason"] = HOSTILE[1]
    features.to_parquet(folder.features)
    summary = json.loads(folder.summary.read_text())
    summary["models"]["intervened"]["adapter"] = HOSTILE[0]
    summary["sources"] = {HOSTILE[1]: {"documents": 1, "tokens": 1}}
    summary["hookpoint"] = HOSTILE[5]
    folder.summary.write_text(json.dumps(summary))
    manifest = json.loads(folder.manifest.read_text())
    manifest["stages"]["harvest"]["command"] = HOSTILE[0] + "\n| `x` |"
    manifest["pair"]["tokenizer"] = HOSTILE[1]
    folder.manifest.write_text(json.dumps(manifest))
    write_report(folder)
    return folder


def test_hostile_text_is_only_text_in_html(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "run")
    text = report_text(folder, "html")
    page = Markup(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "form", "link"}
    assert not {
        name
        for _, attributes in page.elements
        for name in attributes
        if name.startswith("on") or name == "style"
    }
    assert "<img src=x onerror=alert(2)>" in page.text
    assert "\u2028" not in text
    assert "\u202e" not in text
    policy = next(
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_hostile_text_is_only_text_in_markdown(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "run")
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    page = Markup(parser.render(report_text(folder)))
    allowed = {
        "h1",
        "h2",
        "h3",
        "p",
        "a",
        "ul",
        "li",
        "code",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert {tag for tag, _ in page.elements} <= allowed
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    own = ("../browser/index.html", "appendix.md", "report.md")
    assert all(link is not None and link.startswith(own) for link in links)
    assert "<img src=x onerror=alert(2)>" in page.text


def test_report_needs_an_analysis(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(FormatError, match=r"summary\.json: not found; run crosscoder analyze first"):
        write_report(folder)


def test_differences_without_a_dictionary_come_before_the_labels(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    write_report(folder)
    assert "- Predictions, layers: not measured" in report_text(folder)
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    summary["plain_difference"] = plain_difference()
    summary["difference_components"] = {"1": 0.5, "4": 0.75}
    folder.summary.write_text(json.dumps(summary), encoding="utf-8")
    write_report(folder)
    text = report_text(folder)
    assert text.index("Before any dictionary") < text.index("## What changed")
    assert (
        "- Mean difference: 25.0 % of the squared difference lies along it; top tokens `  food `, `" in text
    )
    assert (
        "- Mean difference of the first positions: 12.5 % of the squared difference lies along it (8 positions)."
        in text
    )
    assert (
        "- First principal component: 50.0 % of the squared difference lies along it; it does not read as tokens."
        in text
    )
    assert not any(word in text for word in ("verty", "orer", "TType"))
    assert (
        "fitted to these same tokens: 1 component 50.0 %, 4 components 75.0 %. The dictionary explains"
        in text
    )
    page = report_text(folder, "html")
    assert "<h2>Before any dictionary</h2>" in page
    assert HOSTILE[0] not in page


def test_the_survey_is_reported_in_words(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run")
    folder.survey.write_text(json.dumps(survey()), encoding="utf-8")
    write_report(folder)
    text = report_text(folder)
    assert "differ by 0.5000 nats per token on average" in text
    assert "the mean KL is largest at positions 4–7 (0.9000 nats), 0 (0.1000 nats)." in text
    assert " 20.0 % (× 2.7)." in text
    assert "the probability of no likely token halves anywhere" in text
    assert "| layer 6, the hookpoint | 0.9300 | 7.00 % |" in text
    assert "| layer 29 (after the final norm) | 0.7000 |" in text
    assert "`  Food ` 90.0 %" in text
    page = report_text(folder, "html")
    assert "<small>the hookpoint</small>" in page
    assert HOSTILE[0] not in page


@pytest.mark.parametrize("chosen", [32, 24])
def test_a_sweep_is_reported_with_its_curve(tmp_path: Path, chosen: int) -> None:
    folder = make_run_folder(tmp_path / "run")
    report = changed(folder, l0_target=32)
    facts = {fact.name: fact.value.text for fact in report.compared}
    assert facts["latents that fire"] == "32 per token, as configured; no sweep was made"
    swept(folder, chosen)
    write_report(folder)
    (choice,) = [fact.value.text for fact in read(folder).compared if fact.name == "latents that fire"]
    assert ("as a sweep chose" in choice) == (chosen == 32)
    assert ("a sweep chose 24" in choice) == (chosen == 24)
    assert choice.endswith("k 24: 24.0 %, k 32: 32.0 %")


def test_models_of_two_sizes_have_undefined_labels(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    of_two_sizes(folder)
    write_report(folder)
    text = " ".join(report_text(folder).split())
    assert "a direction of one model cannot be looked up in the other" in text
    assert "called new" not in text
    assert "at 937 places" in text and "93.8 % of the reference's 1,000 tokens" in text
    assert "so their predictions have no divergence" in text
    assert "Whether they would produce it in the reference is undefined." in text
    assert "| undefined |" in text and "Steering:" not in text
    report = read(folder)
    assert verdict(report, "tokens aligned") == verdict(report, "the same text") == "pass"
    (behavior,) = report.behaviors
    assert behavior.explanation is not None and behavior.explanation.sufficiency is None
    measured = {requirement.key: requirement.verdict for requirement in report.desiderata}
    assert measured["validity.faithfulness"] == measured["actionability.lever"] == "not measured"
