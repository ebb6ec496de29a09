from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.change.subspaces import chance_cosine, find_subspaces

from .planted_changes import burst_directions, frame_of, random_units

WIDTHS = (48, 64, 256)


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_error(directions: Tensor, error: float, generator: torch.Generator) -> Tensor:
    """Directions that each training finds with an error of its own."""
    return normalize(
        directions + error * random_units(len(directions), generator, directions.shape[1]), dim=1
    )


def circle(plane: Tensor, count: int, generator: torch.Generator) -> Tensor:
    angle = 2 * torch.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], dim=1) @ plane


@pytest.mark.parametrize("d_model", WIDTHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_latents_that_tile_eight_dimensions_are_one_subspace_of_eight(d_model: int, seed: int) -> None:
    generator = generator_of(seed)
    basis = frame_of(8, generator, d_model)
    trainings = [burst_directions(basis, generator) for _ in range(3)]
    (found,) = find_subspaces(trainings, seed=seed)
    assert found.dimension == 8
    assert all(len(members) >= 15 for members in found.members)
    assert found.stability > 0.9 > 2 * found.chance
    assert found.p == pytest.approx(0.01)
    assert float(torch.linalg.svdvals(found.basis @ basis.T).min()) > 0.9
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(8, dtype=torch.float64))


@pytest.mark.parametrize("d_model", WIDTHS)
def test_axes_and_their_opposites_turned_in_every_training_are_one_subspace(d_model: int) -> None:
    """As trained dictionaries tile bursts: no two trainings have near directions, and all have the same span."""
    generator = generator_of(3)
    basis = frame_of(8, generator, d_model)
    trainings = []
    for _ in range(3):
        axes = frame_of(8, generator, 8) @ basis
        trainings.append(with_error(torch.cat([axes, -axes]), 0.05, generator))
    (found,) = find_subspaces(trainings)
    assert found.dimension == 8
    assert found.stability > 0.99


def test_a_circle_is_a_plane_though_some_of_its_latents_are_found_again() -> None:
    generator = generator_of(0)
    plane = frame_of(2, generator)
    trainings = [with_error(circle(plane, 12, generator), 0.1, generator) for _ in range(3)]
    (found,) = find_subspaces(trainings)
    assert found.dimension == 2
    assert [len(members) for members in found.members] == [12, 12, 12]


def test_a_subspace_a_circle_and_single_latents_are_told_apart() -> None:
    generator = generator_of(1)
    basis, plane = frame_of(8, generator), frame_of(2, generator)
    singles = random_units(6, generator)
    trainings = [
        torch.cat(
            [
                burst_directions(basis, generator),
                with_error(circle(plane, 8, generator), 0.1, generator),
                with_error(singles, 0.1, generator),
            ]
        )
        for _ in range(3)
    ]
    found = find_subspaces(trainings)
    assert [entry.dimension for entry in found] == [8, 2]
    assert set(found[0].members[0]) == set(range(16))
    assert set(found[1].members[0]) == set(range(16, 24))


def random_candidates(generator: torch.Generator) -> list[Tensor]:
    return [random_units(24, generator) for _ in range(3)]


def subspaces_of_their_own(generator: torch.Generator) -> list[Tensor]:
    """Every training tiles some subspace, each another one."""
    return [burst_directions(frame_of(8, generator), generator) for _ in range(3)]


def single_latents(generator: torch.Generator) -> list[Tensor]:
    singles = random_units(8, generator)
    return [with_error(singles, 0.2, generator) for _ in range(3)]


def near_latents(generator: torch.Generator) -> list[Tensor]:
    """Two latents at cosine 0.7, both found again by all."""
    axes = frame_of(2, generator)
    pair = torch.stack([axes[0], 0.7 * axes[0] + 0.51**0.5 * axes[1]])
    return [with_error(pair, 0.1, generator) for _ in range(3)]


def split_latent(generator: torch.Generator) -> list[Tensor]:
    """One direction, found as three latents that differ by errors."""
    direction = random_units(1, generator)
    return [with_error(direction.repeat(3, 1), 0.3, generator) for _ in range(3)]


def found_once_more(generator: torch.Generator) -> list[Tensor]:
    """Only one of two other trainings has the subspace."""
    basis = frame_of(8, generator)
    return [
        burst_directions(basis, generator),
        burst_directions(basis, generator),
        random_units(16, generator),
    ]


def without_candidates(generator: torch.Generator) -> list[Tensor]:
    basis = frame_of(8, generator)
    return [torch.zeros(0, 48, dtype=torch.float64), *(burst_directions(basis, generator) for _ in range(2))]


def without_directions(generator: torch.Generator) -> list[Tensor]:
    return [torch.zeros(5, 48, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize(
    "made",
    [
        random_candidates,
        subspaces_of_their_own,
        single_latents,
        near_latents,
        split_latent,
        found_once_more,
        without_candidates,
        without_directions,
    ],
)
def test_where_trainings_share_no_subspace_none_is_found(
    made: Callable[[torch.Generator], list[Tensor]],
) -> None:
    for seed in range(10):
        assert find_subspaces(made(generator_of(seed)), seed=seed) == []


def test_two_other_trainings_are_needed() -> None:
    generator = generator_of(0)
    basis = frame_of(8, generator)
    trainings = [burst_directions(basis, generator) for _ in range(2)]
    assert find_subspaces(trainings) == []
    assert len(find_subspaces(trainings, needed=1)) == 1


def test_the_order_and_sign_of_latents_do_not_matter() -> None:
    generator = generator_of(2)
    basis = frame_of(8, generator)
    trainings = [burst_directions(basis, generator) for _ in range(3)]
    order = torch.randperm(16, generator=generator)
    sign = torch.randint(0, 2, (16, 1), generator=generator) * 2 - 1
    (plain,), (other,) = (
        find_subspaces(trainings),
        find_subspaces([trainings[0][order] * sign, *trainings[1:]]),
    )
    assert plain.dimension == other.dimension
    assert plain.cosines == pytest.approx(other.cosines)


def test_chance_is_that_of_random_subspaces() -> None:
    """For one dimension, E|cosine| of random directions in d dimensions is about √(2 / (π d))."""
    assert chance_cosine(1, 100, seed=0, draws=400) == pytest.approx(np.sqrt(2 / np.pi / 100), rel=0.15)
    assert chance_cosine(10, 10, seed=0) == pytest.approx(1)
