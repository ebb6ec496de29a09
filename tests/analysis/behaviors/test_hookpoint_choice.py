"""The layer that a run chooses is the earliest one that carries what changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from analysis.behaviors.hookpoint_choice import choose_layer
from analysis.discovery.findings_file import write_discovery
from analysis.stages import settle_hookpoint
from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import dump_config
from crosscoder.errors import ConfigError, PairError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from tests.analysis.discovery_records import finding, record
from tests.tiny_pairs import WORDS, run_config, save_gpt2, save_llama


def behavior(**fields: Any) -> Behavior:
    prompts = [f"{one} {other}" for one in WORDS[:4] for other in WORDS[4:10]]
    metric = {"kind": "continuation", "texts": ["amber"], "against": ["birch"]}
    return Behavior.model_validate({"name": "planted", "prompts": prompts, "metric": metric, **fields})


def open_config(folder: Path, changed_layer: int, n_layers: int = 4) -> RunConfig:
    """A pair whose models differ in one layer, and whose hookpoint is open."""
    reference = save_llama(folder / "reference", n_layers=n_layers)
    other = save_llama(folder / "other", seed=7, n_layers=n_layers)
    model, donor = (AutoModelForCausalLM.from_pretrained(path) for path in (reference, other))
    model.model.layers[changed_layer].load_state_dict(donor.model.layers[changed_layer].state_dict())
    intervened = save_llama(folder / "intervened", n_layers=n_layers)
    model.save_pretrained(intervened)
    config = run_config(folder, reference, intervened)
    assert config.pair is not None
    return config.model_copy(update={"pair": config.pair.model_copy(update={"hookpoint": None})})


def opened(config: RunConfig) -> ModelPair:
    assert config.pair is not None
    return load_pair(config.pair, middle_if_open=True)


@pytest.mark.parametrize("changed_layer", [0, 1, 2, 3])
def test_the_layer_that_changed_is_chosen(changed_layer: int, tmp_path: Path) -> None:
    """Above it the change is present, too, and below it nothing is."""
    config = open_config(tmp_path, changed_layer)
    choice = choose_layer(opened(config), behavior(), config.tokens)
    assert choice.hookpoint == f"model.layers.{changed_layer}"
    assert "at least 80% of the shift of planted is present: 100.0%" in choice.why
    assert choice.layers is not None
    shares = [entry["represented"]["value"] for entry in choice.layers]
    assert shares == pytest.approx([0.0] * changed_layer + [1.0] * (4 - changed_layer), abs=1e-3)


@pytest.mark.parametrize("n_layers", [3, 4])
def test_without_a_behavior_it_is_two_thirds_of_the_depth(n_layers: int, tmp_path: Path) -> None:
    config = open_config(tmp_path, 0, n_layers)
    choice = choose_layer(opened(config), None, config.tokens)
    assert (choice.hookpoint, choice.layers) == ("model.layers.2", None)
    assert choice.why.startswith("two thirds of the depth, a rule of thumb: no behavior was found")


def test_a_behavior_without_a_gradient_decides_nothing(tmp_path: Path) -> None:
    config = open_config(tmp_path, 0)
    pattern = behavior(metric={"kind": "pattern", "pattern": "amber"})
    assert (
        "no behavior was found that a gradient can explain"
        in choose_layer(opened(config), pattern, config.tokens).why
    )


def test_the_run_keeps_what_it_chose(tmp_path: Path) -> None:
    config = open_config(tmp_path, 1)
    folder = RunFolder.create(config.output, config)
    (folder.discovery / "behaviors").mkdir(parents=True)
    (folder.discovery / "behaviors" / "found.yaml").write_text(dump_config(behavior()), encoding="utf-8")
    write_findings(folder, "discovery/behaviors/found.yaml")
    settled = settle_hookpoint(folder, config)
    stored = folder.read_config()
    assert settled.pair is not None and stored.pair is not None
    assert settled.pair.hookpoint == stored.pair.hookpoint == "model.layers.1"
    assert "model.layers.1" in json.loads(folder.manifest.read_text())["stages"]["hookpoint"]["hookpoint"]

    # The same settings, still open, stand for what was chosen; another layer needs another folder.
    again = RunFolder.create(config.output, config).read_config()
    assert again.pair == stored.pair
    assert settle_hookpoint(folder, again) == again
    other = config.model_copy(update={"pair": stored.pair.model_copy(update={"hookpoint": "model.layers.2"})})
    with pytest.raises(
        ConfigError, match=r"pair\.hookpoint: the run in .* has 'model\.layers\.1', but 'model\.layers\.2'"
    ):
        RunFolder.create(config.output, other)


def test_a_search_does_not_fix_a_hookpoint_that_is_open(tmp_path: Path) -> None:
    config = open_config(tmp_path, 1)
    folder = RunFolder.create(config.output, config)
    write_findings(folder, None)
    assert config.pair is not None
    named = config.model_copy(update={"pair": config.pair.model_copy(update={"hookpoint": "model.layers.3"})})
    stored = RunFolder.create(config.output, named).read_config()
    assert stored.pair is not None and stored.pair.hookpoint == "model.layers.3"


def test_an_open_hookpoint_is_told_where_it_has_to_be_known(tmp_path: Path) -> None:
    config = open_config(tmp_path, 1)
    assert config.pair is not None
    with pytest.raises(
        ConfigError,
        match=r"pair\.hookpoint: left open \(null\) and not chosen yet; `crosscoder run` chooses it",
    ):
        load_pair(config.pair)
    with pytest.raises(ValueError, match="intervened_hookpoint is given, but hookpoint is not"):
        type(config.pair).model_validate(
            config.pair.model_dump() | {"intervened_hookpoint": "model.layers.1"}
        )


@pytest.mark.parametrize("other", ["deeper", "another architecture"])
def test_layers_that_do_not_correspond_have_to_be_named(other: str, tmp_path: Path) -> None:
    reference = save_llama(tmp_path / "reference")
    intervened = (
        save_llama(tmp_path / "deeper", n_layers=4) if other == "deeper" else save_gpt2(tmp_path / "gpt2")
    )
    config = run_config(tmp_path, reference, intervened)
    assert config.pair is not None
    with pytest.raises(
        PairError,
        match=r"pair\.hookpoint: left open .* no decoder layers that correspond \(3 at model\.layers and ",
    ):
        load_pair(config.pair.model_copy(update={"hookpoint": None}), middle_if_open=True)


def write_findings(folder: RunFolder, behavior_file: str | None) -> None:
    """Write a record with one finding."""
    folder.discovery.mkdir(parents=True, exist_ok=True)
    write_discovery(folder.findings, record(finding(behavior=behavior_file)))
