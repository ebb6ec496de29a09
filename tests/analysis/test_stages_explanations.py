"""Explanations after each stage: `analyze` states the rules, `attribute` adds the evidence from behaviors."""

from pathlib import Path
from typing import Any

import pytest

from analysis import stages
from analysis.explanations.explanation_files import read_rules
from crosscoder.config.behavior import Behavior
from crosscoder.errors import FormatError, PairError
from crosscoder.planted import SMALL, PlantedPair
from tests.analysis.page_views import read_table
from tests.analysis.pair_run import make_pair_run
from tests.analysis.test_stages import make_run
from tests.tiny_pairs import WORDS, save_adapter, save_llama

BEHAVIOR = Behavior.model_validate(
    {
        "name": "drift", "prompts": [f"{one} {other}" for one in WORDS[:6] for other in WORDS[4:10]],
        "shift": {"unseen": 0.25},
        "metric": {"kind": "divergence"}, "checks": {"latents": 3, "counts": [1], "draws": 19, "doses": [1.0]},
        "attribution": {"layers": False, "steps": 1}, "elsewhere_limit": 2,
    }
)  # fmt: skip


def explanations(run: Any) -> list[str]:
    return read_table(run.features)["explanation"].tolist()


def test_attribute_adds_and_states_the_rules_of_the_latents_that_it_names(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    config, run = make_pair_run(
        tmp_path, "paired", {"adapter": str(save_adapter(base, tmp_path / "adapter"))}, base
    )
    alive = int((read_table(run.features)["n_tokens"] > 0).sum())
    assert len(read_rules(run)) == alive, "all of a small dictionary"
    few = config.analysis.firing_rule.model_copy(update={"latents": 3})
    config = config.model_copy(update={"analysis": config.analysis.model_copy(update={"firing_rule": few})})
    stages.analyze(run, config)
    assert len(read_rules(run)) == 3
    before = explanations(run)
    assert all("no behavior was attributed" in text for text in before if "Evidence:" in text)
    stages.attribute(run, config, BEHAVIOR)
    after = explanations(run)
    named = set(read_table(run.behaviors / "drift" / "attribution.parquet").query("rank < 3")["latent"])
    assert len(named) == 3 and named <= set(read_rules(run))
    for latent, text in enumerate(after):
        assert "no behavior was attributed" not in text
        if latent in named:
            assert "drift" in text.partition("Evidence:")[2] and "Rule for where it fires" in text
    stages.analyze(run, config)
    assert set(read_rules(run)) == named, "the latents that are named come first, and fill all places"
    table = read_table(run.features).drop(columns="observation")
    table.to_parquet(run.features)
    with pytest.raises(FormatError, match="no column observation"):
        stages.attribute(run, config, BEHAVIOR)


def test_a_run_from_files_has_no_rule_and_says_so(tmp_path: Path) -> None:
    pair = PlantedPair(counts=SMALL)
    folder, config = make_run(tmp_path / "files", pair.sample(4000), pair.dictionary())
    stages.analyze(folder, config)
    assert not folder.rules.exists()
    table = read_table(folder.features)
    claimed = table["label"].isin(["new", "lost", "rotated", "rescaled"])
    assert claimed.any()
    states_why = table["explanation"].str.contains(
        "no rule for where it fires, because the activations came without tokens"
    )
    assert states_why[claimed].all() and not states_why[~claimed].any()
    assert not table["observation"].str.contains("Evidence:").any()


def test_a_model_that_cannot_be_loaded_is_reported_before_the_long_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_llama(tmp_path / "base")
    config, run = make_pair_run(
        tmp_path, "paired", {"adapter": str(save_adapter(base, tmp_path / "adapter"))}, base
    )
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    monkeypatch.setattr(stages, "read_held_out", lambda *_: pytest.fail("the pass began"))
    with pytest.raises(PairError, match="adapter"):
        stages.analyze(run, config)
