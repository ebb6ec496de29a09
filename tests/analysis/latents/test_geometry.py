import numpy as np
import pytest
import torch

from analysis.latents.geometry import Geometry
from crosscoder.config import CrosscoderConfig, ReLU
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.planted.regimes import REGIMES


def geometry(
    rows: list[list[float]], scale: tuple[float, float] = (1.0, 1.0), d_models: tuple[int, int] = (2, 2)
) -> Geometry:
    config = CrosscoderConfig(
        d_models=d_models,
        model_names=("reference", "intervened"),
        n_latents=len(rows),
        sparsity=ReLU(target_l0=1),
    )
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        crosscoder.W_dec.copy_(torch.tensor(rows))
        crosscoder.scale.copy_(torch.tensor(scale))
    return Geometry.of(crosscoder)


def test_norms_in_both_spaces() -> None:
    found = geometry([[3.0, 4.0, 0.0, 5.0]], scale=(2.0, 0.5))
    assert found.relative_norm.tolist() == [0.5]
    assert found.norm_reference_raw.tolist() == [2.5]
    assert found.norm_intervened_raw.tolist() == [10.0]
    assert found.relative_norm_raw.tolist() == [0.8]
    assert found.cosine().tolist() == [pytest.approx(0.8)]


def test_training_space_survives_folding() -> None:
    config = CrosscoderConfig(
        d_models=(3, 3), model_names=("reference", "intervened"), n_latents=4, sparsity=ReLU(target_l0=1)
    )
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        crosscoder.W_dec.normal_()
        crosscoder.scale.copy_(torch.tensor([2.0, 0.1]))
    plain, folded = Geometry.of(crosscoder), Geometry.of(crosscoder.fold())
    for name in ("norm_reference", "norm_intervened", "norm_reference_raw", "norm_intervened_raw"):
        assert torch.allclose(getattr(plain, name), getattr(folded, name), rtol=1e-5), name


def test_twins_are_the_nearest_in_the_other_model() -> None:
    """Latent 0 is new; latent 1 is lost along nearly the same direction; 2 is shared elsewhere."""
    rows = [[0.0, 0.0, 1.0, 0.0], [1.0, 0.1, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    twin, cosine = geometry(rows).twins(torch.tensor([True, True, True]))
    assert twin.tolist()[:2] == [1, 0]
    assert cosine[:2].tolist() == [pytest.approx(1 / 1.01**0.5)] * 2


@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_twins_equal_a_brute_force_search(chunk: int) -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    alive = torch.arange(30) % 4 != 0
    found = geometry(rows.tolist())
    twin, cosine = found.twins(alive, chunk=chunk)
    sides = (
        torch.nn.functional.normalize(rows[:, :2].double(), dim=1),
        torch.nn.functional.normalize(rows[:, 2:].double(), dim=1),
    )
    for latent in range(30):
        if not alive[latent]:
            assert int(twin[latent]) == -1
            continue
        leans = found.norm_intervened[latent] >= found.norm_reference[latent]
        own, other = (sides[1], sides[0]) if leans else (sides[0], sides[1])
        similarity = other @ own[latent]
        similarity[~alive] = -2
        similarity[latent] = -2
        norms = (found.norm_reference, found.norm_intervened)
        there, elsewhere = norms if leans else norms[::-1]
        similarity[there < 0.5 * elsewhere] = -2
        assert int(twin[latent]) == int(similarity.argmax())
        assert float(cosine[latent]) == pytest.approx(float(similarity.max()))


def test_whether_another_latent_writes_along_a_direction_in_both_models() -> None:
    """Latent 0 is new along x. Of its twins in the reference, 1 is shared along x, 2 lost along x, and 3 rotated from x to y."""
    rows = [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.1, 0.0], [1.0, 0.0, 0.0, 1.0]]
    pairs = np.zeros(3, dtype=np.int64), np.arange(1, 4)
    assert geometry(rows).writes_along(*pairs, cosine=0.9).tolist() == [True, False, False]


def test_without_candidates_there_is_no_twin() -> None:
    twin, cosine = geometry([[1.0, 0.0, 1.0, 0.0]]).twins(torch.tensor([True]))
    assert twin.tolist() == [-1]
    assert bool(cosine.isnan().all())


def test_models_of_different_width_have_no_cosine_and_no_twins() -> None:
    found = geometry([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], d_models=(2, 1))
    assert bool(found.cosine().isnan().all())
    assert found.twins(torch.tensor([True, True]))[0].tolist() == [-1, -1]


def test_latents_of_equal_weight_in_both_models_have_equal_norms_for_any_widths() -> None:
    """Planted features are equally strong in both models; in plain training space the wider one would have longer rows."""
    pair = REGIMES["widths"].make(0)
    relative = Geometry.of(pair.dictionary()).relative_norm
    shared = (pair.truth.reference.norm(dim=1) > 0) & (pair.truth.intervened.norm(dim=1) > 0)
    assert pair.d_models == (48, 64)
    assert shared.sum() > 50 and not shared.all()
    assert (relative[shared] - 0.5).abs().max() < 0.02
    assert set(relative[~shared].tolist()) == {0.0, 1.0}
