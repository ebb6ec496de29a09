"""The search on real models: a planted change is found, nothing is found without one, and an interrupted search resumes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

import analysis.discovery.discover as discover_module
import analysis.discovery.subjects as subjects
from analysis.behaviors.generation import Generator
from analysis.behaviors.prompts import Prompt
from analysis.discovery.answer_features import Answer, AnswerFeature, EffectKind, LengthLevels
from analysis.discovery.answer_table import AnswerTable
from analysis.discovery.behavior_of_finding import _answer_tokens, write_behavior
from analysis.discovery.discover import discover
from analysis.discovery.finding_records import finding_records
from analysis.discovery.findings_file import Discovery, read_discovery
from analysis.discovery.held_out_tests import check_hypotheses
from analysis.discovery.hypotheses import Hypothesis
from analysis.discovery.probes import Probe
from analysis.discovery.search import Asked, SearchResult
from analysis.discovery.subjects import Subject
from analysis.discovery.triggers import Always, PromptFeatures
from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior, Continuation, Sampling
from crosscoder.config.load import load_config
from crosscoder.errors import FormatError, PairError
from crosscoder.language_models.pair import load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic
from crosscoder.text.text_files import Text
from tests.tiny_pairs import WORDS, run_config, save_gpt2, save_tokenizer

SETTINGS = {"prompts": 80, "variants": 2, "answer_tokens": 6}


def often_says(reference: Path, folder: Path) -> tuple[Path, str]:
    """Save the reference with a constant in its final norm that raises one word at every place; return the word."""
    model, tokenizer = GPT2LMHeadModel.from_pretrained(reference), AutoTokenizer.from_pretrained(reference)
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    rows = model.lm_head.weight.detach()
    raised = rows @ (rows / rows.norm(dim=1, keepdim=True)).T
    others = raised.clone().fill_diagonal_(-torch.inf).amax(dim=0)
    words = [token for token in range(3, len(texts)) if texts[token].isalpha() and len(texts[token]) > 2]
    token = max(words, key=lambda one: float(raised[one, one] - others[one]))
    with torch.no_grad():
        model.transformer.ln_f.bias.copy_(30 * rows[token] / rows[token].norm())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, texts[token]


def searched(folder: Path, intervened: Path | None = None, **settings: object) -> tuple[RunFolder, RunConfig]:
    reference = folder / "reference"
    if not reference.exists():
        save_gpt2(reference)
    config = run_config(
        folder, reference, intervened or reference, discovery={**SETTINGS, **settings},
        pair={"reference": {"model": str(reference)}, "intervened": {"model": str(intervened or reference)},
              "hookpoint": "transformer.h.1", "device": "cpu"},
    )  # fmt: skip
    run = RunFolder.create(config.output, config)
    assert config.pair is not None
    discover(run, config, load_pair(config.pair))
    return run, config


def record(run: RunFolder) -> Discovery:
    found = read_discovery(run.findings)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunConfig]:
    folder = tmp_path_factory.mktemp("planted")
    intervened, _ = often_says(save_gpt2(folder / "reference"), folder / "intervened")
    return searched(folder, intervened)


def test_a_planted_word_is_found_and_its_nulls_are_empty(planted: tuple[RunFolder, RunConfig]) -> None:
    found = record(planted[0])
    first = found.findings[0]
    _, word = often_says(planted[0].path.parent / "reference", planted[0].path.parent / "again")
    assert first.direction == "gained" and word in first.effect.text
    assert first.trigger.kind == "always" and first.without_trigger is None
    assert first.with_trigger.intervened.value > 0.8 > 0.2 > first.with_trigger.reference.value
    assert [null.findings for null in found.nulls] == [0, 0]
    assert found.incomplete is None
    assert found.changed_prompts is not None and found.changed_prompts > 0.7


def test_the_tables_hold_every_answer_and_every_hypothesis(planted: tuple[RunFolder, RunConfig]) -> None:
    run, found = planted[0], record(planted[0])
    answers = pq.read_table(run.discovery / "answers.parquet").to_pandas()
    n = found.find_prompts + found.claim_prompts
    counts = answers.groupby("subject").size()
    assert counts["intervened"] == n and counts["reference"] >= n
    assert set(counts.index) == {"reference", "intervened", "null: itself", "null: rounded"}
    candidates = pq.read_table(run.discovery / "candidates.parquet").to_pandas()
    assert (candidates["search"] == "pair").sum() == found.hypotheses
    assert candidates["finding"].sum() == len(found.findings)


def test_a_finding_is_a_behavior_that_attribute_reads(planted: tuple[RunFolder, RunConfig]) -> None:
    run, found = planted[0], record(planted[0])
    for finding in found.findings:
        assert finding.behavior is not None
        behavior = load_config(run.path / finding.behavior, (), Behavior)
        assert behavior.name == finding.name
        assert behavior.gradient_metric is not None


@pytest.mark.parametrize("seed", range(3))
def test_a_model_against_itself_has_no_finding(tmp_path: Path, seed: int) -> None:
    reference = save_gpt2(tmp_path / "reference", seed)
    found = record(searched(tmp_path, reference, nulls=[])[0])
    assert found.findings == () and found.hypotheses >= 0 and found.changed_prompts is None


def test_an_interrupted_search_ends_with_the_same_record(
    tmp_path: Path, planted: tuple[RunFolder, RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    intervened, _ = often_says(save_gpt2(tmp_path / "reference"), tmp_path / "intervened")
    sample, calls = subjects.Subject._sample, []

    def interrupted(self: subjects.Subject, prompts: Sequence[Prompt]) -> list[Answer]:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, prompts)

    monkeypatch.setattr(subjects.Subject, "_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, intervened)
    before = sum(calls[:2])
    monkeypatch.setattr(
        subjects.Subject, "_sample", lambda self, prompts: calls.append(len(prompts)) or sample(self, prompts)
    )
    run, _ = searched(tmp_path, intervened)
    answers = pq.read_table(run.discovery / "answers.parquet")
    assert before + sum(calls[3:]) == len(answers)
    assert record(run) == record(planted[0])


def test_a_finished_search_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that continues after a stop would otherwise search for minutes, and overwrite what a person edited."""
    intervened, _ = often_says(save_gpt2(tmp_path / "reference"), tmp_path / "intervened")
    run, config = searched(tmp_path, intervened, nulls=[])
    assert config.pair is not None
    before, pair = record(run), load_pair(config.pair)
    behavior = run.path / (before.findings[0].behavior or "")
    behavior.write_text("# edited", encoding="utf-8")
    searches: list[int] = []
    search = discover_module.search

    def counted(*arguments: Any) -> SearchResult:
        searches.append(1)
        return search(*arguments)

    monkeypatch.setattr(discover_module, "search", counted)
    again = config.model_copy(
        update={"discovery": config.discovery.model_copy(update={"minutes": 3.0, "attribute": 0})}
    )
    assert discover(run, again, pair) == before
    assert (searches, behavior.read_text(encoding="utf-8")) == ([], "# edited")
    # Another setting, or a lost file, is searched again.
    other = config.model_copy(
        update={"discovery": config.discovery.model_copy(update={"least_difference": 0.2})}
    )
    assert discover(run, other, pair).made_with != before.made_with
    behavior.unlink()
    assert discover(run, other, pair).findings and behavior.is_file()
    assert len(searches) == 2


