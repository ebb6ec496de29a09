"""The held-out tokens, read in groups of blocks of documents: by one accumulator, or by several that are joined."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from analysis.latents import held_out_pass
from analysis.latents.block_groups import BlockGroup, batches_of, block_groups
from analysis.latents.dictionary_view import DictionaryView, view_of
from analysis.latents.hashing import block_of
from analysis.latents.held_out_pass import Pass, PassAccumulator
from crosscoder.config import AnalysisConfig, BatchTopK, DictionaryConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.views import View, crosscoder_config
from crosscoder.planted import SMALL, PlantedPair
from tests.analysis.latents.test_statistics import observer_on
from tests.analysis.readers import MemoryReader

D_MODELS = (48, 48)
SETTINGS = AnalysisConfig(bootstrap_blocks=16, top_examples=3, quantile_examples=1)
BATCH = 8
READS: tuple[View, ...] = ("paired", "pooled", "difference")


def reader_of(n_tokens: int = 400, document_tokens: int = 5) -> MemoryReader:
    return MemoryReader(PlantedPair(counts=SMALL).sample(n_tokens), D_MODELS, document_tokens)


def groups_of(reader: MemoryReader, batch_tokens: int = BATCH) -> list[BlockGroup]:
    return block_groups(reader, SETTINGS.bootstrap_blocks, 0, batch_tokens)


def read(view: DictionaryView, reader: MemoryReader, groups: list[BlockGroup]) -> PassAccumulator:
    accumulator = PassAccumulator(view, reader.context(), SETTINGS, 0)
    for group in groups:
        accumulator.read(reader, group)
    return accumulator


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_pass, "_MAX_BATCH", BATCH)


def plain(found: Any) -> Any:
    """Everything in a result, in a form that == compares bit by bit."""
    if isinstance(found, Tensor):
        return found.dtype, tuple(found.shape), found.numpy().tobytes()
    if isinstance(found, np.ndarray):
        return found.dtype, found.shape, found.tobytes()
    if isinstance(found, dict):
        return {name: plain(value) for name, value in found.items()}
    if isinstance(found, tuple):
        return [plain(one) for one in found]
    if hasattr(found, "__dataclass_fields__"):
        return {field.name: plain(getattr(found, field.name)) for field in fields(found)}
    return found if isinstance(found, (int, float, str, type(None))) else plain(vars(found))


def result(accumulator: PassAccumulator, reader: MemoryReader) -> Any:
    found: Pass = accumulator.result()
    find = found.finder.lookup()
    rows = find(reader.document.numpy(), reader.position.numpy())
    return plain(found._replace(finder=rows))  # pyright: ignore[reportArgumentType]


@given(st.integers(1, 1500), st.integers(1, 40), st.integers(1, 30))
@settings(deadline=None, max_examples=10)
def test_each_token_is_in_one_group_with_its_whole_block(n_tokens: int, document: int, batch: int) -> None:
    reader = reader_of(n_tokens, document)
    groups = groups_of(reader, batch)
    assert [group.number for group in groups] == list(range(len(groups)))
    assert sorted(np.concatenate([group.rows for group in groups])) == list(range(n_tokens))
    blocks = [set(block_of(reader.documents[group.rows], 16, 0)) for group in groups]
    assert sum(map(len, blocks)) == len(set().union(*blocks))
    for group in groups:
        assert len(group.rows) and (np.diff(group.rows) > 0).all(), "in stored order"
        batches = list(batches_of(reader, group, batch))
        assert torch.equal(torch.cat([one.document for one in batches]), reader.document[group.rows])
    # Few batches that are not full, and a small reader as it is stored.
    assert len(groups) <= max(1, n_tokens // (4 * batch))


def test_a_small_reader_is_read_as_it_is_stored() -> None:
    reader = reader_of(60)
    (group,) = groups_of(reader)
    view = observer_on(reader.values, "paired")
    in_order = PassAccumulator(view, reader.context(), SETTINGS, 0)
    for batch in reader.batches(BATCH):
        in_order.update(batch)
    assert result(read(view, reader, [group]), reader) == result(in_order, reader)
    assert len(block_groups(reader_of(), 16, 0, BATCH, in_order=True)) == 1


@pytest.mark.parametrize("reads", READS)
def test_any_division_of_the_groups_gives_the_same_bits(reads: View) -> None:
    """Whoever reads a group; one reads none."""
    reader = reader_of()
    view, groups = observer_on(reader.values, reads), groups_of(reader)
    assert len(groups) > 9
    of_part = np.random.default_rng(READS.index(reads)).integers(0, 3, len(groups))
    parts = [[group for group in groups if of_part[group.number] == part] for part in range(4)]
    first, *others = (read(view, reader, part) for part in parts)
    for other in others:
        first.join(other.tensors())
    assert result(first, reader) == result(read(view, reader, groups), reader)


def test_groups_change_results_by_rounding_alone() -> None:
    reader = reader_of()
    view = observer_on(reader.values, "paired")
    whole, grouped = (
        read(view, reader, groups).result().statistics
        for groups in (block_groups(reader, 16, 0, BATCH, in_order=True), groups_of(reader))
    )
    for name, sums in whole.sums.items():
        torch.testing.assert_close(grouped.sums[name], sums, rtol=1e-9, atol=1e-9)
    assert torch.equal(grouped.documents, whole.documents) and grouped.l0 == whole.l0
    for name, share in whole.fve.items():
        assert grouped.fve[name] == pytest.approx(share, rel=1e-9)


def test_a_missing_group_is_noticed() -> None:
    reader = reader_of()
    view, groups = observer_on(reader.values, "paired"), groups_of(reader)
    with pytest.raises(AssertionError, match="the group 1 is missing"):
        read(view, reader, [groups[0], groups[2]]).result()


def test_checkpoints_are_joined_too() -> None:
    d_models = (6, 6, 6)
    reader = MemoryReader(torch.randn(200, 18, generator=torch.Generator().manual_seed(0)), d_models, 5)
    config = DictionaryConfig(n_latents=12, sparsity=BatchTopK(k=3))
    crosscoder = Crosscoder(crosscoder_config(config, d_models))
    crosscoder.set_normalization(reader.values)
    crosscoder.calibrate(reader.values)
    view, groups = view_of(crosscoder, d_models, "paired"), groups_of(reader)
    first, second = read(view, reader, groups[1::2]), read(view, reader, groups[::2])
    first.join(second.tensors())
    expected = result(read(view, reader, groups), reader)
    assert isinstance(expected[5], dict) and result(first, reader) == expected
