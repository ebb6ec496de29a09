"""Rules recover planted triggers and hold on other documents; without a trigger the score is at chance."""

from typing import Any

import numpy as np
import pytest

from analysis.explanations.firing_rules import score_rules
from analysis.explanations.firing_table import FiringTable, gather_firings, in_find_set
from analysis.explanations.rules import learn_rule, rule_text
from analysis.explanations.token_families import token_families
from analysis.latents.token_context import DocumentContext
from crosscoder.config import AnalysisConfig, FiringRuleConfig

from .planted_text import (
    LATENTS,
    TRIGGER,
    PlantedReader,
    planted_context,
    planted_documents,
    planted_view,
)

ALL = tuple(range(len(LATENTS)))
SETTINGS = AnalysisConfig(bootstrap_samples=200)


def gathered(batch: int = 0, latents: Any = ALL, max_tokens: int = 10**9) -> FiringTable:
    reader = PlantedReader(planted_documents())
    if batch:
        whole = reader.batches
        reader.batches = lambda size: whole(batch)  # pyright: ignore[reportAttributeAccessIssue]
    return gather_firings(reader, planted_view(), list(latents), max_tokens, 0)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> DocumentContext:
    return planted_context(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def rows(context: DocumentContext) -> dict[str, dict[str, Any]]:
    table = score_rules(gathered(), context, SETTINGS, 0)
    return dict(zip(LATENTS, table.to_pylist(), strict=True))


def test_a_planted_trigger_is_found_and_holds_on_other_documents(
    rows: dict[str, dict[str, Any]], context: DocumentContext
) -> None:
    row = rows["token"]
    assert row["family"] == "token" and not row["negated"]
    assert set(row["items"]) == {context.vocabulary[TRIGGER], context.vocabulary[TRIGGER + 1]}
    assert row["text"].startswith("token in {“")
    assert row["auroc"] == row["activation_auroc"] == 1
    assert row["n_firings"] > 50 and row["n_documents"] > 30 and row["bits_saved"] > 100


def test_the_previous_token_and_the_source_are_found(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["previous"]["family"] == "previous_token" and len(rows["previous"]["items"]) == 1
    assert rows["previous"]["auroc"] == 1
    assert (rows["chat"]["family"], rows["chat"]["items"]) == ("source", ["chat"])
    assert rows["chat"]["auroc"] == 1


def test_a_latent_that_fires_at_random_gets_a_rule_at_chance(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["random"]
    assert row["bits_saved"] < 0, "no rule saves bits, but the score is still reported"
    assert row["auroc"] == pytest.approx(0.5, abs=0.05)
    assert row["auroc_low"] <= 0.5 <= row["auroc_high"]


def test_too_few_documents_are_reported(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["seldom"]["reason"].startswith("undetermined: fires in ")
    assert rows["seldom"]["reason"].endswith("(fewer than 5)")
    assert rows["seldom"]["text"] is rows["seldom"]["auroc"] is None
    assert (
        rows["always"]["reason"] == "undetermined: fires on every token of the find set or of the claim set"
    )


def test_the_batch_size_does_not_matter(context: DocumentContext) -> None:
    """Also if a batch boundary falls inside a document."""
    whole = score_rules(gathered(), context, SETTINGS, 0)
    assert score_rules(gathered(batch=17), context, SETTINGS, 0).equals(whole)


def test_the_other_latents_do_not_matter(context: DocumentContext) -> None:
    alone = score_rules(gathered(latents=[1]), context, SETTINGS, 0).to_pylist()
    assert alone == score_rules(gathered(), context, SETTINGS, 0).to_pylist()[1:2]


def test_rules_are_scored_on_other_documents_than_they_are_learned_on(context: DocumentContext) -> None:
    """Firings in the claim set change the score of a rule, never the rule."""
    table = gathered(latents=[0])
    finding = in_find_set(table.document, 0)
    halves = set(table.document[finding].tolist()), set(table.document[~finding].tolist())
    assert not halves[0] & halves[1] and min(map(len, halves)) > 80
    kept = finding[table.token]
    rng = np.random.default_rng(0)
    token = np.sort(np.concatenate([table.token[kept], rng.choice(np.flatnonzero(~finding), 300, False)]))
    ones = np.ones(len(token), dtype=np.float32)
    other = FiringTable(
        table.latents,
        table.document,
        table.position,
        token,
        np.zeros(len(token), dtype=np.int64),
        ones,
        ones,
        ones,
    )
    before, after = (score_rules(found, context, SETTINGS, 0).to_pylist()[0] for found in (table, other))
    assert after["items"] == before["items"] and after["bits_saved"] == before["bits_saved"]
    assert before["auroc"] == 1 and after["auroc"] < 0.6


def test_contributions_to_each_model_are_stored() -> None:
    table = gathered(latents=[0])
    assert len(table.value) > 0
    assert table.reference == pytest.approx(table.value)
    assert table.intervened == pytest.approx(2 * table.value)
    assert table.of(0).tolist() == list(range(len(table.value)))


def test_the_number_of_tokens_is_limited() -> None:
    table = gathered(max_tokens=2000)
    assert 1400 < len(table.document) < 2600
    _, counts = np.unique(table.document, return_counts=True)
    assert set(counts.tolist()) == {29}, "whole documents are read"
    assert int(table.token.max()) < len(table.document)


def test_shorter_rules_are_preferred(context: DocumentContext) -> None:
    """One token always makes it fire, another does occasionally: only items that save bits are added."""
    table = gathered(latents=[0])
    families = token_families(context.documents, context.vocabulary, table.document, table.position)
    token = next(family for family in families if family.name == "token")
    always = token.key == 7
    seldom = (token.key == 9) & (np.random.default_rng(0).random(len(always)) < 0.1)
    finding = np.ones(len(always), dtype=bool)
    rule = learn_rule(always | seldom, finding, families, 12)
    assert (rule.family.name, rule.items) == ("token", (7,))
    both = learn_rule(always | (token.key == 9), finding, families, 12)
    assert set(both.items) == {7, 9}
    assert len(learn_rule(always | (token.key == 9), finding, families, 1).items) == 1


def test_a_latent_that_fires_on_most_tokens_gets_a_negated_rule(context: DocumentContext) -> None:
    table = gathered(latents=[0])
    families = token_families(context.documents, context.vocabulary, table.document, table.position)
    token = next(family for family in families if family.name == "token")
    rule = learn_rule(token.key != 7, np.ones(len(token.key), dtype=bool), families, 12)
    assert rule.negated and rule.items == (7,)
    assert np.array_equal(rule.holds(), token.key != 7)
    assert rule_text("token", [" food", " meal"], True) == "token not in {“ food”, “ meal”}"


def test_settings_have_an_effect(context: DocumentContext) -> None:
    short = SETTINGS.model_copy(update={"firing_rule": FiringRuleConfig(items=1)})
    table = score_rules(gathered(latents=[0]), context, short, 0).to_pylist()
    assert len(table[0]["items"]) == 1 and 0.6 < table[0]["auroc"] < 0.9
