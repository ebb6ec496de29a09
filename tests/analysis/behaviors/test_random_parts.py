"""Random latents are alike in frequency and norm, have the norm of the claim, include the named ones, and are never the claim itself."""

import numpy as np
import torch

from analysis.behaviors.activations import LatentSizes
from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.random_parts import RandomParts, latent_mask

from .made_up_shares import MadeUpShares


class Sized(MadeUpShares):
    """Latents of given norms and numbers of firings."""

    def __init__(self, norms: np.ndarray, firings: np.ndarray) -> None:
        super().__init__(np.zeros((2, 3, len(norms))), norms.astype(np.float64))
        self._firings = firings

    def latent_sizes(self) -> LatentSizes:
        return LatentSizes(torch.from_numpy(self._norms).float(), torch.from_numpy(self._firings))


def latents_of(part: Part) -> set[int]:
    assert part.latents is not None
    return set(part.latents.nonzero()[:, 0].tolist())


def test_sets_have_the_norm_are_distinct_and_hold_named_latents_too() -> None:
    activations = Sized(np.linspace(1, 2, 200), np.arange(1, 201))
    claim, contribution = [100, 101, 102, 103, 104], np.full(200, 0.1)
    sets = RandomParts(activations, 0).sets(claim, contribution, 7.0, 100)
    drawn = [latents_of(part) for part in sets]
    assert len(drawn) == 100 == len({frozenset(latents) for latents in drawn})
    assert all(len(latents) == 5 for latents in drawn)
    assert all(abs(activations.norm(part) - 7) < 1e-9 for part in sets)
    assert set(claim) not in drawn and any(latents & set(claim) for latents in drawn)
    again = RandomParts(activations, 0).sets(claim, contribution, 7.0, 100)
    assert [latents_of(part) for part in again] == drawn
    assert [
        latents_of(part) for part in RandomParts(activations, 1).sets(claim, contribution, 7.0, 100)
    ] != drawn


def test_latents_are_alike_in_frequency_and_norm() -> None:
    """Two hundred latents are rare and small, a hundred frequent and large; the claim is of the second kind."""
    large = np.arange(300) >= 200
    noise = np.random.default_rng(0).uniform(1, 1.1, 300)
    activations = Sized(np.where(large, 100.0, 1.0) * noise, np.where(large, 500, 5))
    random = RandomParts(activations, 0)
    contribution = np.full(300, 0.1)
    for part in random.sets([250, 251], contribution, 1.0, 30):
        assert all(large[latent] for latent in latents_of(part))
    alike = random.alike([250, 251], 50)
    assert set(alike[:2]) == {250, 251} and len(set(alike)) == 50 and large[alike].all()


def test_a_draw_that_holds_most_of_the_claim_is_left_out() -> None:
    activations = Sized(np.ones(60), np.full(60, 9))
    contribution = np.zeros(60)
    contribution[:3] = 0.8, 0.1, 0.1
    drawn = [latents_of(part) for part in RandomParts(activations, 0).sets([0, 1, 2], contribution, 1.0, 200)]
    assert not any(0 in latents for latents in drawn)
    assert any(1 in latents for latents in drawn)


def test_too_few_latents_give_fewer_draws_and_no_repeats() -> None:
    activations = Sized(np.array([1.0, 1, 1, 1, 0]), np.array([3, 3, 3, 3, 0]))
    random = RandomParts(activations, 0)
    sets = random.sets([0, 1], np.array([0.4, 0.4, 0.1, 0.1, 0]), 1.0, 200)
    # Of the six pairs of latents that fire, one is the claim and four hold half of it or more.
    assert [latents_of(part) for part in sets] == [{2, 3}]
    assert not random.sets([0, 1, 2, 3, 4], np.ones(5), 1.0, 200) and not random.sets(
        [], np.ones(5), 1.0, 200
    )
    assert random.alike([0], 200) == [0, 1, 2, 3]
    assert random.scaled_to([4], 1.0) is None
    assert latent_mask([1], 3).tolist() == [False, True, False]
