"""The alarm rings at its stated rate if checkpoints differ by noise only, and at the right checkpoint if a change is planted."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from analysis.checkpoints.change_alarm import alarm_of_step
from analysis.checkpoints.monitoring import alarms
from analysis.latents.checkpoint_statistics import ChainAccumulator, ChainStatistics
from analysis.latents.dictionary_view import PairedView
from crosscoder.config import AnalysisConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.planted import SMALL, PlantedChain, PlantedPair
from tests.analysis.readers import MemoryReader
from tests.dictionaries import small_crosscoder

BLOCKS = 32


def settings(rate: float = 0.05) -> AnalysisConfig:
    return AnalysisConfig(bootstrap_samples=400, bootstrap_blocks=BLOCKS, alarm_rate=rate)


class Unexchanged(ChainAccumulator):
    """Without the exchange of checkpoints: every code is that of the original tokens."""

    def _exchanged(self, values: Tensor, one: int, other: int) -> Tensor:
        return values


def read(
    crosscoder: Crosscoder, values: Tensor, kind: type[ChainAccumulator] = ChainAccumulator
) -> ChainStatistics:
    d_models = crosscoder.config.d_models
    view = PairedView(crosscoder, d_models)
    accumulator = kind(view, BLOCKS, 0)
    for batch in MemoryReader(values, d_models).batches(5000):
        accumulator.update(batch, view.observe(batch.values))
    return accumulator.result()


def rung(chain: ChainStatistics, seed: int = 0, rate: float = 0.05) -> list[int]:
    """Checkpoints at which the alarm rings."""
    found = alarms(chain, settings(rate), seed)["checkpoints"]
    return [entry["checkpoint"] for entry in found if entry["rings"]]


def fits_noise() -> Crosscoder:
    """A dictionary with different rows in three models, each of which it also reads: noise of one model fires its latents."""
    crosscoder = small_crosscoder("relu", "three")
    with torch.no_grad():
        crosscoder.W_enc.copy_(crosscoder.W_dec.T)
    return crosscoder


def noise_alone(seed: int) -> Tensor:
    """Documents of different lengths and contents, in three checkpoints with noise of equal size."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randn(50, 1, generator=generator).exp().repeat_interleave(20, dim=0)
    tokens = 2 * torch.randn(1000, 4, generator=generator) * lengths
    return torch.cat([tokens + torch.randn(1000, 4, generator=generator) for _ in range(3)], dim=1)


def count_false(
    crosscoder: Crosscoder,
    draw: Callable[[int], Tensor],
    n_chains: int,
    kind: type[ChainAccumulator] = ChainAccumulator,
) -> tuple[int, int]:
    """Number of false alarms, and of checkpoints."""
    n_steps = len(crosscoder.config.d_models) - 1
    return sum(len(rung(read(crosscoder, draw(s), kind), s)) for s in range(n_chains)), n_chains * n_steps


def within(found: int, total: int, rate: float = 0.05) -> bool:
    low, high = binom.interval(0.999, total, rate)
    return bool(low <= found <= high)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "fits_noise", "exact"])
def test_false_alarms_are_as_frequent_as_stated(kind: str) -> None:
    """Over hundreds of chains that differ by noise of constant size, for any dictionary."""
    chain = PlantedChain.spread(PlantedPair(counts=SMALL), 3)
    dictionaries = {
        "random": small_crosscoder("relu", "three"),
        "fits_noise": fits_noise(),
        "exact": chain.dictionary(),
    }
    null = chain.null()
    draw = (lambda seed: null.sample(2000, seed)) if kind == "exact" else noise_alone
    false, total = count_false(dictionaries[kind], draw, 250)
    assert within(false, total), (false, total)


def test_few_chains_ring_and_without_the_exchange_many_would() -> None:
    """A dictionary that fits noise explains some of it in every checkpoint; that is not a change."""
    assert within(*count_false(fits_noise(), noise_alone, 40))
    false, total = count_false(fits_noise(), noise_alone, 40, Unexchanged)
    assert false > 0.2 * total


def test_equal_checkpoints_never_ring() -> None:
    chain = PlantedChain.spread(PlantedPair(counts=SMALL), 3)
    values = chain.sample(2000)[:, :48].repeat(1, 4)
    found = alarms(read(chain.dictionary(), values), settings(), 0)["checkpoints"]
    assert [(entry["rings"], entry["statistic"], entry["p_value"]) for entry in found] == [(False, 0, 1)] * 3


@pytest.mark.parametrize("begins", [1, 2, 3])
def test_it_rings_where_a_feature_grows_and_names_it(begins: int) -> None:
    pair = PlantedPair(counts={"shared": 12, "new": 1})
    chain = PlantedChain(pair, 3, torch.full((13,), begins))
    found = alarms(read(chain.dictionary(), chain.sample(4000)), settings(0.01), 0)["checkpoints"]
    assert [entry["rings"] for entry in found] == [time == begins for time in (1, 2, 3)]
    first, *others = found[begins - 1]["latents"]
    assert first["latent"] == 12
    assert first["share"] > 0.5, "the rest is noise"
    # Latents that fire along with it explain none of it.
    assert all(abs(other["share"]) < 1e-3 for other in others)
    assert found[begins - 1]["p_value"] <= 0.01


def test_a_shift_of_all_tokens_rings_as_offset() -> None:
    """The first snapshot is the third model on the axis."""
    crosscoder = small_crosscoder("relu", "three")
    with torch.no_grad():
        for tensor in (crosscoder.W_dec, crosscoder.b_dec, crosscoder.mean):
            tensor.zero_()
        crosscoder.b_dec[8:] = 1.0
    values = noise_alone(0)
    values[:, 8:] += 0.5
    found = alarms(read(crosscoder, values), settings(), 0)["checkpoints"]
    assert found[0]["rings"] is True
    assert (found[0]["offset"], found[0]["latents"]) == (True, [])


def test_the_threshold_is_a_quantile_of_the_maximum_under_random_signs() -> None:
    """Equal to the formula, and at the stated rate for dependent columns."""
    generator = np.random.default_rng(0)
    step = torch.from_numpy(generator.normal(size=(16, 3)))
    found = alarm_of_step(step, 0.1, 2000, np.random.default_rng(1))
    z = step.sum(dim=0) / step.square().sum(dim=0).sqrt()
    assert found.statistic == pytest.approx(max(0.0, float(z.max())))
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=(2000, 16))
    largest = (signs @ (step / step.square().sum(dim=0).sqrt()).numpy()).max(axis=1)
    assert found.threshold == pytest.approx(np.sort(np.maximum(largest, 0))[-200])
    assert found.p_value == (1 + int((largest >= found.statistic - 1e-9).sum())) / 2001


def test_too_few_signs_for_a_rate_never_ring() -> None:
    found = alarm_of_step(torch.ones(16, 2, dtype=torch.float64), 0.001, 100, np.random.default_rng(0))
    assert (found.threshold, found.rings) == (None, False)