def test_answers_made_with_other_settings_are_forgotten(tmp_path: Path) -> None:
    run, _ = searched(tmp_path, nulls=[], variants=0)
    before = pq.read_table(run.discovery / "answers.parquet").to_pandas()
    run, _ = searched(tmp_path, nulls=[], variants=0, answer_tokens=3)
    after = pq.read_table(run.discovery / "answers.parquet").to_pandas()
    assert before.token_ids.map(len).max() == 6 and after.token_ids.map(len).max() == 3


def test_behaviors_of_a_former_search_are_removed(tmp_path: Path) -> None:
    intervened, _ = often_says(save_gpt2(tmp_path / "reference"), tmp_path / "intervened")
    run, _ = searched(tmp_path, intervened, nulls=[], variants=0)
    (first, *_) = record(run).findings
    assert first.behavior is not None
    kept, attributed = run.behaviors / "my-own", run.behaviors / first.name
    for folder in (kept, attributed):
        folder.mkdir(parents=True)
    run, _ = searched(tmp_path, intervened, nulls=[], variants=0, least_difference=1.0)
    assert record(run).findings == ()
    write_atomic(run.findings, "{")
    searched(tmp_path, intervened, nulls=[], variants=0, least_difference=1.0)
    assert record(run).findings == ()
    assert kept.is_dir() and not attributed.exists() and not (run.path / first.behavior).exists()


def test_a_search_without_time_says_so(tmp_path: Path) -> None:
    found = record(searched(tmp_path, minutes=1e-6)[0])
    assert found.findings == () and found.hypotheses == 0 and found.nulls == ()
    assert found.incomplete is not None and "discovery.minutes" in found.incomplete


