from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis.change.block_shares import Share
from analysis.change.constant_offset import FOLDS
from analysis.change.linear_moments import LinearMomentSums
from analysis.change.low_rank_map import MIN_SHARE, LowRankMap, MapFit, MapScores, fit_map, judge_map

from .planted_changes import frame_of

WIDTH, TOKENS = 32, 8000
CPU = torch.device("cpu")
CLEAR = Share(0.5, 0.4, 0.6)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def fit_of(reference: Tensor, intervened: Tensor) -> MapFit:
    fold = torch.arange(len(reference)) // 20 % FOLDS
    sums = LinearMomentSums(1, reference.shape[1])
    middle, difference = (reference + intervened) / 2, intervened - reference
    sums.update(middle, difference, difference, fold, torch.zeros_like(fold))
    return fit_map(sums.result(), CPU)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_the_rank_and_both_spaces_of_a_planted_map_are_found(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    read, write = frame_of(rank, generator, WIDTH), frame_of(rank, generator, WIDTH)
    reference = normal(generator, TOKENS, WIDTH)
    intervened = reference + 0.5 * reference @ read.T @ write + 0.1 * normal(generator, TOKENS, WIDTH)
    fit = fit_of(reference, intervened)
    assert fit.rank == rank and fit.reason == ""
    assert fit.read is not None and fit.write is not None
    for found, planted in ((fit.read, read), (fit.write, write)):
        torch.testing.assert_close(found @ found.T, torch.eye(rank, dtype=torch.float64))
        assert float(torch.linalg.svdvals(found @ planted.T).min()) > 0.95


def one_sided_noise(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise of the intervened model in six dimensions, which the mean of both models holds too."""
    reference = normal(generator, TOKENS, WIDTH)
    return reference, reference + normal(generator, TOKENS, 6) @ frame_of(6, generator, WIDTH)


def independent_noise(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    signal = normal(generator, TOKENS, 8) @ frame_of(8, generator, WIDTH)
    one, other = (signal + 0.3 * normal(generator, TOKENS, WIDTH) for _ in range(2))
    return one, other


def new_and_lost(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """In the sum of a new and a lost feature, what only one model has cancels."""
    signal = normal(generator, TOKENS, WIDTH)
    fires = (torch.rand(TOKENS, 8, generator=generator) < 0.1).double()
    directions = frame_of(8, generator, WIDTH)
    return signal + fires[:, :4] @ directions[:4], signal + fires[:, 4:] @ directions[4:]


def explained_by(fit: MapFit, reference: Tensor, intervened: Tensor) -> float:
    """Share of the squared difference that the map of the first fold explains."""
    if not fit.folds:
        return 0.0
    fitted, difference = fit.folds[0], intervened - reference
    said = ((reference + intervened) / 2 - fitted.mean_x[0]) @ fitted.read @ fitted.write.T
    return float((said * difference).sum().abs() / difference.square().sum())


@pytest.mark.parametrize("made", [one_sided_noise, independent_noise, new_and_lost])
@pytest.mark.parametrize("swapped", [False, True])
def test_what_only_one_model_has_is_no_map(
    made: Callable[[torch.Generator], tuple[Tensor, Tensor]], swapped: bool
) -> None:
    for seed in range(3):
        models = made(torch.Generator().manual_seed(seed))
        fit = fit_of(*(models[::-1] if swapped else models))
        assert explained_by(fit, *models) < MIN_SHARE / 4
        if not fit.rank:
            assert "nothing on the others" in fit.reason


def test_a_gain_of_all_directions_is_linear_and_not_low_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = normal(generator, TOKENS, WIDTH)
    fit = fit_of(reference, 1.2 * reference)
    assert fit.folds == () and "not low rank" in fit.reason
    assert fit.gain.value == pytest.approx(0.2 / 1.1, rel=1e-6)


def test_identical_models_have_no_map() -> None:
    reference = normal(torch.Generator().manual_seed(0), TOKENS, WIDTH)
    assert fit_of(reference, reference).rank == 0


def judged(
    share: Share = CLEAR,
    latents: float = 0.05,
    paired: bool = True,
    sparse: float = 1.0,
) -> LowRankMap:
    """Judge a map of rank 2 by its scores on 2000 tokens."""
    generator = torch.Generator().manual_seed(0)
    fit = fit_of_rank_two(generator)
    scores = {}
    for fold in range(FOLDS):
        read = normal(generator, 500, 2) * (torch.rand(500, 1, generator=generator) < sparse)
        scores[fold] = MapScores(
            read, read + 0.5 * normal(generator, 500, 2) if paired else normal(generator, 500, 2)
        )
    latents_share = torch.full((10,), latents, dtype=torch.float64)
    return judge_map(fit, WIDTH, share, 1.0, latents_share, scores, seed=0)


def fit_of_rank_two(generator: torch.Generator) -> MapFit:
    reference = normal(generator, TOKENS, WIDTH)
    linear = 0.5 * frame_of(2, generator, WIDTH).T @ frame_of(2, generator, WIDTH)
    return fit_of(reference, reference + reference @ linear + 0.1 * normal(generator, TOKENS, WIDTH))


def test_a_map_is_established_by_evidence_only() -> None:
    found = judged()
    assert found.established
    assert found.p == pytest.approx(0.005)
    assert found.latents_share == pytest.approx(0.1)
    assert found.record()["established"] is True


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"paired": False}, "other documents"),
        ({"share": Share(0.5, None, None)}, "too few"),
        ({"share": Share(0.5, -0.1, 1.1)}, "other documents"),
        ({"share": Share(0.01, 0.009, 0.011)}, "less than 2%"),
        ({"latents": 0.2}, "as many latents"),
        ({"sparse": 0.01}, "few tokens"),
    ],
)
def test_every_condition_can_refuse_it(changed: dict[str, Any], reason: str) -> None:
    found = judged(**changed)
    assert not found.established
    assert reason in found.reason


def test_p_is_not_small_for_unrelated_scores() -> None:
    fit, values = fit_of_rank_two(torch.Generator().manual_seed(0)), []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        scores = {0: MapScores(normal(generator, 400, 3), normal(generator, 400, 3))}
        found = judge_map(fit, WIDTH, CLEAR, 1.0, torch.zeros(3).double(), scores, seed=seed)
        assert found.p is not None
        values.append(found.p)
    assert sum(p <= 0.05 for p in values) <= 8
    assert 0.3 < sum(values) / len(values) < 0.7
