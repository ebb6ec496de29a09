"""End to end: a planted difference is found, and nothing is found without one."""

import json
from pathlib import Path

import pytest
import torch

from crosscoder.planted import PlantedPair

from .story import N_TOKENS, run_story

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_features_are_found_and_labeled(tmp_path: Path, seed: int) -> None:
    """64 shared, 8 rotated, 8 rescaled, 8 new and 8 lost features; the command must distinguish them."""
    # Other trainings have to find the claims again in one of the three, which takes three times as long.
    story = run_story(PlantedPair(seed), tmp_path, seed, repeated=seed == 0)
    assert story.f1("new") >= 0.95
    assert story.f1("lost") >= 0.95
    assert story.f1("rotated") >= 0.8
    assert story.planted("shared") <= story.found("shared") | story.found("undetermined")


def test_swapped_models_swap_the_labels(tmp_path: Path) -> None:
    """Swapping the files swaps the sets of new and lost features exactly."""
    pair = PlantedPair(0)
    values = pair.sample(N_TOKENS, seed=1)
    swapped = torch.cat([values[:, pair.d_model :], values[:, : pair.d_model]], dim=1)
    forth = run_story(pair, tmp_path / "forth", repeated=False)
    back = run_story(pair.swapped(), tmp_path / "back", values=swapped, repeated=False)
    assert forth.found("new") == back.found("lost") != set()
    assert forth.found("lost") == back.found("new") != set()


@pytest.mark.parametrize("drift", ["none", "noise"])
def test_nothing_is_found_where_nothing_was_planted(tmp_path: Path, drift: str) -> None:
    """An identity pair and a pair that differs only in noise have no new and no lost latents."""
    pair = PlantedPair(0).null()
    values = pair.sample(N_TOKENS, seed=1)
    if drift == "none":
        values = values[:, : pair.d_model].repeat(1, 2)
    # Even without other trainings that have to find a claim again.
    story = run_story(pair, tmp_path, values=values, repeated=False)
    counts = story.features.label.value_counts()
    assert counts.get("new", 0) == counts.get("lost", 0) == 0
    assert counts.get("shared", 0) >= 80


def test_the_null_of_a_run_supports_its_labels(tmp_path: Path) -> None:
    """The null differs as much as the pair, but none of its latents explains as much where it fires as the new and lost latents do,
    so the labels of the pair have low q-values."""
    story = run_story(PlantedPair(0), tmp_path, drift=True, repeated=False)
    summary = json.loads((story.folder / "analysis" / "summary.json").read_text(encoding="utf-8"))
    assert {null["name"] for null in summary["controls"]["nulls"]} >= {"drift"}
    for null in summary["controls"]["nulls"]:
        assert null["alive"] >= 64
        assert null["fve"]["reference"] > 0.7
    for label in ("new", "lost"):
        assert story.f1(label) >= 0.95
        assert summary["counts"][label]["expected_false"] <= 1
        assert (story.features.q_value[story.features.label == label] <= 0.05).all()
    assert (story.features.q_value[story.features.label == "shared"] > 0.05).all()
