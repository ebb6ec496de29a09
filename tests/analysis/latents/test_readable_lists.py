import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.nn.functional import normalize

from analysis.latents import readable_lists
from analysis.latents.readable_lists import (
    NullLists,
    null_lists,
    random_directions,
    tail_p_values,
    token_lists,
)

from .matrix_reader import MatrixReader

WIDTH, VOCABULARY, COUNT = 32, 600, 6


def unembedding(seed: int = 0) -> Tensor:
    """Rows in families of six that point roughly the same way, of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    families = torch.randn(VOCABULARY // 6, WIDTH, generator=generator).repeat_interleave(6, dim=0)
    rows = families + 0.5 * torch.randn(VOCABULARY, WIDTH, generator=generator)
    return rows * torch.rand(VOCABULARY, 1, generator=generator).add(0.2)


def decoder(seed: int = 1, outliers: float = 20.0) -> Tensor:
    """Decoder rows with two outlier dimensions."""
    rows = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(seed))
    rows[:, :2] *= outliers
    return rows


def p_values(null: NullLists, reader: MatrixReader, directions: Tensor) -> dict[str, np.ndarray]:
    found = token_lists(reader, directions, 0, COUNT)
    return {side: null.p_values(side, lists.cosines) for side, lists in found.items()}


@pytest.mark.parametrize("outliers", [1.0, 20.0])
def test_random_directions_are_called_readable_at_the_nominal_rate(outliers: float) -> None:
    reader, rows = MatrixReader(unembedding()), decoder(outliers=outliers)
    null = null_lists(reader, rows, 0, COUNT, seed=0)
    fresh = random_directions(rows, 4000, torch.Generator().manual_seed(7))
    for side, found in p_values(null, reader, fresh).items():
        # The null has 1,000 draws: its 95th percentile is known to within 0.7 points, its 99th within 0.3.
        assert (found <= 0.05).mean() == pytest.approx(0.05, abs=0.025)
        assert (found <= 0.01).mean() == pytest.approx(0.01, abs=0.012)
        assert kstest(found, "uniform").statistic < 0.08
        assert not null.test(side, token_lists(reader, fresh, 0, COUNT)[side].cosines, 0.05).readable.any()


def test_an_isotropic_null_would_be_too_weak() -> None:
    """With outlier dimensions, random directions of the model are more aligned with some tokens than isotropic ones are."""
    reader, rows = MatrixReader(unembedding()), decoder()
    isotropic = null_lists(reader, decoder(outliers=1.0), 0, COUNT, seed=0)
    fresh = random_directions(rows, 2000, torch.Generator().manual_seed(7))
    assert (p_values(isotropic, reader, fresh)["top"] <= 0.05).mean() > 0.15


def test_rows_of_the_unembedding_and_means_of_related_rows_read_as_tokens() -> None:
    rows = unembedding()
    reader, random_rows = MatrixReader(rows), decoder(outliers=1.0)
    families = rows.view(-1, 6, WIDTH)
    centered = rows - rows.mean(dim=0)
    planted = torch.cat([normalize(centered[:60:3], dim=1), normalize(families[:20, :3].mean(dim=1), dim=1)])
    noise = random_directions(random_rows, 200, torch.Generator().manual_seed(3))
    null = null_lists(reader, random_rows, 0, COUNT, seed=0)
    found = token_lists(reader, torch.cat([planted, noise]), 0, COUNT)["top"]
    readable = null.test("top", found.cosines, 0.05).readable
    assert readable[:40].mean() > 0.95
    assert readable[40:].mean() < 0.03


def test_the_opposite_direction_swaps_the_sides() -> None:
    reader, directions = MatrixReader(unembedding()), decoder()[:20]
    found, opposite = (token_lists(reader, sign * directions, 0, COUNT) for sign in (1, -1))
    assert torch.equal(found["top"].token_ids, opposite["bottom"].token_ids)
    np.testing.assert_allclose(found["top"].cosines, opposite["bottom"].cosines, atol=1e-6)


def test_lengths_of_directions_and_a_constant_in_all_rows_change_nothing() -> None:
    rows, directions = unembedding(), decoder()[:20]
    null = null_lists(MatrixReader(rows), decoder(), 0, COUNT, seed=0)
    found = p_values(null, MatrixReader(rows), directions)
    lengths = torch.rand(len(directions), 1) * 100 + 0.01
    shifted = MatrixReader(rows + torch.randn(WIDTH))
    same = p_values(
        null_lists(shifted, decoder() * torch.rand(300, 1).add(0.1), 0, COUNT, seed=0),
        shifted,
        directions * lengths,
    )
    for side in ("top", "bottom"):
        np.testing.assert_allclose(found[side], same[side], rtol=1e-2, atol=1e-6)


def test_a_rotation_of_model_and_directions_changes_nothing() -> None:
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5)))[0]
    plain, turned = MatrixReader(unembedding()), MatrixReader(unembedding() @ rotation)
    found = p_values(null_lists(plain, decoder(), 0, COUNT, seed=0), plain, decoder()[:30])
    same = p_values(
        null_lists(turned, decoder() @ rotation, 0, COUNT, seed=0), turned, decoder()[:30] @ rotation
    )
    for side in ("top", "bottom"):
        np.testing.assert_allclose(found[side], same[side], rtol=1e-2, atol=1e-6)


def test_chunks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, directions = MatrixReader(unembedding()), decoder()[:50]
    whole = token_lists(reader, directions, 1, COUNT)
    monkeypatch.setattr(readable_lists, "_CHUNK", 7)
    steps: list[int] = []
    parts = token_lists(reader, directions, 1, COUNT, steps.append)
    assert sum(steps) == 50
    for side in ("top", "bottom"):
        assert torch.equal(whole[side].token_ids, parts[side].token_ids)
        torch.testing.assert_close(whole[side].values, parts[side].values)
        np.testing.assert_allclose(whole[side].cosines, parts[side].cosines, atol=1e-6)


def test_random_directions_have_the_second_moment_of_the_unit_rows() -> None:
    rows = decoder(outliers=5.0) * torch.rand(300, 1).add(0.5)
    drawn = random_directions(rows, 20_000, torch.Generator().manual_seed(0))
    units = normalize(rows, dim=1)
    expected, found = units.T @ units, drawn.T @ drawn
    cosine = (expected * found).sum() / (expected.norm() * found.norm())
    assert float(cosine) > 0.99
    torch.testing.assert_close(drawn.norm(dim=1), rows.norm(dim=1).mean().expand(20_000))


def test_the_null_of_longer_lists_serves_shorter_ones() -> None:
    reader = MatrixReader(unembedding())
    long, short = (null_lists(reader, decoder(), 0, count, seed=0) for count in (12, COUNT))
    found = token_lists(reader, decoder()[:10], 0, COUNT)["top"].cosines
    np.testing.assert_allclose(long.p_values("top", found), short.p_values("top", found))


def test_the_tail_continues_an_exponential_law() -> None:
    generator = np.random.default_rng(0)
    far = np.asarray([4.0, 7.0, 12.0])
    estimates = np.asarray([tail_p_values(far, generator.exponential(size=1000)) for _ in range(40)])
    np.testing.assert_allclose(np.median(np.log(estimates), axis=0), -far, rtol=0.25)
    assert (estimates > 0).all()


def test_p_values_fall_and_start_as_ranks() -> None:
    null = np.random.default_rng(1).normal(size=1000)
    found = tail_p_values(np.linspace(-4, 9, 500), null)
    assert (np.diff(found) <= 1e-12).all() and found[0] == 1
    middle = np.linspace(-1, 1, 9)
    ranks = (1 + (null[None] >= middle[:, None]).sum(axis=1)) / 1001
    np.testing.assert_allclose(tail_p_values(middle, null), ranks)


def test_a_null_that_never_varies_gives_ranks() -> None:
    found = tail_p_values(np.asarray([0.1, 0.2, 0.3]), np.full(99, 0.2))
    np.testing.assert_allclose(found, [1, 1, 0.01])
