from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.latents.histograms import ActivationHistograms
from analysis.tables.columns import HISTOGRAMS
from crosscoder.dictionary.sparse_latents import SparseLatents

from ..table_checks import described

SOURCES = ("chat", "prose", "code")


def counted(
    code: torch.Tensor, source: torch.Tensor, batch: int, order: torch.Tensor | None = None
) -> ActivationHistograms:
    histograms = ActivationHistograms(code.shape[1], len(SOURCES))
    order = torch.arange(len(code)) if order is None else order
    for part in order.split(batch):
        histograms.update(SparseLatents.from_dense(code[part]), source[part])
    return histograms


def activations(n_tokens: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of very different scales, one of which never fires, and the source of every token."""
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(n_tokens, 4, generator=generator).exp() * torch.tensor([1e-6, 1.0, 300.0, 0.0])
    code *= torch.rand(n_tokens, 4, generator=generator) < 0.3
    return code, torch.randint(len(SOURCES), (n_tokens,), generator=generator)


@pytest.mark.parametrize("batch", [1, 64])
def test_counts_do_not_depend_on_batches_or_order(batch: int) -> None:
    code, source = activations()
    whole = counted(code, source, 2000)
    shuffled = counted(code, source, batch, torch.randperm(2000))
    assert torch.equal(whole.counts, shuffled.counts)
    assert torch.equal(whole.maximum, shuffled.maximum)
    assert torch.equal(whole.widths(), shuffled.widths())


def rows_of(histograms: ActivationHistograms) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """Latent, source, edges and counts of each row."""
    for row in histograms.table(SOURCES, torch.tensor([100, 200, 300])).to_pylist():
        edges = np.arange(len(row["counts"]) + 1) * row["width"]
        yield row["latent"], row["source"], edges, np.asarray(row["counts"])


def test_counts_equal_a_histogram_of_all_values() -> None:
    code, source = activations()
    rows = list(rows_of(counted(code, source, 100)))
    assert [(latent, name) for latent, name, _, _ in rows] == [
        (latent, name) for latent in range(3) for name in SOURCES
    ]
    for latent, name, edges, counts in rows:
        values = code[:, latent][(code[:, latent] > 0) & (source == SOURCES.index(name))]
        # The last bin of numpy includes its upper edge; nothing lies there.
        np.testing.assert_array_equal(counts, np.histogram(values.double(), bins=edges)[0])
        largest = float(code[:, latent].max())
        assert 17 <= len(counts) <= 32
        assert edges[-2] <= largest < edges[-1]


values = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, len(SOURCES) - 1),
        st.floats(0, 2.0**60, width=32, allow_subnormal=False),
    ),
    min_size=1,
    max_size=60,
)


@settings(deadline=None)
@given(values, st.integers(1, 7), st.randoms(use_true_random=False))
def test_sources_add_up_to_the_histogram_of_all_tokens(
    tokens: list[tuple[int, int, float]], batch: int, random: object
) -> None:
    """Exactly, in every bin, for any order and batching of the data."""
    code = torch.zeros(len(tokens), 3)
    for row, (latent, _, value) in enumerate(tokens):
        code[row, latent] = value
    source = torch.tensor([name for _, name, _ in tokens])
    order = list(range(len(tokens)))
    random.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    by_source = counted(code, source, batch, torch.tensor(order))
    together = counted(code, torch.zeros_like(source), len(tokens))
    assert torch.equal(by_source.widths(), together.widths())
    assert torch.equal(by_source.counts.sum(dim=1), together.counts.sum(dim=1))
    assert torch.equal(by_source.counts.sum(dim=(1, 2)), (code > 0).sum(dim=0))
    for latent, name, edges, counts in rows_of(by_source):
        own = code[:, latent][(code[:, latent] > 0) & (source == SOURCES.index(name))]
        np.testing.assert_array_equal(counts, np.histogram(own.double(), bins=edges)[0])


def test_a_latent_that_never_fired_has_no_row() -> None:
    code, source = activations()
    assert {latent for latent, *_ in rows_of(counted(code, source, 100))} == {0, 1, 2}
    silent = counted(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64), 2)
    assert silent.table(SOURCES, torch.tensor([5, 0, 0])).num_rows == 0


def test_powers_of_two_start_a_bin() -> None:
    code = torch.tensor([[1.0], [2.0], [4.0], [4.0]])
    histograms = counted(code, torch.tensor([0, 0, 1, 2]), 1)
    assert float(histograms.widths()) == 8 / 32
    rows = {name: counts for _, name, _, counts in rows_of(histograms)}
    assert len(rows["chat"]) == 17
    assert rows["chat"].nonzero()[0].tolist() == [4, 8]
    assert rows["prose"].nonzero()[0].tolist() == rows["code"].nonzero()[0].tolist() == [16]


def test_memory_is_128_bytes_a_latent_and_source() -> None:
    counts = ActivationHistograms(1000, 8).counts
    assert counts.element_size() * counts.numel() == 128 * 1000 * 8


def test_the_file_is_as_described(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    code, source = activations()
    pq.write_table(
        counted(code, source, 100).table(SOURCES, torch.tensor([1, 2, 3])), tmp_path / "histograms.parquet"
    )
    described(tmp_path / "histograms.parquet", HISTOGRAMS)
