"""Explanations state the current evidence, and why they claim no more."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.behaviors.behavior_files import BehaviorFolder, BehaviorResults
from analysis.explanations.evidence_words import caveat_sentence, evidence_sentence, rule_sentence
from analysis.explanations.explanation_files import RuleScore, read_rules
from analysis.features_file import read_features, write_features
from analysis.tables.columns import RULES
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.report_runs import checked

RULE = RuleScore(
    latent=1, reason=None, family="token", items=(" food",), negated=False, text="token in {“ food”}", bits_saved=40.0,
    auroc=0.9375, auroc_low=0.85, auroc_high=0.98, activation_auroc=0.9, activation_auroc_low=0.8, activation_auroc_high=1.0,
    n_firings=41, n_documents=12, n_tokens=900, n_firings_found_on=40, n_documents_found_on=11,
)  # fmt: skip


def run(path: Path) -> RunFolder:
    folder = RunFolder(path / "run")
    folder.analysis.mkdir(parents=True)
    (folder.path / "config.yaml").write_text(
        "output: run\npair: {reference: {model: a}, intervened: {model: b}, hookpoint: c}\n"
        "text: {sources: [{path: t.jsonl, name: t}]}\n"
    )
    labels = ["shared", "new", "rotated", "dead"]
    pd.DataFrame(
        {
            "latent": range(4), "label": labels, "evidence": "observed", "template_share": [0.1, 0.6, 0.1, None],
            "q_value": [None] * 4, "seed_stability": [None, None, 0.25, None], "n_tokens": [9, 9, 9, 0],
            "observation": [f"Seen {latent}." for latent in range(4)], "explanation": "",
        }
    ).astype({"q_value": float}).to_parquet(folder.features)  # fmt: skip
    return folder


def behavior(
    folder: RunFolder, name: str, evidence: list[str], checks: dict[int, dict[str, Any]]
) -> BehaviorFolder:
    place = BehaviorFolder(folder.behaviors / name)
    place.path.mkdir(parents=True)
    place.shift.write_text(json.dumps({"schema_version": 2, "name": name}))
    entries = [{"latent": latent, "evidence": evidence[latent], **entry} for latent, entry in checks.items()]
    place.causal.write_text(json.dumps({"schema_version": 2, "named": list(checks), "latents": entries}))
    shares = [0.125 * latent for latent in range(4)]
    pd.DataFrame({"latent": range(4), "evidence": evidence, "share_held_out": shares}).to_parquet(
        place.latents
    )
    return place


def explanations(folder: RunFolder) -> list[str]:
    write_features(folder, read_features(folder))
    return pq.read_table(folder.features)["explanation"].to_pylist()


def test_without_behaviors_all_evidence_is_observed(tmp_path: Path) -> None:
    texts = explanations(run(tmp_path))
    assert texts[0] == (
        "Seen 0. Evidence: observed in activations; no behavior was attributed, so its effect is not known."
    )
    assert texts[3] == "Seen 3.", "a dead latent has no other sentences"
    assert "Caveat: most of its firings are on the chat template" in texts[1]
    assert "how many such labels to expect by chance is not measured" in texts[1]
    assert "only 25 % of the other trainings find it again" in texts[2]


def test_evidence_follows_new_and_removed_behaviors(tmp_path: Path) -> None:
    folder = run(tmp_path)
    before = explanations(folder)
    both = {"necessity": checked(0.25), "sufficiency": checked(0.5)}
    neither = {name: {**check, "passed": False} for name, check in both.items()}
    place = behavior(
        folder, "refusal", ["observed", "associated", "causal", "observed"], {1: neither, 2: both}
    )
    texts = explanations(folder)
    assert pq.read_table(folder.features)["evidence"].to_pylist() == [
        "observed",
        "associated",
        "causal",
        "observed",
    ]
    assert "it is not among the latents checked for the shift of refusal" in texts[0]
    assert (
        "Evidence: associated with the shift of refusal (12 % of it attributed; removing it alone undoes 25 %, random latents −5.5 % on "
        "average, not passed; inserting it alone brings 50 %, random latents −5.5 % on average, not passed), on held-out prompts; not shown to "
        "be a cause, because the latent alone passes no check." in texts[1]
    )
    assert "Evidence: causal for the shift of refusal (25 % of it attributed; removing" in texts[2]
    place.clear()
    assert explanations(folder) == before


def test_the_strongest_evidence_of_several_behaviors_counts(tmp_path: Path) -> None:
    folder = run(tmp_path)
    checks = {"necessity": checked(0.25), "sufficiency": None}
    behavior(folder, "one", ["observed", "associated", "causal", "observed"], {1: checks, 2: checks})
    behavior(folder, "two", ["observed", "causal", "associated", "observed"], {1: checks, 2: checks})
    texts = explanations(folder)
    assert pq.read_table(folder.features)["evidence"].to_pylist() == [
        "observed",
        "causal",
        "causal",
        "observed",
    ]
    assert "causal for the shift of two (" in texts[1] and "one (" not in texts[1]
    assert "inserting it alone" not in texts[1], "undefined between models without a common space"


def test_a_failed_causal_check_is_stated() -> None:
    entry = {"latent": 5, "evidence": "observed", "necessity": checked(0.1), "sufficiency": checked(0.1)}
    found = BehaviorResults("refusal", {}, None, {"latents": [entry]}, {})
    assert "an association with the shift of refusal is not shown on held-out prompts" in evidence_sentence(
        5, [found]
    )
    unexplained = BehaviorResults("other", {}, None, None, {})
    assert "no shift of a behavior was explained" in evidence_sentence(5, [unexplained])


def test_rules_are_stated_with_their_score() -> None:
    assert rule_sentence(RULE) == (
        "Rule for where it fires, learned on other documents: token in {“ food”}, AUROC 0.94 (0.85 to 0.98; chance is 0.5; 41 firings "
        "in 12 documents)."
    )
    assert rule_sentence(None) == ""


def test_rules_of_the_file_are_in_the_text(tmp_path: Path) -> None:
    folder = run(tmp_path)
    why = {
        "latent": 0,
        "reason": "undetermined: fires in 2 documents",
        "n_tokens": 9,
        "n_firings": 2,
        "n_documents": 2,
    }
    counts = {"n_firings_found_on": 1, "n_documents_found_on": 1}
    pq.write_table(pa.Table.from_pylist([why | counts, vars(RULE)], schema=RULES.schema()), folder.rules)
    assert read_rules(folder)[1] == RULE
    texts = explanations(folder)
    assert "Rule for where it fires: undetermined: fires in 2 documents." in texts[0]
    assert "token in {“ food”}, AUROC 0.94" in texts[1]
    folder.rules.write_bytes(b"PAR1")
    with pytest.raises(FormatError, match=r"rules\.parquet: not a readable Parquet file"):
        write_features(folder, read_features(folder))


def test_a_run_without_tokens_says_that_it_has_no_rule() -> None:
    row = {"label": "new", "template_share": None, "q_value": 0.01, "seed_stability": 1.0}
    assert caveat_sentence(row, without_tokens=False) == ""
    assert "because the activations came without tokens" in caveat_sentence(row, without_tokens=True)


def test_an_analysis_of_an_earlier_release_is_named(tmp_path: Path) -> None:
    folder = run(tmp_path)
    pd.read_parquet(folder.features).drop(columns="observation").to_parquet(folder.features)
    with pytest.raises(FormatError, match="no column observation; run crosscoder analyze again"):
        write_features(folder, read_features(folder))
