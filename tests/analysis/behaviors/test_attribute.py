"""The verb `attribute`, from a finished run and a YAML file to the files of a behavior."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from analysis.behaviors.behavior_files import BehaviorFolder, load_behaviors
from analysis.behaviors.causal import CHECKS
from analysis.behaviors.multiple_testing import draws_for_benjamini_hochberg, draws_for_holm
from analysis.behaviors.named_latents import draws_of
from analysis.behaviors.prompts import split
from analysis.behaviors.shift_power import prompts_needed
from analysis.tables.columns import ATTRIBUTION, PROMPTS, TOKENS
from crosscoder.command.app import app
from crosscoder.config import BatchTopK, CrosscoderConfig, RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import load_config
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import tokenize
from tests.analysis.table_checks import described
from tests.tiny_pairs import WORDS, run_config, save_adapter, save_llama
from training.harvest import harvest

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs" / "behaviors").glob("*.yaml"))
DEMO = sorted((ROOT / "crosscoder" / "demo" / "behaviors").glob("*.yaml"))
SMALL = {"latents": 2, "counts": [1, 3], "draws": 39, "answer_draws": 1, "answer_counts": [3], "doses": [1.0]}

Attribute = Callable[..., BehaviorFolder]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_llama(folder / "llama", seed=0)
    save_llama(folder / "wide", seed=2, width=24)
    save_adapter(folder / "llama", folder / "adapter")
    return folder


def save_one_letter(base: Path, folder: Path, letter: str) -> tuple[Path, Tensor]:
    """Save the model with every token's embedding far along the output direction of one letter, so that it says nothing else.

    Returns:
        The folder, and what is added to the embeddings: `[d_model]`.
    """
    shutil.copytree(base, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    (token,) = AutoTokenizer.from_pretrained(folder)(letter, add_special_tokens=False).input_ids
    with torch.no_grad():
        added = 20 * model.lm_head.weight[token] / model.lm_head.weight[token].norm()
        model.model.embed_tokens.weight.add_(added)
    model.save_pretrained(folder)
    return folder, added


def make_run(
    folder: Path, config: RunConfig, widths: tuple[int, int] = (16, 16), added: Tensor | None = None
) -> RunFolder:
    """Create a run with a random dictionary, whose first latent adds `added` to the intervened model on every token."""
    torch.manual_seed(0)
    run = RunFolder.create(config.output, config)
    dictionary = Crosscoder(
        CrosscoderConfig(
            d_models=widths,
            model_names=("reference", "intervened"),
            n_latents=24,
            sparsity=BatchTopK(k=6),
        )
    )
    with torch.no_grad():
        dictionary.W_dec.add_(0.3 * torch.randn(dictionary.W_dec.shape))
        dictionary.sparsity.threshold.fill_(0.5)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        if added is not None:
            dictionary.W_enc[:, 0] = 0
            dictionary.b_enc[0] = 1
            dictionary.W_dec[0] = torch.cat([torch.zeros(widths[0]), added])
    save_crosscoder(dictionary, run.crosscoder, {"reads": "paired"})
    other = Crosscoder(dictionary.config)
    other.load_state_dict(dictionary.state_dict())
    for number in (1, 2):
        with torch.no_grad():
            other.W_dec.add_(0.01 * torch.randn(other.W_dec.shape))
        save_crosscoder(
            other, RunFolder(run.path / "controls" / f"seed_{number}").crosscoder, {"reads": "paired"}
        )
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": " ".join(WORDS[i : i + 5])}) + "\n" for i in range(8))
    )
    return run


@pytest.fixture
def run(models: Path, tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, run_config(tmp_path, models / "llama", {"adapter": str(models / "adapter")}))


@pytest.fixture
def attribute(run: RunFolder, tmp_path: Path) -> Attribute:
    """Runs the verb with the given settings."""

    def attribute(expected: int = 0, **settings: Any) -> BehaviorFolder:
        prompts = [f"{one} {other}" for one in WORDS[:5] for other in WORDS[5:10]]
        behavior = {
            "name": "mine", "prompts": prompts, "metric": {"kind": "log_odds", "tokens": ["a"]}, "checks": SMALL,
            "elsewhere": str(tmp_path / "texts.jsonl"),
            # Twelve claim prompts; by default no metric without bounds shifts with fewer than 29.
            "shift": {"unseen": 0.25},
        }  # fmt: skip
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(behavior | settings))
        code = app(["attribute", str(run.path), str(tmp_path / "mine.yaml")], standalone_mode=False)
        assert (code or 0) == expected
        place = BehaviorFolder(run.behaviors / "mine")
        assert_described(place)
        return place

    return attribute


def assert_described(place: BehaviorFolder) -> None:
    for path, table in ((place.latents, ATTRIBUTION), (place.prompts, PROMPTS), (place.tokens, TOKENS)):
        if path.exists():
            described(path, table)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", [*CONFIGS, *DEMO], ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    behavior = load_config(path, model=Behavior)
    assert behavior.name == path.stem
    assert isinstance(behavior.prompts, Path) and behavior.prompts.is_file()


@pytest.mark.parametrize("path", [*CONFIGS, *DEMO], ids=lambda path: path.stem)
def test_the_checks_of_every_config_can_be_made(path: Path) -> None:
    """Each has the prompts to establish a shift and the draws to check its set and all its latents, whatever the set shows."""
    behavior = load_config(path, model=Behavior)
    metric, checks, confidence = behavior.metric, behavior.checks, behavior.shift.confidence
    assert isinstance(behavior.prompts, Path)
    distinct = list(dict.fromkeys(behavior.prompts.read_text().splitlines()))
    n_prompts = min(len(distinct), behavior.limit or len(distinct))
    bounds = {"pattern": (0.0, 1.0), "callable": getattr(metric, "bounds", None)}.get(metric.kind)
    assert split(n_prompts, behavior.held_out, 0).sum() >= prompts_needed(behavior.shift, bounds)
    made = draws_of(behavior, generated=behavior.gradient_metric is None)
    for draws in (made.sets, made.against, checks.answer_draws):
        assert draws >= draws_for_holm(len(CHECKS), confidence)
    n_tests = len(CHECKS) * (checks.latents + 1)
    assert made.singles >= draws_for_benjamini_hochberg(n_tests, len(CHECKS), confidence)


def test_all_files_of_a_behavior_are_written_and_consistent(attribute: Attribute, run: RunFolder) -> None:
    place = attribute()
    shift, attribution, causal = (read(path) for path in (place.shift, place.attribution, place.causal))
    assert shift["shift"]["established"] and shift["explained"]
    assert shift["n_prompts"] == 25 and shift["n_held_out"] == len(pd.read_parquet(place.prompts))
    latents = pd.read_parquet(place.latents)
    assert latents.latent.tolist() == list(range(24))
    parts = attribution["held_out"]["parts"]
    assert latents.attribution_held_out.sum() == pytest.approx(parts["latents"]["value"]["value"])
    ranks = dict(zip(latents["rank"].tolist(), latents["latent"].tolist(), strict=True))
    named = [ranks[0], ranks[1]]
    assert named == causal["named"] == [entry["latent"] for entry in causal["latents"]]
    assert causal["unit"] == "nats" and causal["random"]["pool"] <= 24
    ends = attribution["held_out"]["cancellation"]
    assert sum(ends[end]["value"]["value"] for end in ("along", "against")) == pytest.approx(
        parts["latents"]["value"]["value"], rel=1e-4
    )
    tokens = pd.read_parquet(place.tokens)
    summed = tokens.groupby("latent").value.sum() / shift["n_held_out"]
    for latent in named:
        assert summed.get(latent, 0.0) == pytest.approx(latents.attribution_held_out[latent], abs=1e-5)
    (found,) = load_behaviors(run)
    assert found.name == "mine" and found.causal is not None
    assert run.read_manifest()["stages"]["attribute mine"]["finished"]


def test_the_set_check_is_repeated_with_other_trainings(attribute: Attribute) -> None:
    stability = read(attribute().causal)["stability"]
    assert [entry["training"] for entry in stability["each"]] == ["seed_1", "seed_2"]
    assert stability["made"] and stability["trainings"] == 3 and stability["unit"] == "nats"
    for entry in stability["each"]:
        assert len(entry["named"]) == 2 and all(again["found"] for again in entry["again"])
    off = read(attribute(checks=SMALL | {"replicas": False}).causal)["stability"]
    assert not off["made"] and "replicas" in off["why_not"]


def test_a_metric_of_answers_generates_answers(attribute: Attribute) -> None:
    place = attribute(
        metric={"kind": "pattern", "pattern": "e", "sampling": {"max_new_tokens": 2}},
        find_with={"kind": "continuation", "texts": [" elm"]},
    )
    prompts = pd.read_parquet(place.prompts)
    for side in ("reference", "intervened"):
        assert ((prompts[side] == 1) == prompts[f"{side}_answer"].str.contains("e", case=False)).all()
    shift = read(place.shift)
    assert shift["unit"] == "share of answers" and shift["stand_in"]["unit"] == "nats"


@pytest.mark.parametrize("planted", [True, False])
def test_the_named_latents_are_checked_on_generated_answers(
    models: Path, tmp_path: Path, planted: bool
) -> None:
    """Inserting what makes the intervened model say one letter makes the reference's activations say it; random latents do not."""
    intervened, added = save_one_letter(models / "llama", tmp_path / "says_k", "k")
    config = run_config(tmp_path, models / "llama", intervened)
    run = make_run(tmp_path, config, added=added if planted else None)
    behavior = {
        "name": "mine", "prompts": [f"{one} {other}" for one in WORDS[:5] for other in WORDS[5:10]],
        "metric": {"kind": "pattern", "pattern": "k", "sampling": {"max_new_tokens": 2}},
        "find_with": {"kind": "continuation", "texts": ["k"]}, "elsewhere": str(tmp_path / "texts.jsonl"),
        "checks": SMALL | {"answer_draws": 39, "replicas": False},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(behavior))
    app(["attribute", str(run.path), str(tmp_path / "mine.yaml")], standalone_mode=False)
    place = BehaviorFolder(run.behaviors / "mine")
    prompts, answers = pd.read_parquet(place.prompts), read(place.causal)["answers"]
    assert prompts.intervened_answer.eq("kk").all() and prompts.reference.mean() < 0.2
    assert answers["unit"] == "share of answers" and answers["n_prompts"] == len(prompts) == 12
    assert [point["n"] for point in answers["curve"]] == [3]
    assert all(check["made"] for check in answers["together"].values())
    sufficiency = answers["together"]["sufficiency"]
    assert answers["set_passed"] is sufficiency["passed"] is planted
    if planted:
        assert len(sufficiency["random"]) == 39 and sufficiency["value"] > 0.5 > sufficiency["random_largest"]


