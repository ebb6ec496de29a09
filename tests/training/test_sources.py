import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from crosscoder.activations.batch import split_models
from crosscoder.activations.shards import ShardReader
from crosscoder.config import FileActivations, RunConfig
from crosscoder.errors import ConfigError, DataError, FormatError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import tokenize
from tests.tiny_pairs import run_config, save_llama
from training import sources
from training.block_order import SourceState, prefetch
from training.harvest import harvest
from training.sources import (
    CachedSource,
    FileSource,
    StreamedSource,
    TokenSource,
    open_source,
)

KINDS = ("cache", "files", "stream")
BATCH = 37
BUFFER = 150


class Opened:
    """The three kinds of sources over the same tokens, and their expected content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        llama, tuned = save_llama(folder / "reference"), save_llama(folder / "intervened", 1, width=12)
        # Two positions are masked because all chats begin with the same token after the BOS, with equal activations.
        cached = run_config(folder, llama, tuned, tokens={"mask_first": 2})
        activations = {
            "kind": "stream",
            "dtype": "float32",
            "shard_tokens": 120,
            "batch_tokens": 96,
            "buffer_tokens": BUFFER,
        }
        self.configs = {
            "cache": cached,
            "stream": RunConfig.model_validate(cached.model_dump() | {"activations": activations}),
            "files": self.write_files(),
        }
        assert cached.pair is not None
        assert cached.text is not None
        self.pair: ModelPair = load_pair(cached.pair)
        self.documents = tokenize(
            cached.text, cached.tokens, self.pair.tokenizer, self.pair.chat_template, cached.seed
        )
        self.folders = {kind: RunFolder(folder / kind) for kind in KINDS}
        for kind in ("cache", "stream"):
            harvest(self.folders[kind], self.configs[kind], self.pair, self.documents)

    def write_files(self) -> RunConfig:
        """Rows of non-contiguous documents, in two kinds of files."""
        generator = torch.Generator().manual_seed(0)
        reference, intervened = (torch.randn(700, width, generator=generator) for width in (5, 3))
        np.save(self.folder / "reference.npy", reference.numpy())
        save_file({"x": intervened}, self.folder / "intervened.safetensors")
        np.save(self.folder / "documents.npy", torch.randint(40, (700,), generator=generator).numpy())
        files = {
            "kind": "files",
            "reference": str(self.folder / "reference.npy"),
            "intervened": str(self.folder / "intervened.safetensors"),
            "documents": str(self.folder / "documents.npy"),
        }
        return RunConfig.model_validate({"output": str(self.folder / "files"), "activations": files})

    def open(self, kind: str, seed: int = 0) -> TokenSource:
        config = self.configs[kind]
        if seed and kind == "files":
            return open_source(self.folders[kind], config.model_copy(update={"seed": seed}))
        return open_source(self.folders[kind], config, self.pair if kind == "stream" else None)

    def train_rows(self, kind: str) -> Tensor:
        """All training tokens, read from the files rather than from the source under test."""
        if kind == "files":
            held_out = set(
                self.open(kind)
                .held_out()
                .gather(torch.arange(self.open(kind).held_out().n_tokens))
                .document.tolist()
            )
            document = np.load(self.folder / "documents.npy")
            keep = torch.tensor([entry not in held_out for entry in document.tolist()])
            return all_files(self.folder)[keep]
        reader = ShardReader(self.folders["cache"].activations, "train")
        return reader.gather(torch.arange(reader.n_tokens)).values


def all_files(folder: Path) -> Tensor:
    from safetensors.torch import load_file

    reference = torch.from_numpy(np.load(folder / "reference.npy"))
    return torch.cat([reference, load_file(folder / "intervened.safetensors")["x"]], dim=1)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(tmp_path_factory.mktemp("sources"))


def places(rows: Tensor, known: Tensor) -> list[int]:
    """Index of the nearest known row for each row, which must be close: padding changes the last bits."""
    distance, place = torch.cdist(
        rows.double(), known.double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).min(dim=1)
    assert distance.max() < 1e-3
    return place.tolist()


def take(source: TokenSource, n_tokens: int, batch_tokens: int = BATCH) -> Tensor:
    """The first tokens of a source."""
    n_batches = -(-n_tokens // batch_tokens)
    batches = [values for values, _ in itertools.islice(source.batches(batch_tokens), n_batches)]
    assert all(len(values) == batch_tokens for values in batches)
    return torch.cat(batches)[:n_tokens]


@pytest.mark.parametrize("kind", KINDS)
def test_every_training_token_occurs_exactly_once_a_pass(opened: Opened, kind: str) -> None:
    """Also covers defect 6 of peers: a buffer that never refreshes repeats its first content."""
    source = opened.open(kind)
    n_tokens = source.n_train_tokens
    assert n_tokens > 2 * BUFFER
    assert n_tokens % BATCH
    expected = opened.train_rows(kind)
    assert len(expected) == n_tokens
    passes = take(source, 3 * n_tokens).split(n_tokens)
    for rows in passes:
        assert sorted(places(rows, expected)) == list(range(n_tokens))
    for one, other in itertools.combinations(passes, 2):
        assert not torch.equal(one, other)
        assert (one == other).all(dim=1).float().mean() < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_halves_are_disjoint_documents_and_together_the_whole(opened: Opened, kind: str) -> None:
    source, expected = opened.open(kind), opened.train_rows(kind)
    halves = [source.half(number) for number in (0, 1)]
    assert sum(half.n_train_tokens for half in halves) == source.n_train_tokens == len(expected)
    found = [places(take(half, half.n_train_tokens), expected) for half in halves]
    assert sorted(found[0] + found[1]) == list(range(len(expected)))
    for half, own in zip(halves, found, strict=True):
        assert half.n_train_tokens > 0.3 * len(expected)
        assert set(places(half.sample(10**6), expected)) == set(own), "the normalization sees no other half"
        assert half.held_out().n_tokens == source.held_out().n_tokens
        again = source.reordered(7).half(halves.index(half))
        assert sorted(places(take(again, again.n_train_tokens), expected)) == sorted(own), (
            "the same for every seed"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_pass_are_mixed(opened: Opened, kind: str) -> None:
    """A batch mixes many documents, so that its tokens are not correlated."""
    source = opened.open(kind)
    order = places(take(source, source.n_train_tokens), opened.train_rows(kind))
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_tokens_are_never_trained_on(opened: Opened, kind: str) -> None:
    source = opened.open(kind)
    reader = source.held_out()
    held_out = torch.cat([batch.values for batch in reader.batches(16)])
    assert len(held_out) == reader.n_tokens > 0
    for rows in (take(source, 2 * source.n_train_tokens), source.sample(10**6)):
        assert torch.cdist(rows.double(), held_out.double()).min() > 1e-3


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(KINDS), stop=st.integers(0, 45), batch_tokens=st.integers(1, 90))
def test_from_any_state_the_same_batches_follow(
    opened: Opened, kind: str, stop: int, batch_tokens: int
) -> None:
    whole = list(itertools.islice(opened.open(kind).batches(batch_tokens), stop + 6))
    # As a checkpoint stores it.
    state: SourceState | None = json.loads(json.dumps(whole[stop][1]))
    rest = itertools.islice(opened.open(kind).batches(batch_tokens, state), 5)
    for (values, after), (expected, expected_after) in zip(rest, whole[stop + 1 :], strict=True):
        assert torch.equal(values, expected)
        assert after == expected_after


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_may_be_larger_than_a_pass(opened: Opened, kind: str) -> None:
    source = opened.open(kind)
    n_tokens = source.n_train_tokens
    (first, state), (second, _) = itertools.islice(source.batches(n_tokens + 10), 2)
    assert len(first) == len(second) == n_tokens + 10
    expected = opened.train_rows(kind)
    for rows in (first[:n_tokens], torch.cat([first[n_tokens:], second[: n_tokens - 10]])):
        assert sorted(places(rows, expected)) == list(range(n_tokens))
    assert state["pass_index"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_distinct_training_tokens_and_does_not_affect_the_batches(
    opened: Opened, kind: str
) -> None:
    source = opened.open(kind)
    expected = opened.train_rows(kind)
    before = take(source, 100)
    for size in (1, 50, 300):
        rows = source.sample(size)
        assert len(rows) == size
        assert len(set(places(rows, expected))) == size
        assert torch.equal(rows, opened.open(kind).sample(size))
    assert len(source.sample(10**6)) == source.n_train_tokens
    assert torch.equal(take(source, 100), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_covers_all_training_tokens(opened: Opened, kind: str) -> None:
    """Its mean is closer to that of all tokens than the mean of the first rows would usually be."""
    source = opened.open(kind)
    everything = opened.train_rows(kind)
    sample = source.sample(300)
    error = (sample.mean(dim=0) - everything.mean(dim=0)).norm() / everything.std(dim=0).norm()
    assert error < 0.25


def test_the_order_follows_the_seed(opened: Opened) -> None:
    train = ShardReader(opened.folders["cache"].activations, "train")
    orders = [next(CachedSource(train, train, seed).batches(BATCH))[0] for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_stream_and_cache_have_the_same_tokens(opened: Opened) -> None:
    cached, streamed = opened.open("cache"), opened.open("stream")
    assert cached.n_train_tokens == streamed.n_train_tokens
    assert cached.d_models == streamed.d_models == (16, 12)
    n_tokens = cached.n_train_tokens
    assert sorted(places(take(cached, n_tokens), take(streamed, n_tokens))) == list(range(n_tokens))


def test_a_stream_drops_the_outliers_that_a_cache_drops(opened: Opened, tmp_path: Path) -> None:
    counts = {}
    for kind in ("cache", "stream"):
        policy = opened.configs[kind].tokens.model_copy(update={"outlier_multiple": 1.3})
        config = opened.configs[kind].model_copy(update={"tokens": policy})
        folder = RunFolder(tmp_path / kind)
        harvest(folder, config, opened.pair, opened.documents)
        counts[kind] = open_source(folder, config, opened.pair)
    n_tokens = counts["cache"].n_train_tokens
    assert n_tokens < counts["stream"].n_train_tokens
    found = places(take(counts["cache"], n_tokens), take(counts["stream"], n_tokens))
    assert sorted(found) == list(range(n_tokens))


def test_a_stream_refreshes_its_buffer(opened: Opened) -> None:
    """Defect 6 of peers: the number of distinct tokens reaches all training tokens within one pass."""
    source = opened.open("stream")
    rows = take(source, source.n_train_tokens)
    order = places(rows, opened.train_rows("stream"))
    distinct = [len(set(order[:count])) for count in (BUFFER // 2, 2 * BUFFER, source.n_train_tokens)]
    assert distinct == [BUFFER // 2, 2 * BUFFER, source.n_train_tokens]


def test_a_stream_extracts_no_more_than_it_returns(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened.open("stream")
    assert isinstance(source, StreamedSource)
    read: list[int] = []
    extract = sources.extract

    def counted(*arguments: Any) -> Any:
        rows = extract(*arguments)
        read.append(len(rows.values))
        return rows

    monkeypatch.setattr(sources, "extract", counted)
    take(source, source.n_train_tokens, batch_tokens=1)
    assert sum(read) == source.n_train_tokens


def test_prefetching_a_block_changes_nothing(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches, and the states that come with them; a state never runs ahead of the batches that were returned."""
    expected = list(itertools.islice(opened.open("stream").batches(BATCH), 30))
    monkeypatch.setattr(opened.pair, "device", CudaInName())
    source = opened.open("stream")
    assert isinstance(source, StreamedSource)
    threads: set[str] = set()
    extract = sources.extract

    def watched(*arguments: Any) -> Any:
        threads.add(threading.current_thread().name)
        with monkeypatch.context() as patch:
            patch.setattr(opened.pair, "device", torch.device("cpu"))
            return extract(*arguments)

    monkeypatch.setattr(sources, "extract", watched)
    for stop in (0, 13):
        found = itertools.islice(source.batches(BATCH, expected[stop - 1][1] if stop else None), 10)
        for (values, after), (known, known_after) in zip(found, expected[stop:], strict=False):
            assert torch.equal(values, known)
            assert after == known_after
    assert all(name.startswith("next block") for name in threads)


