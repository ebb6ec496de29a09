import numpy as np
import pytest
import torch

from analysis.latents.bootstrap import BlockMoments, block_intervals, resample_weights
from analysis.latents.latent_scaling import Moments
from analysis.latents.mean_intervals import effective_freedom, margins, sample_of


def moments(n_blocks: int = 12, n_latents: int = 5, seed: int = 0) -> BlockMoments:
    generator = torch.Generator().manual_seed(seed)
    sums = {"fired": torch.randint(1, 9, (n_blocks, n_latents), generator=generator).double()}
    return BlockMoments(
        sums, {"tokens": torch.randint(50, 90, (n_blocks,), generator=generator).double()}, {}
    )


def density(sampled: Moments) -> torch.Tensor:
    return sampled["fired"] / sampled["tokens"]


def test_the_whole_counts_every_block_once() -> None:
    whole = moments().whole()
    assert torch.equal(whole["fired"], moments().sums["fired"].sum(dim=0))
    assert float(whole["tokens"]) == float(moments().totals["tokens"].sum())


def test_the_interval_of_a_mean_over_equal_blocks_is_that_of_a_mean() -> None:
    """With as many tokens in every block, the density is the mean over blocks, and its influences are their differences from it."""
    fired = moments().sums["fired"]
    data = BlockMoments({"fired": fired}, {"tokens": torch.full((12,), 100.0).double()}, {})
    interval = block_intervals(data, {"density": density}, 0.9)["density"]
    shares = fired.numpy() / 100
    sample = sample_of(shares)._replace(freedom=effective_freedom(shares, np.ones(shares.shape, dtype=bool)))
    below, above = margins(sample, 0.9)
    assert np.allclose(interval.low, np.maximum(shares.mean(axis=0) - below, 0))
    assert np.allclose(interval.high, shares.mean(axis=0) + above)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_of_latents_do_not_matter(chunk: int) -> None:
    data = moments()
    whole = block_intervals(data, {"density": density}, 0.95)["density"]
    parts = block_intervals(data, {"density": density}, 0.95, chunk=chunk)["density"]
    assert torch.allclose(whole.low, parts.low)
    assert torch.allclose(whole.high, parts.high)


def test_every_resample_draws_as_many_blocks_as_the_data_has() -> None:
    weights = resample_weights(100, 64, seed=1)
    assert bool((weights.sum(dim=1) == 64).all())
    assert torch.equal(weights, resample_weights(100, 64, seed=1))
    assert not torch.equal(weights, resample_weights(100, 64, seed=2))


def test_intervals_have_their_nominal_coverage() -> None:
    """Blocks with a common component, like documents: 90 % intervals of a rate contain it in 80 to 97 % of 200 trials."""
    generator = torch.Generator().manual_seed(0)
    rate = 0.1 + 0.05 * torch.randn(40, 200, generator=generator).double()
    data = BlockMoments({"fired": rate * 100}, {"tokens": torch.full((40,), 100.0).double()}, {})
    interval = block_intervals(data, {"density": density}, 0.9)["density"]
    covered = float(((interval.low <= 0.1) & (interval.high >= 0.1)).double().mean())
    assert 0.8 <= covered <= 0.97


def scaling(sampled: Moments) -> torch.Tensor:
    """Return a ratio of two sums over firings, like ν."""
    return sampled["other"] / sampled["own"]


def firing_in(n_firing: int, n_blocks: int = 30, n_empty: int = 0) -> BlockMoments:
    """Return moments of one latent that fires in some of the blocks; further blocks have no tokens."""
    generator = torch.Generator().manual_seed(0)
    own, noise = torch.rand(2, n_firing, 1, generator=generator).double() + 0.5
    rest = torch.zeros(n_blocks + n_empty - n_firing, 1).double()
    tokens = (torch.arange(n_blocks + n_empty) < n_blocks) * 100.0
    sums = {"own": torch.cat([own, rest]), "other": torch.cat([own * noise, rest])}
    return BlockMoments(sums, {"tokens": tokens.double()}, {})


@pytest.mark.parametrize(("n_firing", "estimable"), [(1, False), (4, False), (5, True), (30, True)])
def test_a_latent_has_to_fire_in_enough_blocks(n_firing: int, estimable: bool) -> None:
    interval = block_intervals(firing_in(n_firing), {"scaling": scaling}, 0.95)["scaling"]
    assert bool(interval.low.isfinite()) == bool(interval.high.isfinite()) == estimable


def test_there_have_to_be_enough_blocks() -> None:
    few, enough = (block_intervals(firing_in(n, n), {"scaling": scaling}, 0.95)["scaling"] for n in (8, 9))
    assert bool(few.low.isnan()) and bool(enough.low.isfinite())


def test_blocks_without_firings_say_nothing_of_a_ratio_over_firings() -> None:
    """And blocks without tokens say nothing at all."""
    wanted = block_intervals(firing_in(12, 12), {"scaling": scaling}, 0.95)["scaling"]
    for data in (firing_in(12, 60), firing_in(12, 12, n_empty=50), firing_in(12, 20, n_empty=5)):
        found = block_intervals(data, {"scaling": scaling}, 0.95)["scaling"]
        assert (float(found.low), float(found.high)) == pytest.approx((float(wanted.low), float(wanted.high)))


def test_blocks_without_firings_count_for_a_density() -> None:
    rates = {
        n_blocks: block_intervals(
            firing_in(12, n_blocks), {"density": lambda sampled: sampled["own"] / sampled["tokens"]}, 0.95
        )["density"]
        for n_blocks in (12, 60)
    }
    one, other = rates[12], rates[60]
    # Relative to the density, five times smaller, the interval is wider: whether the latent occurs in a document varies too.
    assert float((other.high - other.low) * 5) > 1.2 * float(one.high - one.low)


def test_a_statistic_that_is_undefined_without_one_block_has_no_interval() -> None:
    def needs_the_first(sampled: Moments) -> torch.Tensor:
        return torch.where(sampled["first"] > 0, scaling(sampled), torch.nan)

    data = firing_in(12)
    first = torch.zeros_like(data.sums["own"])
    first[0] = 1
    data = BlockMoments({**data.sums, "first": first}, data.totals, {})
    interval = block_intervals(data, {"scaling": needs_the_first}, 0.95)["scaling"]
    assert bool(interval.low.isnan()) and bool(interval.high.isnan())


def test_a_share_of_tokens_stays_between_0_and_1() -> None:
    fired = torch.zeros(20, 1).double()
    fired[:5, 0] = torch.tensor([90.0, 1, 1, 1, 1])
    tokens = {"tokens": torch.full((20,), 100.0).double()}
    density_interval = block_intervals(BlockMoments({"fired": fired}, tokens, {}), {"density": density}, 0.95)
    assert float(density_interval["density"].low) == 0
    unbounded = block_intervals(BlockMoments({"fired": fired}, tokens, {}), {"other": density}, 0.95)
    assert float(unbounded["other"].low) < 0


def test_a_statistic_that_is_equal_in_every_block_has_no_width() -> None:
    data = firing_in(12)
    interval = block_intervals(data, {"one": lambda sampled: sampled["own"] / sampled["own"]}, 0.95)["one"]
    assert float(interval.low) == float(interval.high) == 1
