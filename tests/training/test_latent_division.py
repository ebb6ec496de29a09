"""Trainings whose latents are divided over ranks, compared with one process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosscoder.dictionary.storage import load_crosscoder, save_crosscoder
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder
from tests.groups import Group
from tests.training.divided_runs import Outcome, divided, measured_costs, stopped, train, train_cases
from tests.training.in_memory import DisturbedSource, make_trainer, planted_source, run_config
from tests.training.test_trainer import EARLY_DEATH, KINDS, press_ctrl_c
from training.checkpoints import checkpoints, load_checkpoint
from training.memory import training_memory
from training.rank_plan import step_traffic

pytestmark = pytest.mark.slow

SMALL = {"n_latents": 33}

COUNTS = "diff/relative_norm_counts"

CASES: dict[str, dict[str, Any]] = {
    "batch_topk": {},
    "batch_topk, AuxK": {"n_latents": 129, **EARLY_DEATH},
    "topk, AuxK": {"n_latents": 129, "sparsity": KINDS["topk"], **EARLY_DEATH},
    "dense": {"step": "dense"},
    "relu": {"sparsity": KINDS["relu"]},
    "jumprelu": {"sparsity": KINDS["jumprelu"]},
    "nested": {"crosscoder": {"nested": (0.1, 0.6)}},
    "exclusive and tied": {"crosscoder": {"exclusive": 0.2, "tied": 0.3}},
    "pooled": {"reads": "pooled"},
    "difference": {"reads": "difference"},
    "again": {"n_latents": 129, **EARLY_DEATH},
}
CASES = {name: {**SMALL, "steps": 12 if "k_anneal" in case else 6, **case} for name, case in CASES.items()}

LONG = {**SMALL, "steps": 100, "evaluate_every": 50, "checkpoint_every": 50}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("divided")


@pytest.fixture(scope="module")
def trained(two_ranks: Group, place: Path) -> dict[str, Outcome]:
    return two_ranks.run(train_cases, place, CASES)[0]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float((found[name] - value).norm() / value.norm().clamp_min(1e-12))
        assert error < tolerance, f"{name}: {error}"


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", [name for name in CASES if name != "again"])
def test_a_divided_training_is_that_of_one_process(
    trained: dict[str, Outcome], tmp_path: Path, name: str
) -> None:
    alone, found = train(divided(tmp_path, **CASES[name]), planted_source()), trained[name]
    assert_close(found["weights"], alone["weights"], 1e-4)
    assert len(found["lines"]) == len(alone["lines"])
    for line, expected in zip(found["lines"], alone["lines"], strict=True):
        assert line.get(COUNTS) == expected.get(COUNTS)
        assert _without_counts(line) == pytest.approx(_without_counts(expected), rel=1e-3, abs=1e-3)
    assert any("losses/auxk_loss" in line for line in found["lines"]) == ("AuxK" in name)
    assert found["measured"] == pytest.approx(alone["measured"], rel=1e-3)
    assert found["penalty"] == pytest.approx(alone["penalty"])


def _without_counts(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != COUNTS}


def test_two_divided_trainings_of_one_seed_are_bit_equal(trained: dict[str, Outcome]) -> None:
    first, second = trained["batch_topk, AuxK"], trained["again"]
    assert_equal(second["weights"], first["weights"])
    assert second["lines"] == first["lines"]
    assert second["sent"] == first["sent"] > 0


def test_the_dictionary_is_stored_as_one_process_stores_it(
    trained: dict[str, Outcome], place: Path, tmp_path: Path
) -> None:
    save_crosscoder(load_crosscoder(place / "exclusive and tied" / "crosscoder"), tmp_path)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (
            place / "exclusive and tied" / "crosscoder" / name
        ).read_bytes()


def test_constraints_hold_across_ranks(trained: dict[str, Outcome]) -> None:
    """33 latents: 7 of each model alone, then 10 tied, over ranks of 16 and 17."""
    W_dec = trained["exclusive and tied"]["weights"]["W_dec"].unflatten(1, (2, -1))
    assert not W_dec[:7, 1].any() and W_dec[:7, 0].any()
    assert not W_dec[7:14, 0].any() and W_dec[7:14, 1].any()
    assert torch.equal(W_dec[14:24, 0], W_dec[14:24, 1])
    assert not torch.equal(W_dec[24:, 0], W_dec[24:, 1])


def test_a_divided_training_begins_from_a_dictionary(
    two_ranks: Group, trained: dict[str, Outcome], place: Path, tmp_path: Path
) -> None:
    warm = {**SMALL, "steps": 4, "k_anneal": 0.0, "start_from": place / "batch_topk" / "crosscoder"}
    found = two_ranks.run(train_cases, tmp_path, {"warm": warm})[0]["warm"]
    alone = train(divided(tmp_path / "alone", **warm), planted_source())
    assert_close(found["weights"], alone["weights"], 1e-4)
    cold = train(divided(tmp_path / "cold", **{**warm, "start_from": None}), planted_source())
    with pytest.raises(AssertionError):
        assert_close(cold["weights"], alone["weights"], 1e-2)


# --- checkpoints ------------------------------------------------------------------------------------------------------


DIVIDED_STATE = ["state.1-of-2.safetensors", "state.2-of-2.safetensors", "state.json"]


def divisions_of(folder: Path) -> list[tuple[int, int]]:
    """Steps from which on so many ranks divided the latents, as the manifest says."""
    recorded = RunFolder(folder).read_manifest()["latent_shards"]["divisions"]
    return [(division["from_step"], division["ranks"]) for division in recorded]


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_rank_leaves_one_checkpoint_that_continues_bit_identically(
    two_ranks: Group, trained: dict[str, Outcome], tmp_path: Path, rank: int
) -> None:
    settings = CASES["batch_topk, AuxK"]
    assert two_ranks.run(stopped, tmp_path, 5, rank, settings) == ["interrupted"] * 2
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    assert newest.name == "step_00000006"
    assert sorted(path.name for path in newest.iterdir()) == DIVIDED_STATE
    resumed = two_ranks.run(train_cases, tmp_path.parent, {tmp_path.name: settings})[0][tmp_path.name]
    assert_equal(resumed["weights"], trained["batch_topk, AuxK"]["weights"])
    assert resumed["lines"] == trained["batch_topk, AuxK"]["lines"]
    assert divisions_of(tmp_path) == [(0, 2)]


def test_a_training_continues_on_another_number_of_ranks(
    two_ranks: Group, trained: dict[str, Outcome], tmp_path: Path
) -> None:
    """From two to one and back to two; up to rounding, the result is that of two all along."""
    settings = CASES["batch_topk, AuxK"]
    two_ranks.run(stopped, tmp_path, 2, 0, settings)
    alone = divided(tmp_path, **settings)
    assert alone.training.latent_shards == 1
    with pytest.raises(KeyboardInterrupt):
        train(alone, DisturbedSource(planted_source(), 3, press_ctrl_c))
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    assert sorted(path.name for path in newest.iterdir()) == ["state.json", "state.safetensors"]
    assert json.loads((newest / "state.json").read_text())["divisions"] == [[0, 2], [3, 1]]
    found = two_ranks.run(train_cases, tmp_path.parent, {tmp_path.name: settings})[0][tmp_path.name]
    assert_close(found["weights"], trained["batch_topk, AuxK"]["weights"], 1e-4)
    assert [line["step"] for line in found["lines"]] == list(range(1, 13))
    assert divisions_of(tmp_path) == [(0, 2), (3, 1), (7, 2)]


@pytest.mark.parametrize("file", DIVIDED_STATE[:2])
def test_a_damaged_part_of_a_checkpoint_is_refused_by_name(
    trained: dict[str, Outcome], place: Path, tmp_path: Path, file: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(place / "relu", copy)
    damaged = checkpoints(copy / "checkpoints")[-1] / file
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    state = make_trainer(run_config(tmp_path / "fresh", **CASES["relu"])).state
    with pytest.raises(FormatError, match=f"{file}: does not match the digest in state.json"):
        load_checkpoint(damaged.parent, state)
    damaged.unlink()
    with pytest.raises(FormatError, match="not a complete checkpoint"):
        load_checkpoint(damaged.parent, state)


def test_a_checkpoint_of_ranks_loads_in_one_process(
    trained: dict[str, Outcome], place: Path, tmp_path: Path
) -> None:
    state = make_trainer(run_config(tmp_path, **CASES["relu"])).state
    load_checkpoint(checkpoints(place / "relu" / "checkpoints")[-1], state)
    weights = state.crosscoder.state_dict()
    assert_equal(dict(weights), trained["relu"]["weights"])
    assert state.tokens_since_fired.shape == (33,)
    for parameter in state.crosscoder.parameters():
        assert state.optimizer.state[parameter]["exp_avg"].shape == parameter.shape


def test_the_checkpoint_of_another_number_of_latents_is_refused(
    trained: dict[str, Outcome], place: Path, tmp_path: Path
) -> None:
    state = make_trainer(run_config(tmp_path, n_latents=32)).state
    with pytest.raises(FormatError, match=r"belongs to another dictionary .* use a new run folder"):
        load_checkpoint(checkpoints(place / "batch_topk" / "checkpoints")[-1], state)


# --- cost -------------------------------------------------------------------------------------------------------------


PLANNED: dict[str, dict[str, Any]] = {
    "batch_topk": {},
    "nested": {"crosscoder": {"nested": (0.1, 0.6)}},
    "topk": {"sparsity": KINDS["topk"]},
    "relu": {"sparsity": KINDS["relu"]},
    "jumprelu": {"sparsity": KINDS["jumprelu"]},
    "pooled": {"reads": "pooled"},
    "dead": {"n_latents": 129, "auxiliary": {"k": 128, "dead_after_tokens": 63}, "k_anneal": 0.0},
    "no AuxK": {"auxiliary": {"coefficient": 0.0, "k": 8, "dead_after_tokens": 200_000}},
}


@pytest.fixture(scope="module")
def costs(two_ranks: Group, place: Path) -> list[dict[str, Any]]:
    return two_ranks.run(measured_costs, place, PLANNED)


@pytest.mark.parametrize("name", PLANNED)
def test_each_rank_sends_what_the_plan_says(costs: list[dict[str, Any]], name: str) -> None:
    settings = {**SMALL, **PLANNED[name]}
    config = divided(Path("run"), **settings)
    config = config.model_copy(update={"training": config.training.model_copy(update={"latent_shards": 2})})
    traffic = step_traffic(config, (48, 48), dead=name == "dead")
    for cost in costs:
        assert cost[name]["sent"] == sum(traffic.sent.values())
        assert cost[name]["calls"] == traffic.calls
    reconstruction = 64 * 96 * 4  # of pooled models: twice the rows, half as wide
    assert traffic.sent["reconstruction"] == reconstruction * (3 if name == "nested" else 1)


@pytest.mark.parametrize("name", ["batch_topk", "relu", "jumprelu"])
def test_each_rank_holds_what_the_plan_says(costs: list[dict[str, Any]], name: str) -> None:
    config = run_config(Path("run"), latent_shards=2, **{**SMALL, **PLANNED[name]})
    planned = training_memory(config, (48, 48), 0, 1000, 1500).parts
    for cost in costs:
        assert cost[name]["held"] == pytest.approx(
            planned["weights"] + planned["gradients and moments"], rel=0.2
        )
    alone = run_config(Path("run"), **{**SMALL, **PLANNED[name]})
    whole = training_memory(alone, (48, 48), 0, 1000, 1500).parts
    assert costs[0][name]["held"] < 0.6 * (whole["weights"] + whole["gradients and moments"]), "the control"


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_another_number_of_processes_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"training\.latent_shards: 3 processes .* one process is at work; start 3"
    ) as caught:
        make_trainer(run_config(tmp_path, latent_shards=3))
    assert "\n" not in str(caught.value)


def test_a_hundred_steps_stay_within_tolerance(two_ranks: Group, tmp_path: Path) -> None:
    found = two_ranks.run(train_cases, tmp_path, {"long": LONG})[0]["long"]
    alone = train(divided(tmp_path / "alone", **LONG), planted_source())
    assert_close(found["weights"], alone["weights"], 1e-3)
