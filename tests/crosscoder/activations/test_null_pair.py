"""The null pair keeps the size of the change and has no feature in only one model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from crosscoder.activations.control_transforms import TransformedReader
from crosscoder.activations.linear_map import least_squares_map
from crosscoder.activations.null_pair import NullPair
from crosscoder.errors import DataError, FormatError
from crosscoder.planted import PlantedPair
from tests.training.in_memory import InMemoryReader

D = 48


def drifted(values: Tensor) -> Tensor:
    return NullPair.fit(values, (D, D)).apply(values)


def sides(values: Tensor, drift: NullPair) -> tuple[Tensor, Tensor]:
    """Activations of the kept model and of the other."""
    parts = values.double().split([D, D], dim=1)
    return parts[drift.kept], parts[1 - drift.kept]


def regression_residual(one: Tensor, other: Tensor) -> Tensor:
    """The centered residual of one model after regression on a multiple of the other."""
    one, other = one - one.mean(0), other - other.mean(0)
    return one - other * ((one * other).sum() / other.square().sum())


def kurtosis(values: Tensor) -> float:
    """3 for a normal distribution, more for one with rare large values."""
    return float((values - values.mean()).pow(4).mean() / values.var().square())


def test_one_model_is_kept_and_the_change_keeps_its_size_and_covariance() -> None:
    values = PlantedPair().sample(40_000, seed=1)
    drift, null = NullPair.fit(values, (D, D)), drifted(values)
    (kept, real), (same, made) = sides(values, drift), sides(null, drift)
    assert torch.equal(kept, same)
    torch.testing.assert_close(made.mean(0), real.mean(0), atol=1e-4, rtol=0)
    sizes = [float((other - kept).square().sum(1).mean()) for other in (real, made)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
    assert float(torch.cov(made.T).trace()) == pytest.approx(float(torch.cov(real.T).trace()), rel=0.1)


def test_the_change_keeps_its_covariance_and_loses_its_features() -> None:
    """In the planted pair the change is a sparse sum of directions; the null replaces it with noise."""
    pair = PlantedPair()
    values = pair.sample(40_000, seed=1)
    drift = NullPair.fit(values, (D, D))
    (kept, real), (_, made) = sides(values, drift), sides(drift.apply(values), drift)
    before, after = regression_residual(real, kept), regression_residual(made, kept)
    torch.testing.assert_close(
        after.T.cov(), before.T.cov(), atol=0.02 * float(before.T.cov().trace()), rtol=0
    )
    rows = (pair.truth.reference, pair.truth.intervened)[1 - drift.kept]
    alone = "lost" if drift.kept else "new"
    for feature in rows[pair.truth.is_kind(alone)].double():
        assert kurtosis(before @ feature) > 6
        # The excess kurtosis of a sum of 64 with normal weights is 3/64 of that of one; tokens of unequal norm add some.
        assert kurtosis(after @ feature) - 3 < 0.2 * (kurtosis(before @ feature) - 3)
    agreement = torch.cosine_similarity(before, after, dim=1).mean()
    assert abs(float(agreement)) < 0.1


def test_nothing_is_rotated_or_rescaled_if_models_share_a_space() -> None:
    """A least-squares map finds rotated, rescaled and lost features in the pair; in its null every direction is unchanged."""
    pair = PlantedPair(d_model=128)
    values = pair.sample(60_000, seed=1)
    drift = NullPair.fit(values, (128, 128))
    directions = (pair.truth.reference, pair.truth.intervened)[drift.kept].double()
    changed = pair.truth.changed & directions.any(dim=1)
    for made, least, most in ((values, 0.0, 0.95), (drift.apply(values), 0.97, 1.0)):
        parts = made.double().split([128, 128], dim=1)
        kept, other = (part - part.mean(0) for part in (parts[drift.kept], parts[1 - drift.kept]))
        mapped = directions[changed] @ least_squares_map(kept, other)
        found = torch.cosine_similarity(mapped, directions[changed], dim=1)
        size = mapped.norm(dim=1) / directions[changed].norm(dim=1)
        share = torch.minimum(found, size / size.median())
        assert least <= float(share.median()) <= most


def test_a_linear_relation_is_kept_if_models_share_no_space() -> None:
    """A pair related by a rotation is its own null."""
    reference = PlantedPair().sample(20_000, seed=1)[:, :D]
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0))).Q
    values = torch.cat([reference, 0.7 * reference @ turn + 3], dim=1)
    torch.testing.assert_close(drifted(values), values, rtol=0, atol=0.05)


def test_exchanging_the_models_exchanges_the_null() -> None:
    values = PlantedPair().sample(5000, seed=1)
    null = drifted(values)
    swapped = drifted(torch.cat([values[:, D:], values[:, :D]], dim=1))
    torch.testing.assert_close(torch.cat([swapped[:, D:], swapped[:, :D]], dim=1), null)


@pytest.mark.parametrize("d_models", [(5, 8), (8, 5)])
def test_models_of_unequal_width(d_models: tuple[int, int]) -> None:
    values = torch.randn(500, 13, generator=torch.Generator().manual_seed(0))
    drift = NullPair.fit(values, d_models)
    wider, other = values.split(list(d_models), dim=1)[:: 1 if d_models[0] > d_models[1] else -1]
    null = drift.apply(values).split(list(d_models), dim=1)[:: 1 if d_models[0] > d_models[1] else -1]
    assert torch.equal(null[0], wider), "the wider model has more variance here"
    assert not torch.allclose(null[1], other)
    assert null[1].isfinite().all()


def test_identical_models_stay_identical() -> None:
    values = PlantedPair().sample(2000, seed=1)[:, :D].repeat(1, 2)
    torch.testing.assert_close(drifted(values), values, rtol=0, atol=0.02)


def test_three_models_have_no_drift() -> None:
    with pytest.raises(DataError, match=r"controls\.drift: needs two models, found 3"):
        NullPair.fit(torch.randn(50, 6), (2, 2, 2))


def test_saving_keeps_every_bit(tmp_path: Path) -> None:
    values = PlantedPair().sample(2000, seed=1)
    drift = NullPair.fit(values, (D, D))
    drift.save(tmp_path / "drift.safetensors")
    assert torch.equal(NullPair.load(tmp_path / "drift.safetensors").apply(values), drift.apply(values))
    (tmp_path / "drift.safetensors").write_bytes(b"cut")
    for name in ("drift.safetensors", "missing.safetensors"):
        with pytest.raises(FormatError, match=f"{name}: not a null pair"):
            NullPair.load(tmp_path / name)


def test_a_reader_gives_the_null_pair() -> None:
    values = PlantedPair().sample(2500, seed=1)
    reader, drift = InMemoryReader(values, (D, D)), NullPair.fit(values, (D, D))
    null = TransformedReader(reader, drift)
    for batch, own in zip(null.batches(700), reader.batches(700), strict=True):
        assert torch.equal(batch.values, drift.apply(own.values))
    rows = torch.arange(0, 2500, 7)
    assert torch.equal(null.gather(rows).values, drift.apply(values[rows]))
    assert (null.n_tokens, null.d_models) == (2500, (D, D))


def burst_pair(n_tokens: int = 8000) -> Tensor:
    """Models that differ by little noise, and on 2 % of the tokens by a random vector of length 2."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n_tokens, D, generator=generator)
    change = 0.05 * torch.randn(n_tokens, D, generator=generator)
    bursts = torch.nn.functional.normalize(torch.randn(n_tokens, D, generator=generator), dim=1)
    change += 2 * bursts * (torch.rand(n_tokens, 1, generator=generator) < 0.02)
    return torch.cat([values, values + change], dim=1)


