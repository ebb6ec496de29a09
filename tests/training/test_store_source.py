"""Training tokens from shards at a URL: whole shards in a seeded order, shuffled block by block, resumable in the middle of one."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosscoder.activations.shard_store import StoreReader
from crosscoder.activations.shards import DOCUMENTS
from crosscoder.errors import DataError
from tests.crosscoder.activations.planted_shards import ROWS, documents, open_at, values, write_at
from tests.stores import Flaky, flaky
from training.block_order import SourceState
from training.sources import TokenSource
from training.store_source import StoreSource

SHARD = 20 * 28 + 512
N = sum(ROWS["train"])


class Opened:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.urls = {"flaky": "flaky://bucket", "file": f"file://{folder / 'bucket'}"}
        for name, url in self.urls.items():
            write_at(url, folder / name)

    def source(
        self, buffer_tokens: int = 50, seed: int = 0, url: str = "flaky", shards: int = 2
    ) -> StoreSource:
        store = open_at(self.urls[url], self.folder / url, cache_gb=shards * SHARD / 1e9)
        train, held_out = StoreReader(store, "train"), StoreReader(store, "held_out")
        return StoreSource(train, held_out, seed, buffer_tokens, store.folder / DOCUMENTS)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with flaky():
        yield Opened(tmp_path_factory.mktemp("store"))


def take(source: TokenSource, n_tokens: int, batch_tokens: int = 7) -> Tensor:
    batches = itertools.islice(source.batches(batch_tokens), -(-n_tokens // batch_tokens))
    return torch.cat([rows for rows, _ in batches])[:n_tokens]


def numbers(rows: Tensor) -> list[int]:
    """The place in the split of each row, after a check that it is that row."""
    found = rows[:, 0].long()
    assert torch.equal(torch.cat(values("train"))[found], rows)
    return found.tolist()


def shard_of(rows: list[int]) -> list[int]:
    return np.searchsorted(np.cumsum(ROWS["train"]), rows, side="right").tolist()


@pytest.mark.parametrize("buffer_tokens", [1, 20, 50, 10_000])
def test_every_token_occurs_once_a_pass_and_each_pass_has_its_own_order(
    opened: Opened, buffer_tokens: int
) -> None:
    passes = [numbers(rows) for rows in take(opened.source(buffer_tokens), 3 * N).split(N)]
    assert all(sorted(one) == list(range(N)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


def test_a_block_mixes_the_shards_that_fit_and_no_others(opened: Opened) -> None:
    source = opened.source(50)
    order, start, met = numbers(take(source, N)), 0, list[int]()
    for block in source._grouped(0):
        size = sum(ROWS["train"][shard] for shard in block)
        assert size <= 50
        shards = shard_of(order[start : start + size])
        assert set(shards) == set(block)
        # The control: the tokens of its shards are mixed, not one shard after the other.
        assert len(block) == 1 or sum(a != b for a, b in itertools.pairwise(shards)) > 2 * len(block)
        start, met = start + size, met + block
    assert sorted(met) == list(range(10))
    assert source.describe_order() == {
        "shuffled": "in blocks of whole shards",
        "buffer_tokens": 50,
        "shards": 10,
        "largest_shard_tokens": 20,
        "blocks_of_first_pass": len(source._grouped(0)),
    }
    assert len(opened.source(10_000)._grouped(0)) == 1


@settings(max_examples=8, deadline=None)
@given(stop=st.integers(0, 40), batch_tokens=st.integers(1, 60), buffer_tokens=st.sampled_from([1, 30, 60]))
def test_from_any_state_the_same_batches_follow(
    opened: Opened, stop: int, batch_tokens: int, buffer_tokens: int
) -> None:
    whole = list(itertools.islice(opened.source(buffer_tokens).batches(batch_tokens), stop + 6))
    # As a checkpoint stores it.
    state: SourceState = json.loads(json.dumps(whole[stop][1]))
    rest = itertools.islice(opened.source(buffer_tokens).batches(batch_tokens, state), 5)
    for (rows, after), (expected, expected_after) in zip(rest, whole[stop + 1 :], strict=True):
        assert torch.equal(rows, expected)
        assert after == expected_after


def test_resuming_in_the_middle_of_a_block_needs_its_state(opened: Opened) -> None:
    """The control of the test above: another state gives other batches."""
    whole = list(itertools.islice(opened.source(50).batches(7), 12))
    inside = [
        index for index, (_, state) in enumerate(whole[:-1]) if 0 < state["offset"] < 40 and state["block"]
    ]
    assert inside
    after = whole[inside[0]][1]
    place = after["pass_index"], after["block"], after["offset"]
    for changed in ((0, -1, 0), (0, 0, -1), (1, 0, 0)):
        pass_index, block, offset = (one + other for one, other in zip(place, changed, strict=True))
        state = SourceState(pass_index=pass_index, block=block, offset=offset)
        rows, _ = next(opened.source(50).batches(7, state))
        assert not torch.equal(rows, whole[inside[0] + 1][0])


def test_the_order_follows_from_the_seed_alone(opened: Opened) -> None:
    expected = take(opened.source(), 2 * N)
    assert torch.equal(take(opened.source(url="file", shards=8), 2 * N), expected)
    assert torch.equal(take(opened.source(seed=3).reordered(0), 2 * N), expected)
    assert not torch.equal(take(opened.source(seed=3), 2 * N), expected)
    assert not torch.equal(take(opened.source(20), 2 * N), expected)


def test_the_halves_are_disjoint_documents_and_together_the_whole(opened: Opened) -> None:
    source = opened.source()
    halves = [source.half(number) for number in (0, 1)]
    assert sum(half.n_train_tokens for half in halves) == source.n_train_tokens == N
    found = [numbers(take(half, half.n_train_tokens)) for half in halves]
    assert sorted(found[0] + found[1]) == list(range(N))
    document = torch.cat(documents()[1]["train"])
    assert not set(document[found[0]].tolist()) & set(document[found[1]].tolist())
    for half, own in zip(halves, found, strict=True):
        assert len(own) > 0.3 * N
        assert set(numbers(half.sample(10**6))) == set(own)
        assert sorted(numbers(take(half.reordered(5), len(own)))) == sorted(own)
        assert half.held_out() is source.held_out()


def test_a_sample_has_distinct_tokens_of_several_shards(opened: Opened) -> None:
    source = opened.source()
    before = take(source, 40)
    for size in (1, 30, 10**6):
        rows = numbers(source.sample(size))
        assert len(rows) == len(set(rows)) == min(size, N)
        assert torch.equal(source.sample(size), opened.source().sample(size))
    assert len(set(shard_of(numbers(source.sample(30))))) > 4
    assert torch.equal(take(source, 40), before)


def test_the_next_block_is_read_ahead_and_no_further(opened: Opened) -> None:
    source = opened.source(20, shards=8)
    blocks = source._grouped(0)
    for path in (opened.folder / "flaky/train").glob("*.safetensors"):
        path.unlink()
    Flaky.read.clear()
    batches = source.batches(1)
    next(batches)
    del batches  # ends once the thread that reads ahead is done
    read = {int(path[-17:-12]) for path in Flaky.read}
    assert read == set(blocks[0]) | set(blocks[1])


def test_no_token_to_train_on_is_told(opened: Opened) -> None:
    source = opened.source()
    source._train.n_tokens = 0
    with pytest.raises(DataError, match="no token is left to train on"):
        StoreSource(source._train, source.held_out(), 0, 1, Path())
