"""A ranking has two ends, and says how far contributions cancel."""

import numpy as np
import pytest

from analysis.behaviors.prompt_statistics import Resamples
from analysis.behaviors.ranking import Ranking, cancellation

N_PROMPTS = 20


def test_both_ends_are_ranked_by_size_and_leave_out_what_does_nothing() -> None:
    ranking = Ranking(np.array([0.1, -0.3, 0.0, 0.7, -0.2]))
    assert ranking.along == [3, 0] and ranking.against == [1, 4]


def test_cancelling_contributions_are_stated() -> None:
    latents = np.tile([7.39, -6.39, 0.0], (N_PROMPTS, 1)) + 1e-3 * np.random.default_rng(0).normal(
        size=(N_PROMPTS, 3)
    )
    total = latents.sum(axis=1)
    found = cancellation(latents, total, Ranking(np.array([7.4, -6.4, 0.0])), Resamples(N_PROMPTS, 0.95, 0))
    assert (
        found["along"]["share"]["value"] == pytest.approx(7.39, rel=0.01) and found["along"]["latents"] == 1
    )
    assert found["against"]["share"]["value"] == pytest.approx(-6.39, rel=0.01)
    assert found["ratio"] == pytest.approx(6.39 / 7.39, rel=1e-3)


def test_noise_does_not_cancel() -> None:
    """Its signs on the find set say nothing of those on the claim set: both sums are small, and none is large by selection."""
    generator = np.random.default_rng(0)
    latents = generator.normal(0, 1, (N_PROMPTS, 400))
    found = cancellation(
        latents,
        np.full(N_PROMPTS, 100.0),
        Ranking(generator.normal(0, 1, 400)),
        Resamples(N_PROMPTS, 0.95, 0),
    )
    own = np.abs(latents.mean(axis=0)).sum() / 2
    assert (
        abs(found["along"]["value"]["value"]) < 0.3 * own
        and abs(found["against"]["value"]["value"]) < 0.3 * own
    )


def test_without_contributions_nothing_cancels() -> None:
    latents, total = np.zeros((N_PROMPTS, 2)), np.ones(N_PROMPTS)
    found = cancellation(latents, total, Ranking(np.zeros(2)), Resamples(N_PROMPTS, 0.95, 0))
    assert found["ratio"] == 0.0 and found["along"]["latents"] == found["against"]["latents"] == 0
