import pytest
import torch

from analysis.labels import seed_stability as seed_stability_module
from analysis.labels.seed_stability import nearest_directions, seed_stability


def test_the_nearest_direction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_stability_module, "_CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(40, 16, generator=generator)
    order = torch.randperm(40, generator=generator)
    rows = 3 * others[order] + 0.05 * torch.randn(40, 16, generator=generator)
    rows[5] = 0
    found = nearest_directions(rows, others)
    expected = order.clone()
    expected[5] = -1
    assert torch.equal(found.latent, expected)
    assert found.cosine[5].isnan()
    assert (found.cosine[found.latent >= 0] > 0.99).all()


def test_stability_is_the_share_of_seeds_that_found_a_latent_again() -> None:
    rows = torch.eye(4)
    assert seed_stability(rows, [torch.eye(4)[:3], torch.eye(4)[:2]]).tolist() == [1, 1, 0.5, 0]
    assert seed_stability(rows, [-torch.eye(4)]).tolist() == [0, 0, 0, 0]
    assert seed_stability(rows, []).isnan().all()


def test_random_directions_are_not_found_again() -> None:
    """The control: agreement by chance."""
    generator = torch.Generator().manual_seed(0)
    rows, others = (torch.randn(500, 96, generator=generator) for _ in range(2))
    assert seed_stability(rows, [others]).mean() == 0
