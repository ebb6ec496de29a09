import pytest
import torch

from analysis.change.block_shares import MIN_BLOCKS, permutation_p, share_of


def test_the_share_is_the_ratio_of_the_sums() -> None:
    total = torch.rand(40, dtype=torch.float64) + 0.5
    share = share_of(0.3 * total, total, 0.95)
    assert share.value == pytest.approx(0.3)
    assert share.low == pytest.approx(0.3)
    assert share.high == pytest.approx(0.3)


def test_blocks_without_tokens_do_not_count() -> None:
    part, total = torch.rand(2, 20, dtype=torch.float64)
    nothing = torch.zeros(44, dtype=torch.float64)
    assert share_of(torch.cat([part, nothing]), torch.cat([total, nothing]), 0.95) == share_of(
        part, total, 0.95
    )


def test_with_few_blocks_there_is_no_interval() -> None:
    total = torch.ones(MIN_BLOCKS - 1, dtype=torch.float64)
    share = share_of(0.5 * total, total, 0.95)
    assert share == (0.5, None, None)
    assert not share.above_zero


@pytest.mark.parametrize("n_blocks", [MIN_BLOCKS, 64])
def test_intervals_cover_as_often_as_they_say(n_blocks: int) -> None:
    """Blocks of unequal size, 2000 draws; the standard error of the coverage is 0.005."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(2000):
        total = 1 + torch.rand(n_blocks, generator=generator, dtype=torch.float64)
        noise = torch.randn(n_blocks, generator=generator, dtype=torch.float64)
        share = share_of(total * (0.3 + 0.1 * noise), total, 0.95)
        assert share.low is not None and share.high is not None
        covered += share.low <= 0.3 <= share.high
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("heavy", [False, True])
def test_intervals_cover_where_few_documents_have_the_part(heavy: bool) -> None:
    """One block in ten has it, with sizes that may be heavy-tailed. Student's t alone covers 0.92 and 0.81 of the time."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(1000):
        total = 1 + torch.rand(64, generator=generator, dtype=torch.float64)
        has_it = (torch.rand(64, generator=generator) < 0.1).double()
        noise = torch.randn(64, generator=generator, dtype=torch.float64)
        size = (noise - 0.5).exp() if heavy else 1 + 0.3 * noise
        share = share_of(0.3 * total * has_it * size, total, 0.95)
        assert share.low is not None and share.high is not None
        covered += share.low <= 0.03 <= share.high
    assert covered / 1000 >= 0.94


def test_the_data_are_one_of_the_draws() -> None:
    null = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert permutation_p(1.0, null) == 1 / 4
    assert permutation_p(0.2, null) == 3 / 4
    assert permutation_p(0.0, null) == 1
