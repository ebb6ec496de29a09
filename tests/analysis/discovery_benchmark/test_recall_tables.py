"""The tables count what was found and what was not."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.discovery_benchmark.finding_scores import Scored
from analysis.discovery_benchmark.recall_tables import markdown
from analysis.discovery_benchmark.search_benchmark import write_results
from crosscoder.errors import ConfigError, FormatError


def finding(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "direction": "gained", "effect": text, "trigger": "words", "words": ["rain"], "n": 9, "rate_reference": 0.0,
        "rate_intervened": 1.0, "q_value": 0.01, "marked": 1.0, "areas": {"": 0.97}, **fields,
    }  # fmt: skip


def result(name: str, behaviors: dict[str, dict[str, int | None]], **fields: Any) -> dict[str, Any]:
    return {
        "name": name, "description": "", "kind": "topic", "tuning": False, "valid": True, "settings": {"seed": 0}, "seconds": 90.0,
        "reference_seconds": 30.0, "answer_tokens": 1, "findings": [], "behaviors": behaviors, "prompts_that_show_it": 5, "hypotheses": 4, "findings_by_prompts": {"80": 0, "100": 1},
        "baselines": {"n-grams": None, "perplexity": 2, "KL": None}, **fields,
    }  # fmt: skip


def found(effect: int | None, both: int | None) -> dict[str, dict[str, int | None]]:
    return {"": {"effect": effect, "effect and trigger": both}}


def test_recall_counts_behaviors_in_the_first_three_findings_of_valid_pairs() -> None:
    text = markdown([
        result("one", found(1, 2), findings=[finding("no | never"), finding("no")], tuning=True),
        result("late", found(4, 4), findings=[finding("x")] * 4),
        result("never", found(None, None), kind="rare"),
        result("broken", found(1, 1), findings=[finding("y")], valid=False),
        result("two", {"a": found(1, 1)[""], "b": found(2, None)[""]}, kind="two",
               findings=[finding("a", areas={"a": 1.0, "b": 0.2}), finding("b", areas={"a": 0.1, "b": 0.6})]),
    ])  # fmt: skip
    assert "| all | 3 of 5 (" in text and "| 2 of 5 (" in text.splitlines()[4]
    assert "| without rare ones and backdoors | 3 of 4 (" in text
    assert "| kept out of tuning | 2 of 4 (" in text
    assert "| broken (not valid) | topic |" in text
    assert "| two, b | two | no | 5 | 2 | – | “b”, “rain” (0.60) | – | 2 | – | 2 | 2.0 |" in text
    assert "“no \\| never”, “rain” (0.97)" in text
    assert "without a behavior" not in text


def test_findings_of_empty_pairs_are_counted_and_quoted() -> None:
    text = markdown([result("empty", {}, kind="nothing"), result("noisy", {}, findings=[finding("a b")])])
    assert "Findings on the 2 pairs without a behavior: 1. A baseline proposes 3 on each." in text
    assert "| empty | no | 4 | 0 | – |" in text and "| noisy | no | 4 | 1 | “a b” |" in text
    assert "Recall" not in text
    assert "| 80 | 0 | 2 |\n| 100 | 2 | 2 |" in text


def test_a_finding_has_to_tell_the_words_and_the_prompts() -> None:
    right = Scored(0.5, {"a": 0.2, "b": 0.95})
    assert (right.part, right.tells_effect, right.tells_trigger) == ("b", True, True)
    assert not Scored(0.4, {"": 1.0}).tells_effect
    assert not Scored(1.0, {"": 0.89}).tells_trigger
    nothing = Scored(0.0, {})
    assert (nothing.part, nothing.tells_trigger) == (None, False)


def test_results_of_different_settings_are_not_mixed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        folder = tmp_path / "cases" / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result(name, found(1, 1), settings={"seed": seed})))
    with pytest.raises(ConfigError, match="a and b were searched with different settings"):
        write_results(tmp_path)
    (tmp_path / "cases" / "b" / "result.json").write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        write_results(tmp_path)