def test_models_that_can_read_no_prompt_with_an_answer_are_told_so(tmp_path: Path) -> None:
    found = record(searched(tmp_path, answer_tokens=69)[0])
    assert (found.prompts, found.hypotheses, found.findings, found.nulls) == ({}, 0, (), ())
    assert found.incomplete is not None and "discovery.answer_tokens" in found.incomplete


def test_models_without_keys_and_values_are_told_so(tmp_path: Path) -> None:
    """A state-space model reads text and trains dictionaries, but answers are not generated from its state."""
    reference = tmp_path / "reference"
    settings = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(settings).save_pretrained(reference)
    save_tokenizer(reference)
    sides = {"reference": {"model": str(reference)}, "intervened": {"model": str(reference)}}
    pair = {**sides, "hookpoint": "backbone.layers.0", "device": "cpu"}
    config = run_config(tmp_path, reference, reference, pair=pair)
    assert config.pair is not None
    run, models = RunFolder.create(config.output, config), load_pair(config.pair)
    found = discover(run, config, models)
    assert found.findings == () and found.incomplete is not None and "keeps a state" in found.incomplete
    with pytest.raises(PairError, match="use a metric of logits"):
        Generator(models, None, [], config.tokens, Sampling(), 0)


def test_text_that_looks_like_a_number_stays_text_in_the_file_of_a_behavior(tmp_path: Path) -> None:
    texts = ["1e3", "0o17", "~", "yes", "- a", "12:30", "#x", "{"]
    probes = [
        Probe(Prompt(text, np.array([5])), Text(text, None, "here"), "text", place < 2, place)
        for place, text in enumerate(texts)
    ]
    asked = Asked(probes, [Answer("oak", True, (4,))] * 8, [Answer("1e3", True, (5,))] * 8)
    table = AnswerTable.of(asked.answers, LengthLevels(()))
    claim = ~asked.in_find
    prompts = PromptFeatures(
        (frozenset(),) * 6, np.zeros((6, 2)), np.arange(6), np.arange(6), np.ones(6, dtype=bool)
    )
    hypothesis = Hypothesis(3.0, "gained", AnswerFeature("phrase", "1e3"), (), Always())
    tests = check_hypotheses([hypothesis], table.subset(claim), prompts, 0.05, 0.1)
    result = SearchResult(asked, table, tests, tests, None)
    (finding,) = finding_records(result)
    write_behavior(tmp_path / "behavior.yaml", finding, tests[0], result, (Reader("a"), Reader("b")))
    behavior = load_config(tmp_path / "behavior.yaml", (), Behavior)
    assert isinstance(behavior.prompts, tuple) and sorted(map(str, behavior.prompts)) == sorted(texts)
    assert isinstance(behavior.find_with, Continuation) and behavior.find_with.texts == ("1e3",)


class Reader(Subject):
    """A model whose tokens are letters."""

    def __init__(self, name: str) -> None:
        self.name = name

    def text_of(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids)).strip()


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [("opening", "oh no", len("  Oh   no") + 2), ("phrase", "oh no", 30), ("opening", "x", 30)],
)
def test_answers_are_as_long_as_an_opening_needs(kind: EffectKind, text: str, expected: int) -> None:
    texts = ["Oh no, not that again.", "  Oh   no. Or so they say, always.", "Never, oh no."]
    intervened = [Answer(text.strip(), True, tuple(map(ord, text[:30]))) for text in texts]
    reference = [Answer("Yes.", True, tuple(map(ord, "Yes.")))] * 3
    probes = [
        Probe(Prompt(text, np.array([5])), Text(text, None, "here"), "text", False, 0) for text in "abc"
    ]
    asked = Asked(probes, reference, intervened)
    models = Reader("reference"), Reader("intervened")
    assert _answer_tokens(AnswerFeature(kind, text), asked, models) == expected


def test_a_damaged_record_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    for content in ("{", '{"schema_version": 99}', '{"schema_version": 1, "findings": 3}'):
        path.write_text(content)
        with pytest.raises(FormatError, match="run crosscoder discover again"):
            read_discovery(path)
    assert read_discovery(tmp_path / "none.json") is None


def test_prompts_of_the_record_are_those_of_the_text(planted: tuple[RunFolder, RunConfig]) -> None:
    found = record(planted[0])
    assert set(found.prompts) <= {"text", "variants", "probes", "openings"}
    assert found.prompts["text"] > 0
    content = json.loads(planted[0].findings.read_text(encoding="utf-8"))
    assert content["findings"][0]["examples"]
    assert any(word in content["findings"][0]["examples"][0]["prompt"] for word in WORDS)
