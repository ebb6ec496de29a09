"""Linear maps between two models: fitted if they share no space, exact if the relation is linear, otherwise none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from crosscoder.activations.linear_map import LinearMap
from crosscoder.config.pair import MIN_MAP_EXPLAINED_VARIANCE
from crosscoder.errors import FormatError
from crosscoder.planted import PlantedPair
from crosscoder.planted.directions import random_rotation

D = 12


def activations(n_tokens: int = 4000, d_model: int = D, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_tokens, d_model, generator=generator) * torch.linspace(0.5, 2, d_model) + 3


def rotation(seed: int = 1) -> Tensor:
    return random_rotation(D, torch.Generator().manual_seed(seed))


def fitted(reference: Tensor, intervened: Tensor) -> LinearMap:
    linear_map = LinearMap.fit(
        torch.cat([reference, intervened], dim=1), (reference.shape[1], intervened.shape[1])
    )
    assert linear_map is not None
    return linear_map


def test_models_of_one_origin_need_no_map() -> None:
    assert LinearMap.fit(PlantedPair().sample(4000), (48, 48)) is None


def test_unrelated_models_have_no_map() -> None:
    assert LinearMap.fit(torch.cat([activations(seed=0), activations(seed=1)], dim=1), (D, D)) is None
    wide = activations(d_model=20, seed=1)
    assert LinearMap.fit(torch.cat([activations(), wide], dim=1), (D, 20)) is None


def test_a_rotated_space_is_rotated_back() -> None:
    turn, reference = rotation(), activations()
    linear_map = fitted(reference, reference @ turn)
    torch.testing.assert_close(linear_map.maps[1], turn, atol=0.01, rtol=0)
    torch.testing.assert_close(linear_map.maps[0], turn.T, atol=0.01, rtol=0)
    assert min(linear_map.explained_variance) > 0.999
    for left in linear_map.unmapped(torch.cat([reference, reference @ turn], dim=1), (D, D)):
        assert float(left.square().mean()) < 1e-3


def test_explained_variance_is_measured_on_held_out_tokens() -> None:
    """A map with nearly as many parameters as tokens would explain nearly everything on the tokens it was fitted on."""
    for seed in range(5):
        x, noise = torch.randn(2, 50, D, generator=torch.Generator().manual_seed(seed))
        y = x @ rotation() + 3 * noise  # of which a map carries a tenth, and on its own tokens a third
        explained = 1 - (y - x @ torch.linalg.lstsq(x, y).solution).square().sum() / y.square().sum()
        assert explained > MIN_MAP_EXPLAINED_VARIANCE
        assert LinearMap.fit(torch.cat([x, y], dim=1), (D, D)) is None
    many, others = torch.randn(2, 6000, D)
    half = fitted(many, many @ rotation() + others)
    assert half.explained_variance == pytest.approx((0.5, 0.5), abs=0.03)


@pytest.mark.parametrize("last", [False, True])
def test_explained_variance_is_measured_on_every_source(last: bool) -> None:
    """Sources follow one another in a file; here a tenth of the tokens, first or last, has no linear relation."""
    reference, unrelated = torch.randn(2, 6000, D, generator=torch.Generator().manual_seed(0))
    intervened = reference @ rotation()
    alone = slice(-600, None) if last else slice(600)
    intervened[alone] = unrelated[alone]
    assert fitted(reference, intervened).explained_variance == pytest.approx((0.81, 0.81), abs=0.02)


def test_exchanging_the_models_exchanges_the_maps() -> None:
    reference, intervened = activations(), activations() @ rotation()[:, :9]
    one, other = fitted(reference, intervened), fitted(intervened, reference)
    for into in (0, 1):
        assert torch.equal(one.maps[into], other.maps[1 - into])
        assert torch.equal(one.means[into], other.means[1 - into])
        assert one.explained_variance[into] == other.explained_variance[1 - into]


def test_saved_maps_load_and_damage_is_reported(tmp_path: Path) -> None:
    linear_map, path = fitted(activations(), activations() @ rotation()), tmp_path / "frame.safetensors"
    linear_map.save(path)
    loaded = LinearMap.load(path)
    assert loaded.explained_variance == linear_map.explained_variance
    for kept, read in zip((*linear_map.maps, *linear_map.means), (*loaded.maps, *loaded.means), strict=True):
        assert torch.equal(kept, read)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FormatError, match="not a file of linear maps"):
        LinearMap.load(path)
