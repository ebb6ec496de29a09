"""Latents that tile a subspace, told from features of their own."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.labels.rule import CLAIMED, LABELS
from analysis.labels.spans import span_residuals
from crosscoder.config import LabelRule

LIMIT = LabelRule().span_residual
WIDTH = 48


def residuals(rows: Tensor, label: str = "new") -> np.ndarray:
    labels = np.full(len(rows), LABELS.index(label))
    return span_residuals([rows], labels, [CLAIMED], same=0.8)


def in_subspace(count: int, dimension: int, noise: float = 0.1, seed: int = 0) -> Tensor:
    """Random directions of a subspace, with a share of noise as a training leaves it."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(WIDTH, dimension, generator=generator)).Q.T
    rows = normalize(torch.randn(count, dimension, generator=generator), dim=1) @ basis
    return rows + noise * normalize(torch.randn(count, WIDTH, generator=generator), dim=1)


@pytest.mark.parametrize(("count", "dimension"), [(16, 8), (8, 4), (6, 2)])
def test_latents_that_tile_a_subspace_lie_in_each_others_span(count: int, dimension: int) -> None:
    assert (residuals(in_subspace(count, dimension)) < LIMIT).all()


def test_two_opposite_directions_tile_a_line() -> None:
    line = in_subspace(1, 1, noise=0.0)
    assert (residuals(torch.cat([line, -line])) < LIMIT).all()


@pytest.mark.parametrize("count", [1, 2, 8, 24, 40])
def test_unrelated_directions_are_their_own(count: int) -> None:
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1))
    found = residuals(rows)
    assert (found > 2 * LIMIT).all()
    assert found.mean() == pytest.approx(1.0, abs=0.25), "a multiple of what unrelated directions leave"


def test_more_latents_than_dimensions_of_the_whole_space_are_no_subspace() -> None:
    """They span everything, as any directions would: that is no sign of a subspace."""
    rows = torch.randn(3 * WIDTH, WIDTH, generator=torch.Generator().manual_seed(2))
    assert (residuals(rows) >= 2 * LIMIT).all()


def test_a_feature_that_is_split_into_two_latents_is_no_subspace() -> None:
    rows = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(3))
    assert (residuals(torch.cat([rows, 1.01 * rows])) > 2 * LIMIT).all()


def test_a_feature_beside_a_subspace_is_told_from_it() -> None:
    feature = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(4))
    found = residuals(torch.cat([in_subspace(16, 6), feature]))
    assert (found[:16] < LIMIT).all() and found[16] > 2 * LIMIT


def test_latents_without_such_a_label_do_not_count() -> None:
    rows = in_subspace(8, 2)
    labels = np.array([LABELS.index("new")] + [LABELS.index("shared")] * 7)
    found = span_residuals([rows], labels, [CLAIMED], same=0.8)
    assert found[0] > 2 * LIMIT and np.isnan(found[1:]).all()


def test_directions_in_one_model_span_only_that_model() -> None:
    """New latents write into one model: as many of them as it has dimensions are no subspace of both."""
    rows = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(5))
    labels = np.full(40, LABELS.index("new"))
    found = span_residuals([0.01 * rows.flip(0), rows], labels, [CLAIMED], same=0.8)
    assert (found > LIMIT).all() and np.median(found) == pytest.approx(1.0, abs=0.3)