@pytest.mark.parametrize("keeps_sizes", [False, True])
def test_what_is_rare_and_large_stays_so_if_sizes_are_kept(keeps_sizes: bool) -> None:
    values = burst_pair()
    null = NullPair.fit(values, (D, D), keeps_sizes=keeps_sizes)
    change = [
        regression_residual(*reversed(sides(part, null))).norm(dim=1) for part in (values, null.apply(values))
    ]
    assert (kurtosis(change[1]) > 10) == keeps_sizes
    assert kurtosis(change[0]) > 10
    assert float(change[1].square().sum()) == pytest.approx(float(change[0].square().sum()), rel=0.05)


def test_a_repeated_direction_is_lost_even_if_sizes_are_kept() -> None:
    """A feature that only one model has is in the sizes, but no longer in the directions."""
    values = PlantedPair(counts={"shared": 40, "new": 1}).sample(8000, seed=1)
    null = NullPair.fit(values, (D, D), keeps_sizes=True)
    directions = []
    for part in (values, null.apply(values)):
        change = regression_residual(*reversed(sides(part, null)))
        large = change[change.norm(dim=1) > 0.5]
        assert len(large) > 100
        unit = torch.nn.functional.normalize(large, dim=1)
        directions.append(float(torch.linalg.svdvals(unit)[0].square() / len(unit)))
    assert directions[0] > 0.85 > 0.7 > directions[1]


def test_saving_keeps_whether_sizes_are_kept(tmp_path: Path) -> None:
    values = burst_pair(2000)
    null = NullPair.fit(values, (D, D), keeps_sizes=True)
    null.save(tmp_path / "null.safetensors")
    assert torch.equal(NullPair.load(tmp_path / "null.safetensors").apply(values), null.apply(values))
