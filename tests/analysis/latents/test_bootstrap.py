import numpy as np
import pytest
import torch

from analysis.latents.bootstrap import BlockMoments, bootstrap_intervals, resample_weights
from analysis.latents.latent_scaling import Moments


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


def test_equals_resampling_one_by_one() -> None:
    data, weights = moments(), resample_weights(200, 12, seed=3)
    drawn = []
    for sample in weights.long():
        blocks = torch.repeat_interleave(torch.arange(12), sample)
        drawn.append((data.sums["fired"][blocks].sum(dim=0) / data.totals["tokens"][blocks].sum()).numpy())
    expected = np.quantile(np.array(drawn), [0.05, 0.95], axis=0)
    interval = bootstrap_intervals(data, {"density": density}, weights, 0.9)["density"]
    assert np.allclose(interval.low, expected[0])
    assert np.allclose(interval.high, expected[1])


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_of_latents_do_not_matter(chunk: int) -> None:
    data, weights = moments(), resample_weights(50, 12, seed=0)
    whole = bootstrap_intervals(data, {"density": density}, weights, 0.95)["density"]
    parts = bootstrap_intervals(data, {"density": density}, weights, 0.95, chunk=chunk)["density"]
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
    interval = bootstrap_intervals(data, {"density": density}, resample_weights(400, 40, seed=0), 0.9)[
        "density"
    ]
    covered = float(((interval.low <= 0.1) & (interval.high >= 0.1)).double().mean())
    assert 0.8 <= covered <= 0.97


def test_a_statistic_that_is_missing_in_many_resamples_has_no_interval() -> None:
    """A latent that fired in one of twelve blocks is missing from a third of all resamples; one that fired in all blocks, from none."""
    fired = torch.zeros(12, 3, dtype=torch.float64)
    fired[0, 0] = 5
    fired[:, 1] = 5
    data = BlockMoments({"fired": fired}, {"tokens": torch.ones(12).double()}, {})
    ratio = bootstrap_intervals(
        data,
        {"ratio": lambda sampled: sampled["fired"] / sampled["fired"]},
        resample_weights(500, 12, seed=0),
        0.95,
    )["ratio"]
    assert ratio.low.isnan().tolist() == [True, False, True]
    assert float(ratio.low[1]) == float(ratio.high[1]) == 1


def test_a_few_missing_resamples_are_left_out() -> None:
    values = torch.linspace(0, 1, 200, dtype=torch.float64).unsqueeze(1)
    values[3] = torch.nan
    data = BlockMoments({"fired": torch.ones(200, 1).double()}, {"tokens": torch.ones(200).double()}, {})
    interval = bootstrap_intervals(
        data, {"given": lambda _: values}, resample_weights(200, 200, seed=0), 0.9
    )["given"]
    kept = values[~values.isnan()].numpy()
    assert float(interval.low) == pytest.approx(np.quantile(kept, 0.05))
    assert float(interval.high) == pytest.approx(np.quantile(kept, 0.95))
