from pathlib import Path
from typing import Any

import pytest
import torch

from crosscoder.config.load import with_overrides
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError
from tests.training.in_memory import planted_source, run_config, source_of
from training.bench import dictionary_stability
from training.bench.dictionary_stability import (
    Stability,
    directions,
    firing_shares,
    measure_stability,
    nearest_cosines,
    stability_benchmark,
)
from training.bench.settings import BenchConfig


def test_the_nearest_row_is_found_whatever_its_order_and_length() -> None:
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    shuffled = 3 * rows[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    rotated = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2))).Q
    cosines = nearest_cosines(rows, [shuffled, -rows, rows @ rotated])
    torch.testing.assert_close(cosines[0], torch.ones(20))
    assert cosines.shape == (3, 20)
    assert float(cosines[1].max()) < 1
    # An opposite direction does not count as found.
    assert float(nearest_cosines(rows[:1], [-rows[:1]])) == pytest.approx(-1)


def test_settings_without_a_k_are_refused(tmp_path: Path) -> None:
    config = with_overrides(run_config(tmp_path), ["crosscoder.sparsity={kind: batch_topk}"])
    with pytest.raises(ConfigError, match=r"leaves crosscoder\.sparsity\.k open"):
        measure_stability("as is", config, planted_source(), tmp_path)


def test_the_command_compares_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def measure(recipe: str, config: object, source: object, output: Path) -> Stability:
        seen.append((recipe, config))
        evaluation = dict.fromkeys(("reference", "intervened"), 0.5)
        named = {f"metrics/explained_variance/{name}": value for name, value in evaluation.items()}
        return Stability(
            recipe, 3, 2 / 3, 1.0, named | {"diff/explained_variance": None, "metrics/held_out_l0": 4.0}
        )

    monkeypatch.setattr(dictionary_stability, "measure_stability", measure)
    recipes = ["", "crosscoder.sparsity.k=3 training.lr=0.25"]
    settings = BenchConfig.model_validate({"stability": {"recipes": recipes, "planted_tokens": 200}})
    table = stability_benchmark(settings.stability, seed=0)
    assert [recipe for recipe, _ in seen] == recipes
    assert seen[1][1].training.lr == 0.25
    assert table.rows[0] == ("as is", "3", "66.7 %", "100.0 %", "50.0 %", "50.0 %", "–", "4.0")


@pytest.mark.slow
def test_planted_features_are_found_again_and_noise_is_not(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "sparsity": {"kind": "batch_topk", "k": 5},
        "n_latents": 96,
        "batch": 128,
        "lr": 5e-3,
        "steps": 2000,
    }
    quiet: dict[str, Any] = {"evaluate_every": 10_000, "checkpoint_every": 10_000, "log_every": 10_000}
    planted = measure_stability(
        "planted",
        run_config(tmp_path / "a", **settings, **quiet),
        planted_source(30_000),
        tmp_path / "planted",
    )
    assert planted.n_counted > 60
    assert planted.same > 0.75
    # Gaussian noise of the same covariance in both models: a dictionary explains it, and no direction stands out.
    noise = torch.randn(31_500, 48, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    noise = noise + 0.3 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    source = source_of(noise[:30_000], noise[30_000:], (48, 48))
    found = measure_stability(
        "noise", run_config(tmp_path / "b", **settings, **quiet), source, tmp_path / "noise"
    )
    assert found.same < 0.1
    whole = load_crosscoder(tmp_path / "noise" / "whole" / "crosscoder")
    assert float(firing_shares(whole, source).sum()) == pytest.approx(5, rel=0.1)
    assert directions(whole).shape == (96, 96)