class CudaInName:
    """A device that only claims to be a GPU."""

    type = "cuda"


def test_one_item_is_prefetched_and_its_error_surfaces() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(4):
            made.append(item)
            yield item
        raise DataError("the fifth is broken")

    found: list[int] = []

    def use() -> None:
        for item in prefetch(items()):
            found.append(item)
            assert len(made) <= len(found) + 1

    with pytest.raises(DataError, match="the fifth is broken"):
        use()
    assert found == made == [0, 1, 2, 3]
    assert list(prefetch(iter("abc"))) == ["a", "b", "c"]


# --- opening ----------------------------------------------------------------------------------------------------------


def test_activations_of_other_settings_are_refused(opened: Opened) -> None:
    config = opened.configs["cache"].model_copy(update={"seed": 3})
    with pytest.raises(FormatError, match=r"settings\.seed was 0, now it is 3"):
        open_source(opened.folders["cache"], config)
    with pytest.raises(FormatError, match=r"settings\.activations\.kind was 'cache', now it is 'stream'"):
        open_source(opened.folders["cache"], opened.configs["stream"])
    with pytest.raises(FormatError, match="run the harvest first"):
        open_source(RunFolder(opened.folder / "nowhere"), opened.configs["cache"])


def test_changed_documents_are_refused(opened: Opened, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    harvest(folder, opened.configs["stream"], opened.pair, opened.documents)
    changed = opened.documents.token_ids.copy()
    changed[5] += 1
    from dataclasses import replace

    replace(opened.documents, token_ids=changed).save(folder.activations / "documents.safetensors")
    with pytest.raises(FormatError, match=r"documents\.safetensors: changed since the harvest"):
        open_source(folder, opened.configs["stream"], opened.pair)


def test_the_buffer_of_a_stream_may_change(opened: Opened) -> None:
    """It shuffles training tokens; the shards on disk do not depend on it."""
    config = opened.configs["stream"]
    wider = config.model_copy(
        update={"activations": config.activations.model_copy(update={"buffer_tokens": 300})}
    )
    assert open_source(opened.folders["stream"], wider, opened.pair).n_train_tokens > 0


# --- a user's own files -----------------------------------------------------------------------------------------------


def files(reference: Path, intervened: Path, **more: Any) -> FileActivations:
    return FileActivations.model_validate(
        {"reference": str(reference), "intervened": str(intervened), **more}
    )


def save_array(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def test_documents_of_files_are_whole_and_contiguous(opened: Opened) -> None:
    source = opened.open("files")
    reader = source.held_out()
    batch = reader.gather(torch.arange(reader.n_tokens))
    document = np.load(opened.folder / "documents.npy")
    for entry in set(batch.document.tolist()):
        rows = batch.document == entry
        places = rows.nonzero()[:, 0]
        assert places.tolist() == list(range(int(places[0]), int(places[0]) + len(places)))
        assert batch.position[rows].tolist() == list(range(len(places)))
        assert torch.equal(batch.values[rows], all_files(opened.folder)[torch.from_numpy(document == entry)])
    assert len(set(batch.document.tolist())) == round(0.1 * len(set(document.tolist())))


def test_files_without_documents_are_blocks_of_256_rows(tmp_path: Path) -> None:
    values = np.arange(1100 * 2, dtype=np.float32).reshape(1100, 2)
    path = save_array(tmp_path / "a.npy", values)
    reader = FileSource(files(path, path, held_out=0.4), 0).held_out()
    batch = reader.gather(torch.arange(reader.n_tokens))
    assert torch.equal(batch.document, (batch.values[:, 0] / 2).long() // 256)
    assert torch.equal(batch.values[:, :2], batch.values[:, 2:])
    assert len(set(batch.document.tolist())) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_files_of_every_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(600, 3).to(dtype)
    save_file({"x": values}, tmp_path / "a.safetensors")
    source = FileSource(files(tmp_path / "a.safetensors", tmp_path / "a.safetensors"), 0)
    assert source.sample(5).dtype == (torch.float32 if dtype == torch.float64 else dtype)
    together = torch.cat([source.sample(600), *(batch.values for batch in source.held_out().batches(99))])
    assert sorted(places(split_models(together, (3, 3))[0], values)) == list(range(600))


def test_numpy_files_in_column_order_and_of_other_byte_order(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    plain = save_array(tmp_path / "plain.npy", values)
    for name, variant in (("columns", np.asfortranarray(values)), ("swapped", values.astype(">f4"))):
        source = FileSource(files(plain, save_array(tmp_path / f"{name}.npy", variant)), 0)
        one, other = split_models(source.sample(600), source.d_models)
        assert torch.equal(one, other)


def test_bad_files_are_named(tmp_path: Path) -> None:
    good = save_array(tmp_path / "good.npy", np.ones((600, 3), dtype=np.float32))
    broken = np.ones((600, 3), dtype=np.float32)
    broken[[70, 300], 1] = np.nan, np.inf
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "two.safetensors")
    (tmp_path / "table.csv").write_text("1,2")
    (tmp_path / "cut.npy").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes()[:-1])
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    cases: list[tuple[Path, type[Exception], str]] = [
        (tmp_path / "gone.npy", ConfigError, r"gone\.npy is not a file"),
        (tmp_path, ConfigError, "is not a file"),
        (tmp_path / "table.csv", ConfigError, r"ends in '\.csv'"),
        (tmp_path / "cut.npy", FormatError, r"cut\.npy cannot be read"),
        (tmp_path / "empty.npy", FormatError, r"empty\.npy cannot be read"),
        (objects, FormatError, r"objects\.npy cannot be read"),
        (tmp_path / "cut.safetensors", FormatError, r"cut\.safetensors: truncated"),
        (tmp_path / "two.safetensors", FormatError, r"contains 2 arrays \(a, b\)"),
        (
            save_array(tmp_path / "flat.npy", np.ones(600, dtype=np.float32)),
            DataError,
            "has shape \\(600,\\)",
        ),
        (
            save_array(tmp_path / "none.npy", np.ones((0, 3), dtype=np.float32)),
            DataError,
            "has shape \\(0, 3\\)",
        ),
        (save_array(tmp_path / "whole.npy", np.ones((600, 3), dtype=np.int32)), DataError, "has dtype int32"),
        (save_array(tmp_path / "short.npy", np.ones((599, 3), dtype=np.float32)), DataError, "has 599 rows"),
        (save_array(tmp_path / "nan.npy", broken), DataError, "in 2 of 600 rows, first in row 70"),
    ]
    for path, error, complaint in cases:
        with pytest.raises(error, match=r"activations\.intervened|cut\.safetensors") as caught:
            FileSource(files(good, path), 0)
        caught.match(complaint)
        assert "\n" not in str(caught.value)


def test_bad_documents_of_files_are_named(tmp_path: Path) -> None:
    good = save_array(tmp_path / "good.npy", np.ones((600, 3), dtype=np.float32))
    for name, array in (
        ("float", np.ones(600)),
        ("short", np.ones(599, dtype=int)),
        ("wide", np.ones((600, 1), dtype=int)),
    ):
        with pytest.raises(
            DataError, match=r"activations\.documents: .* one integer for each of the 600 rows"
        ):
            FileSource(files(good, good, documents=str(save_array(tmp_path / f"{name}.npy", array))), 0)
    with pytest.raises(DataError, match="form a single document"):
        FileSource(
            files(good, good, documents=str(save_array(tmp_path / "one.npy", np.ones(600, dtype=int)))), 0
        )
    small = save_array(tmp_path / "small.npy", np.ones((256, 3), dtype=np.float32))
    with pytest.raises(DataError, match="form a single document"):
        FileSource(files(small, small), 0)