def test_a_model_against_itself_explains_nothing(
    models: Path, tmp_path: Path, attribute: Attribute, run: RunFolder
) -> None:
    """And files of an earlier attribution are removed."""
    attribute()
    config = run_config(tmp_path / "same", models / "llama", models / "llama")
    same = make_run(tmp_path, config)
    words = [str(same.path), str(tmp_path / "mine.yaml")]
    for settings in ([], ["metric.kind=perplexity"], ["metric.kind=divergence", "metric.places=all"]):
        app(["attribute", *words, *settings], standalone_mode=False)
        place = BehaviorFolder(same.behaviors / "mine")
        shift = read(place.shift)
        assert shift["shift"]["verdict"] == "no difference" and not shift["explained"]
        assert not place.causal.exists() and not place.attribution.exists()


def test_models_of_different_width_are_attributed_separately(models: Path, tmp_path: Path) -> None:
    config = run_config(tmp_path, models / "llama", models / "wide")
    run = make_run(tmp_path, config, (16, 24))
    harvested(run, config)
    behavior = {
        "name": "mine", "prompts": [f"{one} {other}" for one in WORDS[:5] for other in WORDS[5:10]],
        "metric": {"kind": "log_odds", "tokens": ["a"]}, "checks": SMALL,
        "elsewhere": str(tmp_path / "texts.jsonl"), "attribution": {"residual": 0.05}, "shift": {"confidence": 0.5},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(behavior))
    app(["attribute", str(run.path), str(tmp_path / "mine.yaml")], standalone_mode=False)
    (found,) = load_behaviors(run)
    assert found.shift["explained"] and found.attribution is not None and found.causal is not None
    parts = found.attribution["held_out"]
    assert parts["represented"] is parts["above"] is parts["interaction"] is parts["parts"]["bias"] is None
    pieces = [parts["parts"][name]["share"]["value"] for name in ("latents", "error", "left_out")]
    assert sum(pieces) + parts["baseline"]["share"]["value"] + parts["residual_share"] == pytest.approx(1)
    assert parts["parts"]["left_out"]["share"]["value"] == 0, (
        "with one tokenizer every token has a counterpart"
    )
    assert sum(found.shares.values()) == pytest.approx(pieces[0], abs=1e-5)
    assert found.causal["together"]["sufficiency"] is None
    assert found.causal["together"]["necessity"]["value"] is not None
    assert found.causal["stability"]["trainings"] == 3
    assert_described(BehaviorFolder(run.behaviors / "mine"))
    latents = pd.read_parquet(BehaviorFolder(run.behaviors / "mine").latents)
    within = latents.attribution_intervened - latents.attribution_reference
    assert within.tolist() == pytest.approx(latents.attribution_held_out.tolist())


