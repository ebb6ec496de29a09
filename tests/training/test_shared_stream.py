"""A stream that ranks compute together gives each of them the tokens that it would compute alone, and runs the models once."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosscoder.config import RunConfig
from crosscoder.language_models.pair import load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import tokenize
from tests.thread_ranks import ThreadGroup, on_ranks
from tests.tiny_pairs import run_config, save_llama
from training import sources
from training.extraction import Batch
from training.harvest import harvest
from training.shared_stream import SharedBlocks
from training.sources import SourceState, StreamedSource, open_source

BATCHES_OF_BLOCKS = (3, 1, 4, 2)


def rows_of(batch: Batch) -> Tensor:
    """Rows that tell their batch, of a number that depends on it, possibly 0."""
    number = int(batch[0])
    return torch.full((number % 4, 2), float(number), dtype=torch.bfloat16)


def plan(pass_index: int, block: int) -> Iterator[tuple[int, int, list[Batch]]]:
    while True:
        for index in range(block, len(BATCHES_OF_BLOCKS)):
            first = 100 * pass_index + 10 * index
            yield pass_index, index, [np.array([first + one]) for one in range(BATCHES_OF_BLOCKS[index])]
        pass_index, block = pass_index + 1, 0


def alone(first: tuple[int, int], n_blocks: int) -> list[tuple[int, int, list[float]]]:
    blocks = plan(*first)
    return [
        (number, index, torch.cat([rows_of(batch) for batch in batches])[:, 0].tolist())
        for number, index, batches in (next(blocks) for _ in range(n_blocks))
    ]


Wanted = tuple[int, int, int]
"""The first block of a rank, and how many it needs; none is needed where that number is 0."""


@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=2),
        min_size=1,
        max_size=4,
    )
)
def test_ranks_that_need_different_blocks_get_those_of_one_process(wanted: list[list[Wanted]]) -> None:
    """Twice in a row: each rank then trains another dictionary."""

    def work(group: ThreadGroup) -> list[list[tuple[int, int, list[float]]]]:
        blocks = SharedBlocks(group, plan, rows_of, 2, torch.bfloat16)
        found = []
        for pass_index, block, n_blocks in wanted[group.rank]:
            following = blocks.follow(pass_index, block)
            got = [next(following) for _ in range(n_blocks)]
            following.close()
            blocks.finish()
            found.append([(number, index, rows[:, 0].tolist()) for number, index, rows in got])
        return found

    found, _ = on_ranks(len(wanted), work)
    assert found == [[alone(one[:2], one[2]) for one in rank] for rank in wanted]


@pytest.mark.parametrize("size", [2, 3])
def test_each_batch_is_computed_by_one_rank(size: int) -> None:
    computed: Counter[int] = Counter()

    def work(group: ThreadGroup) -> list[int]:
        own: list[int] = []

        def extract(batch: Batch) -> Tensor:
            own.append(int(batch[0]))
            return rows_of(batch)

        blocks = SharedBlocks(group, plan, extract, 2, torch.bfloat16)
        following = blocks.follow(0, 0)
        for _ in BATCHES_OF_BLOCKS:
            next(following)
        following.close()
        blocks.finish()
        return own

    found, _ = on_ranks(size, work)
    for own in found:
        computed.update(own)
    assert computed == Counter(
        10 * index + one for index, n_batches in enumerate(BATCHES_OF_BLOCKS) for one in range(n_batches)
    )
    assert all(found), "every rank has a share"


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> StreamedSource:
    folder = tmp_path_factory.mktemp("stream")
    activations = {"kind": "stream", "dtype": "bfloat16", "shard_tokens": 120, "batch_tokens": 48, "buffer_tokens": 150}  # fmt: skip
    plain = run_config(folder, save_llama(folder / "a"), save_llama(folder / "b", 1))
    config = RunConfig.model_validate(plain.model_dump() | {"activations": activations})
    assert config.pair is not None and config.text is not None
    pair = load_pair(config.pair)
    documents = tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, config.seed)
    run = RunFolder(folder / "run")
    harvest(run, config, pair, documents)
    source = open_source(run, config, pair)
    assert isinstance(source, StreamedSource)
    return source


def batches(
    source: StreamedSource, n: int, state: SourceState | None = None
) -> list[tuple[Tensor, SourceState]]:
    found = source.batches(37, state)
    return [next(found) for _ in range(n)]


def test_a_shared_stream_has_the_batches_of_the_stream(
    stream: StreamedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start and from a state, over the end of a pass; half of the documents, and another order, are computed alone."""
    state = batches(stream, 3)[-1][1]
    n_calls: list[int] = []
    extract = sources.extract
    monkeypatch.setattr(sources, "extract", lambda *words: n_calls.append(1) or extract(*words))
    expected = batches(stream, 25), batches(stream, 4, state), batches(stream.half(0), 3), batches(stream.reordered(5), 3)  # fmt: skip
    n_alone = len(n_calls)
    assert expected[0][-1][1]["pass_index"] > 0

    def work(group: ThreadGroup) -> tuple[list[tuple[Tensor, SourceState]], ...]:
        source = stream.share(group)
        assert source.shared is not None
        first = batches(source, 25) if group.rank else batches(source, 4, state)
        source.shared.finish()
        apart = source.half(0), source.reordered(5)
        assert [one.shared for one in apart] == [None, None]
        assert source.reordered(0).shared is source.shared
        return first, *(batches(one, 3) for one in apart)

    (zero, one), _ = on_ranks(2, work)
    for found, wanted in (
        (one[0], expected[0]),
        (zero[0], expected[1]),
        (one[1], expected[2]),
        (zero[2], expected[3]),
    ):
        assert [state for _, state in found] == [state for _, state in wanted]
        assert all(torch.equal(values, other) for (values, _), (other, _) in zip(found, wanted, strict=True))
    assert n_alone < len(n_calls) < 2.5 * n_alone, "the two of them run the models once on what they share"
