"""The smallest k that explains the difference, found by training one dictionary at descending k."""

import json
from pathlib import Path

import pytest
import torch

from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError
from crosscoder.planted import SMALL
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun
from tests.training.in_memory import make_trainer, planted_source, run_config, source_of
from training.sweep import FURTHER_SHARE, Point, choose, default_ks, elbow, smallest_k, sweep
from training.trainer import Trainer

KINDS = {"relu": {"kind": "relu", "target_l0": 4}, "jumprelu": {"kind": "jumprelu", "target_l0": 4}}


def test_the_elbow_is_where_explained_variance_levels_off() -> None:
    # Measured on planted pairs (rare regime, two seeds).
    assert elbow({3: 0.715, 4: 0.835, 5: 0.857, 6: 0.858, 8: 0.858, 12: 0.860}) == 5
    assert elbow({3: 0.722, 4: 0.822, 6: 0.877, 7: 0.881, 9: 0.881, 13: 0.883}) == 6
    assert elbow({4: 0.5}) == 4
    assert elbow({2: 0.4, 4: 0.6, 8: 0.5}) == 4, "far too many latents may explain less"
    assert elbow({2: 0.9, 4: 0.5, 8: 0.9}) == 8, "a lucky small k is not on the plateau"


def test_gains_from_fitting_noise_do_not_move_the_elbow() -> None:
    bent = {k: min(k, 4) / 5 for k in (1, 2, 3, 4, 5, 6, 8, 12, 16)}
    assert elbow(bent) == 4
    assert elbow({k: share + 0.0015 * k for k, share in bent.items()}) == 4
    assert elbow({k: share + 0.02 * k for k, share in bent.items()}) == 16, "too much to be noise"


def test_the_chosen_k_is_slightly_above_the_elbow() -> None:
    curve = {1: 0.5, 2: 0.7, 3: 0.8, 4: 0.9, 5: 0.9, 6: 0.9, 12: 0.9}
    assert elbow(curve) == 4
    assert smallest_k(curve) == 5
    assert smallest_k({4: 0.9, 5: 0.95, 6: 0.99}) == 6, "still rising: the largest is as far as one can see"


def test_default_ks_lie_around_the_configured_one() -> None:
    assert default_ks(32) == (16, 21, 26, 32, 40, 48, 64, 96)
    assert default_ks(1) == (1, 2, 3)


@pytest.mark.slow
def test_a_sweep_finds_the_elbow_of_a_planted_pair(tmp_path: Path) -> None:
    """1.2 of 20 features fire on a token: k = 2 explains as much as 6, k = 1 does not. So 3 is chosen."""
    config = run_config(
        tmp_path, steps=300, n_latents=48, batch=256, lr=5e-3, sparsity={"kind": "batch_topk", "k": 6}
    )
    folder = RunFolder.create(tmp_path, config)
    found = sweep(folder, config, planted_source(6000, counts=SMALL), (1, 2, 3, 6))
    assert [point.k for point in found.points] == [1, 2, 3, 6]
    assert (found.chosen.n_latents, found.chosen.k) == (48, 3)
    assert found.points[0].explained < found.points[1].explained - 0.05
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert record["chosen"] == {"n_latents": 48, "k": 3}
    assert [point["k"] for point in record["curve"]] == [1, 2, 3, 6]
    tokens = {
        k: RunFolder(tmp_path / "sweep" / "latents_48" / f"k_{k}").read_manifest()["stages"]["train"][
            "tokens"
        ]
        for k in (1, 6)
    }
    assert tokens[1] == pytest.approx(FURTHER_SHARE * tokens[6], rel=0.05)


def test_finished_points_are_not_trained_again(tmp_path: Path) -> None:
    config = run_config(tmp_path, sparsity={"kind": "topk", "k": 4})
    folder = RunFolder.create(tmp_path, config)
    first = sweep(folder, config, planted_source(), (2, 4))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    again = sweep(folder, config, planted_source(), (2, 4, 3))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert tuple(point for point in again.points if point.k != 3) == first.points
    assert [point.k for point in again.points] == [2, 3, 4]


def test_the_smallest_width_that_explains_as_much_is_chosen(tmp_path: Path) -> None:
    points = [
        Point(32, 2, 0.5),
        Point(32, 4, 0.6),
        Point(64, 2, 0.7),
        Point(64, 4, 0.8),
        Point(128, 4, 0.805),
    ]
    assert choose(points) == Point(64, 4, 0.8)
    config = run_config(tmp_path, sparsity={"kind": "topk", "k": 4})
    folder = RunFolder.create(tmp_path, config)
    found = sweep(folder, config, planted_source(), (2, 4), (24, 12))
    assert [(point.n_latents, point.k) for point in found.points] == [(12, 2), (12, 4), (24, 2), (24, 4)]
    for point in found.points:
        place = tmp_path / "sweep" / f"latents_{point.n_latents}" / f"k_{point.k}"
        assert load_crosscoder(place / "crosscoder").config.n_latents == point.n_latents
    with pytest.raises(ConfigError, match="k 20 is larger than the dictionary of 12 latents"):
        sweep(folder, config, planted_source(), (20,), (12, 24))


def test_training_begins_from_the_given_dictionary(tmp_path: Path) -> None:
    first = make_trainer(run_config(tmp_path / "first"))
    start = first.fit()
    config = run_config(tmp_path / "second", steps=1, lr=1e-12)
    folder = RunFolder.create(config.output, config)
    second = Trainer(config, planted_source(), folder, WandbRun(None), start=start).fit()
    torch.testing.assert_close(second.W_dec, start.W_dec)
    assert torch.equal(second.mean, start.mean)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_without_a_k_cannot_be_swept(tmp_path: Path, kind: str) -> None:
    config = run_config(tmp_path, sparsity=KINDS[kind])
    with pytest.raises(ConfigError, match=f"{kind} has no k to sweep over"):
        sweep(RunFolder.create(tmp_path, config), config, planted_source(), (2, 4))


def test_models_of_unequal_width_have_no_difference_to_explain(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    values = torch.randn(400, 13)
    with pytest.raises(ConfigError, match=r"models of widths \(5, 8\) have no difference"):
        sweep(RunFolder.create(tmp_path, config), config, source_of(values, values, (5, 8)), (2, 4))


def test_the_last_dictionary_loads_without_the_run(tmp_path: Path) -> None:
    config = run_config(tmp_path, sparsity={"kind": "batch_topk", "k": 4})
    sweep(RunFolder.create(tmp_path, config), config, planted_source(), (2, 4))
    sparsity = load_crosscoder(next(tmp_path.glob("sweep/*/k_2")) / "crosscoder").config.sparsity
    assert sparsity.k == 2  # pyright: ignore[reportAttributeAccessIssue]