def test_answers_of_models_of_different_width_are_measured_but_not_attributed(
    models: Path, tmp_path: Path
) -> None:
    """Without a gradient, latents cannot be found."""
    config = run_config(tmp_path, models / "llama", models / "wide")
    run = make_run(tmp_path, config, (16, 24))
    harvested(run, config)
    metric = {"kind": "pattern", "pattern": ".", "sampling": {"max_new_tokens": 3}}
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {"name": "mine", "prompts": WORDS, "metric": metric, "elsewhere": str(tmp_path / "texts.jsonl")}
        )
    )
    app(["attribute", str(run.path), str(tmp_path / "mine.yaml")], standalone_mode=False)
    (found,) = load_behaviors(run)
    assert found.causal is None
    if found.shift["shift"]["established"]:
        assert "share no space" in found.shift["why_not"] and "find_with" in found.shift["why_not"]


def harvested(run: RunFolder, config: RunConfig) -> None:
    """Harvest the activations of a run."""
    assert config.pair is not None and config.text is not None
    pair = load_pair(config.pair)
    documents = tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, 0, pair.readers)
    harvest(run, config, pair, documents)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": {"kind": "log_odds", "tokens": ["amber birch"]}}, "'amber birch' is 5 tokens"),
        ({"metric": {"kind": "continuation", "texts": [""]}}, "the continuation '' has no tokens"),
        ({"prompts": ["a", "a", "a", "b", "b"]}, "2 distinct prompts are too few"),
        ({"prompts": ["amber " * 100, "b", "c", "d"]}, "tokens, but the models read from 1 to 128"),
        ({"metric": {"kind": "pattern", "pattern": "("}}, "not a regular expression"),
        (
            {"metric": {"kind": "pattern", "pattern": "a", "sampling": {"samples": 3}}},
            "at temperature 0 all samples are equal",
        ),
        ({"find_with": {"kind": "perplexity"}}, "is differentiable"),
        ({"prompts": ["a", "b"]}, "too few to split"),
        ({"elsewhere": ["prose"]}, "does not exist; run the harvest first"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(
    attribute: Attribute, settings: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    attribute(expected=2, **settings)
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("crosscoder: ") and message in last


def test_a_run_without_models_is_refused(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "output": tmp_path / "run",
            "activations": {"kind": "files", "reference": "a.npy", "intervened": "b.npy"},
        }
    )
    RunFolder.create(config.output, config)
    from analysis.stages import attribute

    behavior = Behavior.model_validate(
        {"name": "b", "prompts": ["a", "b", "c", "d"], "metric": {"kind": "perplexity"}}
    )
    with pytest.raises(ConfigError, match="its activations came from files"):
        attribute(RunFolder.open(config.output), config, behavior)
