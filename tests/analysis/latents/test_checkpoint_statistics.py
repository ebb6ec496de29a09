"""Chains of checkpoints: every sum against its formula, and planted onsets recovered."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.checkpoints.trajectories import CHANGED, Trajectories, make_trajectories, onsets
from analysis.labels.feature_table import make_features
from analysis.latents.checkpoint_statistics import ChainAccumulator, ChainStatistics
from analysis.latents.dictionary_view import PairedView
from analysis.tables.columns import TRAJECTORIES
from analysis.tables.parquet import write_parquet
from crosscoder.config import AnalysisConfig
from crosscoder.config.model_names import model_names, time_order
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.planted import SMALL, PlantedChain, PlantedPair
from tests.analysis.readers import BLOCKS, MemoryReader, collect
from tests.analysis.table_checks import described
from tests.dictionaries import raw_activations, small_crosscoder

SETTINGS = AnalysisConfig(bootstrap_blocks=BLOCKS, bootstrap_samples=200)


def read(crosscoder: Crosscoder, values: Tensor, batch: int = 4096) -> ChainStatistics:
    d_models = crosscoder.config.d_models
    view = PairedView(crosscoder, d_models)
    accumulator = ChainAccumulator(view, BLOCKS, 0)
    for part in MemoryReader(values, d_models).batches(batch):
        accumulator.update(part, view.observe(part.values))
    return accumulator.result()


def trajectories_of(crosscoder: Crosscoder, values: Tensor) -> Trajectories:
    view = PairedView(crosscoder, crosscoder.config.d_models)
    return make_trajectories(view, read(crosscoder, values), SETTINGS)


def test_time_runs_from_the_reference_through_the_snapshots_to_the_intervened_model() -> None:
    assert model_names(1) == ("reference",)
    assert model_names(4) == ("reference", "intervened", "snapshot_1", "snapshot_2")
    assert [time_order(n) for n in (1, 2, 3, 5)] == [(0,), (0, 1), (0, 2, 1), (0, 2, 3, 4, 1)]


@pytest.mark.parametrize("batch", [33, 4096])
@pytest.mark.parametrize("kind", ["relu", "batch_topk"])
def test_sums_equal_their_formulas(kind: str, batch: int) -> None:
    crosscoder = small_crosscoder(kind, "three").double()
    values = raw_activations((4, 4, 4), 307).double()
    chain = read(crosscoder, values, batch)
    assert chain.names == ("reference", "snapshot_1", "intervened")
    x, raw = values.split(4, dim=1), crosscoder.raw_decoder()
    code = crosscoder.encode(values).detach()
    rebuilt = crosscoder(values).detach().unbind(1)
    bias = crosscoder.denormalize(crosscoder.b_dec.detach()[None]).split(4, dim=1)
    for time, (now, before) in enumerate(((2, 0), (1, 2)), 1):
        shift = x[now] - x[0]
        expected = (code * (shift @ (raw[now] - raw[0]).detach().T)).sum(dim=0)
        found = chain.shift[time]
        assert found is not None
        torch.testing.assert_close(found.sum(dim=0), expected)
        error = shift - (rebuilt[now] - rebuilt[0])
        totals = {name: float(value.sum()) for name, value in chain.totals.items()}
        assert totals[f"square/{time}"] == pytest.approx(float(shift.square().sum()))
        assert totals[f"error/{time}"] == pytest.approx(float((shift * error).sum()))
        assert totals[f"bias/{time}"] == pytest.approx(float((shift @ (bias[now] - bias[0]).T).sum()))
        whole = float(expected.sum()) + totals[f"bias/{time}"] + totals[f"error/{time}"]
        assert whole == pytest.approx(totals[f"square/{time}"])
        explained = 1 - error.square().sum() / (shift - shift.mean(dim=0)).square().sum()
        assert chain.fve_difference[time] == pytest.approx(float(explained))
        step = x[now] - x[before]
        parts = list(x)
        parts[now], parts[before] = parts[before], parts[now]
        other = crosscoder.encode(torch.cat(parts, dim=1)).detach()
        offset = float((step @ (bias[now] - bias[before]).T).sum())
        for own, found in ((code, chain.step[time]), (other, chain.exchanged[time])):
            assert found is not None
            expected = (own * (step @ (raw[now] - raw[before]).detach().T)).sum(dim=0)
            torch.testing.assert_close(found.sum(dim=0)[:-1], expected)
            assert float(found.sum(dim=0)[-1]) == pytest.approx(offset)
        assert totals[f"step_square/{time}"] == pytest.approx(float(step.square().sum()))
    assert chain.variance == pytest.approx(float((x[0] - x[0].mean(dim=0)).square().sum()))


@pytest.mark.parametrize("last", [2, 4])
def test_a_trajectory_ends_in_the_feature_table(last: int, tmp_path: Path) -> None:
    """With one and with three snapshots: numbers and intervals at the last checkpoint are those of the pair without snapshots."""
    chain = PlantedChain.spread(PlantedPair(counts=SMALL), last)
    crosscoder, values = chain.dictionary(), chain.sample(3000)
    found = trajectories_of(crosscoder, values)
    view = PairedView(crosscoder, chain.d_models)
    features = make_features(view, collect(view, MemoryReader(values, chain.d_models)), SETTINGS, 0)
    for name in ("relative_norm", "shift_share", "shift_share_low", "shift_share_high"):
        np.testing.assert_allclose(getattr(found, name)[-1], features.columns[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.cosine[-1], features.columns["decoder_cosine"], rtol=1e-9)
    assert (found.relative_norm[0][found.norm[0] > 0] == 0.5).all()
    assert np.isnan(found.shift_share[0]).all()
    write_parquet(tmp_path / "trajectories.parquet", found.table())
    described(tmp_path / "trajectories.parquet", TRAJECTORIES)
    table: pd.DataFrame = found.table().to_pandas()
    assert len(table) == len(chain.onsets) * (last + 1)
    row = table[(table["latent"] == 3) & (table["checkpoint"] == last)].iloc[0]
    assert (row["name"], row["norm"]) == ("intervened", found.norm[last, 3])


@pytest.mark.parametrize("last", [2, 4])
def test_planted_onsets_are_found(last: int) -> None:
    chain = PlantedChain.spread(PlantedPair(counts=SMALL), last)
    found = trajectories_of(chain.dictionary(), chain.sample(6000))
    kinds = chain.pair.truth.kinds
    beginnings = onsets(found, kinds)
    for kind, begins, found_at in zip(kinds, chain.onsets.tolist(), beginnings.tolist(), strict=True):
        assert found_at == begins if kind in CHANGED else np.isnan(found_at), kind


def test_without_a_change_there_is_no_onset() -> None:
    chain = PlantedChain.spread(PlantedPair(counts=SMALL), 3).null()
    found = trajectories_of(chain.dictionary(), chain.sample(4000))
    assert np.nanmax(np.abs(found.shift_share)) < 0.01
    assert np.isnan(onsets(found, chain.pair.truth.kinds)).all()
    # Even if labeled as changed, a latent that explains nothing has no onset, except one in forty by its interval.
    assert np.isfinite(onsets(found, ["new"] * len(chain.onsets))).sum() <= 3


def test_a_reversed_chain_reverses_trajectories() -> None:
    chain = PlantedChain.spread(PlantedPair(counts=SMALL), 3)
    forth = trajectories_of(chain.dictionary(), chain.sample(4000))
    back = trajectories_of(chain.reversed().dictionary(), chain.reversed().sample(4000))
    # In training space norms are scaled per model; as a share over all checkpoints they are the same in reverse.
    np.testing.assert_allclose(forth.norm, back.norm[::-1], rtol=0.02, atol=0.02)
    is_new = chain.pair.truth.is_kind("new").numpy()
    assert (onsets(forth, ["new"] * 20)[is_new] == chain.onsets.numpy()[is_new]).all()
    assert (onsets(back, ["lost"] * 20)[is_new] == chain.last + 1 - chain.onsets.numpy()[is_new]).all()


def test_with_another_width_quantities_that_need_one_space_are_undefined() -> None:
    crosscoder = small_crosscoder("relu", "three_unequal")
    chain = read(crosscoder, raw_activations((3, 5, 7)))
    assert chain.shift == chain.step == (None, None, None)
    assert chain.fve_difference == (None, None, None)
    assert all(value is not None for value in chain.fve)
    found = trajectories_of(crosscoder, raw_activations((3, 5, 7)))
    assert np.isfinite(found.relative_norm).all()
    assert np.isnan(found.cosine[1:]).all() and np.isnan(found.shift_share).all()
    assert np.isnan(onsets(found, ["new"] * 24)).all()
