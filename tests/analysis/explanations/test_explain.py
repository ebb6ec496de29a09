"""From a run to scored explanations: no question is sent twice or above the limit, and scores measure the judge."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import crosscoder.command.app as command
from analysis.explanations.excerpts import Excerpt, ExcerptFinder, Excerpts, marked
from analysis.explanations.explain import Task, summary_of
from analysis.explanations.explanation_files import ExplanationFolder, read_explanations
from analysis.explanations.firing_rules import score_rules
from analysis.explanations.firing_table import gather_firings, in_find_set
from analysis.explanations.judge_prompts import author_question, decoy_marks
from analysis.latents.token_context import DocumentContext
from analysis.stages import explain
from analysis.tables.parquet import write_parquet
from crosscoder.config import AnalysisConfig, FileActivations, RunConfig
from crosscoder.config.explanation import ExplanationSettings
from crosscoder.errors import ConfigError, ResourceError
from crosscoder.run.folder import RunFolder
from tests.analysis.chat_endpoint import ChatHandler, serving
from tests.analysis.handmade_runs import record_files
from tests.tiny_pairs import WORDS, save_llama

from .planted_text import (
    FIRST,
    LATENTS,
    TRIGGER,
    PlantedReader,
    planted_context,
    planted_documents,
    planted_run,
    planted_view,
)

NAMED = [WORDS[TRIGGER - FIRST], WORDS[TRIGGER + 1 - FIRST]]
"""The words that latent 0 fires on."""


# --- excerpts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> DocumentContext:
    return planted_context(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def finder(context: DocumentContext) -> ExcerptFinder:
    table = gather_firings(PlantedReader(planted_documents()), planted_view(), range(len(LATENTS)), 10**9, 0)
    return ExcerptFinder(table, context, 8, 0, 0)


@pytest.fixture(scope="module")
def excerpts(finder: ExcerptFinder) -> Excerpts:
    return finder.find(0, 10, 5, 12)


def test_author_and_judge_see_different_documents_and_each_once_per_kind(excerpts: Excerpts) -> None:
    assert [len(part) for part in excerpts] == [10, 5, 24, 12]
    parts = [[excerpt.document for excerpt in part] for part in excerpts]
    assert all(len(set(part)) == len(part) for part in parts)
    shown, scored = set(parts[0] + parts[1]), set(parts[2] + parts[3])
    assert not shown & scored
    assert (
        in_find_set(np.array(sorted(shown)), 0).all() and not in_find_set(np.array(sorted(scored)), 0).any()
    )


def test_excerpts_hold_the_tokens_and_firings_of_their_documents(
    excerpts: Excerpts, context: DocumentContext
) -> None:
    for place, part in enumerate(excerpts):
        for excerpt in part:
            ids = context.documents.tokens_of(excerpt.document)[excerpt.start : excerpt.start + 8]
            assert excerpt.tokens == tuple(context.vocabulary[index] for index in ids)
            fires = np.isin(ids, (TRIGGER, TRIGGER + 1)) & excerpt.measured
            assert np.array_equal(excerpt.fires, fires)
            assert bool(fires.any()) == (place in (0, 2))
            assert excerpt.measured.tolist() == [excerpt.start + at > 0 for at in range(len(ids))]
            assert excerpt.intervened == pytest.approx(2 * excerpt.reference)


def test_the_author_sees_the_strongest_and_a_range_of_others(
    finder: ExcerptFinder, excerpts: Excerpts
) -> None:
    peaks = [float(excerpt.value.max()) for excerpt in excerpts.shown]
    everything = [float(excerpt.value.max()) for excerpt in finder.find(0, 10**6, 0, 0).shown]
    assert peaks[:5] == sorted(everything, reverse=True)[:5]
    assert min(peaks[5:]) < np.quantile(everything, 0.2) and np.median(peaks[5:]) < min(peaks[:5])
    prompt = author_question(excerpts, 80).prompt
    assert prompt.count("<<") >= 10 and prompt.count("writes into the reference") == 10
    assert "fires on: “" in prompt and "” 10" in prompt
    assert "".join(excerpts.shown_silent[0].tokens) in prompt


def test_marks_go_around_runs_of_tokens() -> None:
    assert marked(["a", "b", "c", "d"], np.array([True, True, False, True])) == "<<ab>>c<<d>>"


def test_decoy_marks_are_as_many_and_on_other_tokens(excerpts: Excerpts) -> None:
    for excerpt in excerpts.scored:
        marks = decoy_marks(excerpt, (0, 1))
        assert marks is not None and marks.sum() == excerpt.fires.sum()
        assert not (marks & excerpt.fires).any() and (marks <= excerpt.measured).all()
    ones = np.ones(2, dtype=np.float32)
    full = Excerpt(0, 0, ("a", "b"), np.ones(2, dtype=bool), ones, ones, ones, None)
    assert decoy_marks(full, (0,)) is None


# --- with an endpoint -------------------------------------------------------------------------------------------------


class _Endpoint(ChatHandler):
    """Explains by the words that are marked most often, judges by the words in the explanation, and records the prompts."""

    asked: ClassVar[list[str]] = []
    headers_seen: ClassVar[list[str]] = []
    judge: ClassVar[str] = "informed"
    fails_after: ClassVar[int | None] = None

    def reply_to(self, prompt: str) -> str | None:
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            return None
        self.asked.append(prompt)
        self.headers_seen.append(self.headers.get("Authorization", ""))
        return self.verdict(prompt) if "Answer with Yes or No" in prompt else self.explain(prompt)

    @staticmethod
    def explain(prompt: str) -> str:
        listed = re.findall(r"“(\w+)” \d", prompt)
        counts = {word: listed.count(word) for word in listed}
        common = [word for word, count in counts.items() if count > len(listed) / 5]
        return f"Fires on\n{' '.join(f'[{word}]' for word in common)}."

    def verdict(self, prompt: str) -> str:
        explanation, text = prompt.split("Here is an excerpt")
        seen = "".join(re.findall(r"<<(.*?)>>", text)) if "<<" in text.partition(":\n")[2] else text
        named = any(word in seen for word in re.findall(r"\[(\w+)\]", explanation))
        digest = hashlib.blake2b(prompt.encode(), digest_size=1).digest()[0]
        return {
            "informed": "Yes." if named else "No, it does not.",
            "coin": "Yes" if digest % 2 else "No",
            "evasive": "It depends." if digest % 3 == 0 else ("Yes" if named else "No"),
        }[self.judge]


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Endpoint.asked, _Endpoint.headers_seen = [], []
    _Endpoint.judge, _Endpoint.fails_after = "informed", None
    with serving(_Endpoint) as url:
        yield url


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunFolder, RunConfig]:
    return planted_run(tmp_path)


def settings(url: str, **more: Any) -> ExplanationSettings:
    author = {"kind": "endpoint", "url": url, "model": "chat", "key_variable": more.pop("key_variable", None)}
    chosen = {"author": author, "only": [0, 1], "window": 8, "scored": 12}
    return ExplanationSettings.model_validate(chosen | more)


def rows(folder: RunFolder) -> dict[int, dict[str, Any]]:
    return {latent: found[0] for latent, found in read_explanations(folder).items()}


def test_an_informed_judge_distinguishes_the_explanation_from_that_of_another_latent(
    run: tuple[RunFolder, RunConfig], endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, config = run
    with caplog.at_level(logging.INFO, "analysis"):
        explain(folder, config, settings(endpoint))
    row = rows(folder)[0]
    assert set(re.findall(r"\[(\w+)\]", row["text"])) == set(NAMED) and "\n" not in row["text"]
    assert row["detection"] == row["fuzzing"] == 1
    assert row["detection_low"] > 0.8 and row["detection_n"] == row["fuzzing_n"] == 24
    assert row["control_latent"] == 1
    assert row["detection_control"] < 0.7 and row["fuzzing_control"] < 0.7
    assert (row["n_shown"], row["n_shown_silent"], row["author"], row["judge"]) == (10, 5, "chat", "chat")
    assert row["prompt_tokens"] == 97 * 100 and row["reply_tokens"] == 97 * 3
    messages = [record.getMessage() for record in caplog.records]
    assert "2 latents; at most 2 prompts to chat and 192 to chat, about " in messages[0]
    assert messages[-1] == f"explain: {summary_of(list(rows(folder).values()))}"
    assert "chance is 0.5; 0 replies were neither" in messages[-1]
    stage = folder.read_manifest()["stages"]["explain"]
    assert stage["finished"] and stage["latents"] == 2 and stage["tokens"] == 103 * len(_Endpoint.asked)


def test_a_coin_scores_half_with_either_explanation(run: tuple[RunFolder, RunConfig], endpoint: str) -> None:
    folder, config = run
    _Endpoint.judge = "coin"
    explain(folder, config, settings(endpoint, scored=40, only=[0, 1, 3], max_tokens=10**6))
    found = rows(folder).values()
    values = [
        row[f"{kind}{source}"]
        for row in found
        for kind in ("detection", "fuzzing")
        for source in ("", "_control")
    ]
    assert len(values) == 12 and np.mean(values) == pytest.approx(0.5, abs=0.06)


def test_replies_that_say_neither_yes_nor_no_are_counted(
    run: tuple[RunFolder, RunConfig], endpoint: str
) -> None:
    folder, config = run
    _Endpoint.judge = "evasive"
    explain(folder, config, settings(endpoint))
    row = rows(folder)[0]
    assert row["detection"] == 1, "the readable replies are correct"
    assert row["detection_unparsed"] > 0 and row["detection_n"] + row["detection_unparsed"] == 24


def test_above_the_limit_no_question_is_sent(run: tuple[RunFolder, RunConfig], endpoint: str) -> None:
    folder, config = run
    with pytest.raises(
        ResourceError, match=r"max_tokens: 194 prompts need about \d+ tokens, the limit is 9000;"
    ):
        explain(folder, config, settings(endpoint, max_tokens=9000))
    assert not _Endpoint.asked and not ExplanationFolder(folder.explanations).table.exists()


def test_a_server_that_counts_more_than_the_estimate_is_stopped_too(
    run: tuple[RunFolder, RunConfig], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.judges.chat_models._Endpoint.tokens_of", lambda model, text: 1)
    folder, config = run
    with pytest.raises(
        ResourceError, match=r"max_tokens: \d+ tokens are used, and the next prompt would exceed the limit"
    ):
        explain(folder, config, settings(endpoint, max_tokens=3000))
    assert len(_Endpoint.asked) == 30, "of 103 tokens each: the limit is exceeded by at most one reply"


def test_after_an_interrupt_no_question_is_sent_twice(
    run: tuple[RunFolder, RunConfig], endpoint: str
) -> None:
    folder, config = run
    _Endpoint.fails_after = 50
    with pytest.raises(ResourceError, match=r"author\.url: .* gives no reply .*replies so far are cached"):
        explain(folder, config, settings(endpoint))
    assert len(_Endpoint.asked) == 50
    place = ExplanationFolder(folder.explanations)
    # Killed in the middle of a line: only that reply is lost.
    text = place.replies.read_text()
    place.replies.write_text(text[:-30])
    _Endpoint.fails_after = None
    explain(folder, config, settings(endpoint))
    asked = len(_Endpoint.asked)
    assert asked == len(set(_Endpoint.asked)) + 1 > 180
    whole = rows(folder)
    explain(folder, config, settings(endpoint, max_tokens=1))
    assert len(_Endpoint.asked) == asked, "every reply is cached, so the limit does not matter"
    assert rows(folder) == whole


def test_prompts_and_replies_are_stored_and_the_key_is_not(
    run: tuple[RunFolder, RunConfig], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = run
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    explain(folder, config, settings(endpoint, key_variable="A_KEY"))
    assert set(_Endpoint.headers_seen) == {"Bearer sk-very-secret"}
    stored = [
        json.loads(line) for line in ExplanationFolder(folder.explanations).replies.read_text().splitlines()
    ]
    assert [entry["prompt"] for entry in stored] == _Endpoint.asked
    assert {entry["key"] for entry in stored} >= {row["prompt_digest"] for row in rows(folder).values()}
    for path in folder.path.rglob("*"):
        assert not path.is_file() or b"very-secret" not in path.read_bytes(), path
    monkeypatch.delenv("A_KEY")
    with pytest.raises(ConfigError, match=r"author\.key_variable: the environment has no A_KEY"):
        explain(folder, config, settings(endpoint, key_variable="A_KEY"))


def test_rows_of_other_latents_and_authors_are_kept(run: tuple[RunFolder, RunConfig], endpoint: str) -> None:
    folder, config = run
    explain(folder, config, settings(endpoint, only=[0, 1]))
    explain(folder, config, settings(endpoint, only=[1, 3]))
    assert set(read_explanations(folder)) == {0, 1, 3}
    assert rows(folder)[1]["control_latent"] == 3
    other = {"kind": "endpoint", "url": endpoint, "model": "other"}
    explain(folder, config, settings(endpoint, only=[1, 3], judge=other))
    assert [row["judge"] for row in read_explanations(folder)[1]] == ["chat", "other"]


def test_a_single_latent_has_no_control_and_a_silent_one_no_explanation(
    run: tuple[RunFolder, RunConfig], endpoint: str
) -> None:
    folder, config = run
    explain(folder, config, settings(endpoint, only=[0]))
    row = rows(folder)[0]
    assert row["control_latent"] is row["detection_control"] is None and row["detection"] == 1
    explain(folder, config, settings(endpoint, only=[0, 4, 5]))
    seldom, always = rows(folder)[4], rows(folder)[5]
    assert seldom["detection"] is None and seldom["reason"]
    assert (
        always["detection"] is None and "it fires in 24 and is silent in 0 (fewer than 5)" in always["reason"]
    )


def test_the_rule_is_scored_without_a_judge(run: tuple[RunFolder, RunConfig], endpoint: str) -> None:
    folder, config = run
    explain(folder, config, settings(endpoint))
    assert rows(folder)[0]["detection_rule"] is None, "no rule was learned in this run"
    table = gather_firings(PlantedReader(planted_documents()), planted_view(), [0, 1], 10**9, 0)
    documents = planted_context(folder.path.parent / "tokenizer")
    write_parquet(folder.rules, score_rules(table, documents, AnalysisConfig(bootstrap_samples=20), 0))
    explain(folder, config, settings(endpoint))
    assert rows(folder)[0]["detection_rule"] == 1


@pytest.mark.parametrize(
    ("more", "chosen"),
    [
        ({}, [0, 1, 4]),
        ({"latents": "top", "limit": 4}, [0, 1, 2, 4]),
        ({"only": [3]}, [3]),
        ({"limit": 1}, [0]),
    ],
)
def test_latents_are_selected_by_claim_or_by_share(
    run: tuple[RunFolder, RunConfig], endpoint: str, more: dict[str, Any], chosen: list[int]
) -> None:
    folder, config = run
    explain(folder, config, settings(endpoint, **{"only": [], "max_tokens": 10**6, **more}))
    assert sorted(read_explanations(folder)) == chosen


# --- what cannot be explained -----------------------------------------------------------------------------------------


def test_what_cannot_be_explained_is_reported_in_one_line(
    run: tuple[RunFolder, RunConfig], endpoint: str
) -> None:
    folder, config = run
    for requested, message in (
        (ExplanationSettings(), "author: missing; give author.kind=local"),
        (settings(endpoint, only=[99]), "only: 99 is not a latent of this dictionary that fires"),
        (settings(endpoint, only=[], latents="named"), "latents: no latent of this run is named"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            explain(folder, config, requested)
    files = FileActivations(reference=Path("a.npy"), intervened=Path("b.npy"))
    from_files = RunConfig(output=folder.path, activations=files)
    with pytest.raises(ConfigError, match="came from files, without tokens"):
        explain(folder, from_files, settings(endpoint))
    assert not _Endpoint.asked


def test_the_command_takes_a_file_and_overrides(
    run: tuple[RunFolder, RunConfig], endpoint: str, tmp_path: Path
) -> None:
    folder, _ = run
    file = tmp_path / "explain.yaml"
    file.write_text(f"author: {{kind: endpoint, url: '{endpoint}', model: chat}}\nwindow: 8\n")
    record_files(folder.path)
    words = ["explain", str(folder.path), str(file), "only=[0, 1]", "scored=6"]
    done = CliRunner().invoke(command.app, words, catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (0, f"explanations {folder.explanations}\n")
    assert rows(folder)[0]["detection_n"] == 12
    asked, record = len(_Endpoint.asked), folder.read_manifest()
    assert record["stages"]["explain"]["finished"]
    refused = CliRunner().invoke(command.app, ["explain", str(folder.path)], catch_exceptions=False)
    assert refused.exit_code == 2 and refused.stderr.startswith("crosscoder: author: missing")
    assert len(_Endpoint.asked) == asked and folder.read_manifest() == record, (
        "refused before anything is touched"
    )


def test_a_local_model_explains_and_judges(run: tuple[RunFolder, RunConfig], tmp_path: Path) -> None:
    """A random model: its replies are text, then yes or no, and reproducible."""
    folder, config = run
    author = {"kind": "local", "model": str(save_llama(tmp_path / "llama"))}
    asked = ExplanationSettings.model_validate(
        {
            "author": author,
            "only": [0, 1],
            "window": 4,
            "shown": 1,
            "shown_silent": 0,
            "scored": 5,
            "reply_tokens": 3,
        }
    )
    explain(folder, config, asked)
    first = rows(folder)
    assert all(row["detection_unparsed"] == 0 and row["detection"] is not None for row in first.values())
    ExplanationFolder(folder.explanations).replies.unlink()
    explain(folder, config, asked)
    assert rows(folder) == first


def test_tasks_insert_the_explanation(excerpts: Excerpts) -> None:
    task = Task("detection", excerpts.scored[0], None, True)
    assert "<<" not in task.question("It fires on nouns.").prompt
    assert "It fires on nouns." in task.question("It fires on nouns.").prompt


def test_columns_are_those_of_the_schema(run: tuple[RunFolder, RunConfig], endpoint: str) -> None:
    folder, config = run
    explain(folder, config, settings(endpoint))
    names = pq.read_schema(ExplanationFolder(folder.explanations).table).names
    guide = (Path(__file__).parents[3] / "docs" / "explanations.md").read_text()
    bases = {re.sub(r"_(low|high|n|unparsed)$", "", name) for name in names}
    assert not [name for name in bases if f"`{name}`" not in guide], "every column is explained in the guide"
