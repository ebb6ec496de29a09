from typing import Any

import numpy as np
import pytest
import torch

from analysis.latents.dictionary_view import view_of
from analysis.latents.examples import RowFinder, examples_table, select_examples
from analysis.latents.peaks import DocumentPeaks, PeakAccumulator
from analysis.tables.columns import EXAMPLES
from crosscoder.activations.batch import ActivationBatch
from crosscoder.planted import SMALL, PlantedPair
from tests.analysis.readers import MemoryReader

D_MODELS = (48, 48)
SIDE = 3


class GappyReader(MemoryReader):
    """Omits some tokens, as masking does."""

    def __init__(self, values: torch.Tensor, d_models: tuple[int, ...]) -> None:
        super().__init__(values, d_models)
        self.all_documents = self.document.numpy()
        kept = (torch.arange(len(values)) % 7 != 0).nonzero().flatten()
        self.values, self.document, self.position = values[kept], self.document[kept], self.position[kept]
        self.n_tokens = len(kept)


@pytest.fixture(scope="module")
def shown() -> Any:
    from analysis.latents.token_context import RowContext

    pair = PlantedPair(counts=SMALL)
    reader = GappyReader(pair.sample(3000), D_MODELS)
    view = view_of(pair.dictionary(extra_latents=1), D_MODELS, "paired")
    peaks, finder = PeakAccumulator(4, 20, 0), RowFinder()
    for batch in reader.batches(64):
        peaks.update(batch, view.encode(batch.values).sparse_latents)
        finder.update(batch)
    selection = select_examples(peaks.top, peaks.sample, 3)
    context = RowContext(reader.all_documents)
    table = examples_table(reader, view, context, finder, selection, SIDE)
    assert table.schema.equals(EXAMPLES.schema())
    return reader, view, selection, table.to_pylist()


def test_windows_hold_the_latents_of_the_tokens_they_show(shown: Any) -> None:
    reader, view, _, rows = shown
    code = view.encode(reader.values).sparse_latents.dense()
    norms = [part.norm(dim=1) for part in view.raw]
    place = {
        (int(d), int(p)): i for i, (d, p) in enumerate(zip(reader.document, reader.position, strict=True))
    }
    masked = 0
    for row in rows:
        assert row["start"] == max(0, row["position"] - SIDE)
        assert len(row["values"]) == min(20, row["position"] + SIDE + 1) - row["start"]
        for offset, value in enumerate(row["values"]):
            found = place.get((row["document"], row["start"] + offset))
            masked += found is None
            expected = 0.0 if found is None else float(code[found, row["latent"]])
            assert value == pytest.approx(expected, abs=1e-5)
            assert row["reference"][offset] == pytest.approx(
                expected * float(norms[0][row["latent"]]), abs=1e-4
            )
            assert row["intervened"][offset] == pytest.approx(
                expected * float(norms[1][row["latent"]]), abs=1e-4
            )
            assert row["tokens"][offset] == str(row["document"] * 20 + row["start"] + offset)
        assert row["peak"] == pytest.approx(row["values"][row["position"] - row["start"]], abs=1e-5)
        assert row["peak"] == max(row["values"]) or row["peak"] == pytest.approx(max(row["values"]), abs=1e-5)
    assert masked > 0


def test_rows_are_ordered_and_ranked(shown: Any) -> None:
    *_, rows = shown
    by_latent: dict[int, list[Any]] = {}
    for row in rows:
        by_latent.setdefault(row["latent"], []).append(row)
    assert list(by_latent) == list(range(20))
    for examples in by_latent.values():
        top = [row for row in examples if row["quantile"] is None]
        drawn = [row for row in examples if row["quantile"] is not None]
        assert examples == top + drawn
        assert [row["rank"] for row in top] == list(range(len(top)))
        assert [row["rank"] for row in drawn] == list(range(len(drawn)))
        assert len(drawn) == 3
        assert [row["peak"] for row in examples[: len(top)]] == sorted(
            (row["peak"] for row in top), reverse=True
        )
        assert [row["quantile"] for row in drawn] == sorted((row["quantile"] for row in drawn), reverse=True)
        documents = [row["document"] for row in examples]
        assert len(set(documents)) == len(documents)


def peaks_of(latent: int, peaks: list[float], documents: list[int]) -> DocumentPeaks:
    count = len(peaks)
    return DocumentPeaks(
        np.full(count, latent),
        np.array(documents),
        np.zeros(count, dtype=np.int64),
        np.array(peaks),
        np.array(peaks),
    )


def test_sampled_examples_are_spread_over_the_quantiles() -> None:
    sample = peaks_of(0, [float(i) for i in range(100)], list(range(100)))
    top = sample.take(np.array([99, 98]))
    selection = select_examples(top, sample, 4)
    drawn = ~np.isnan(selection.quantile)
    assert drawn.sum() == 4
    assert not set(selection.peaks.document[drawn]) & {99, 98}
    gaps = np.diff(selection.quantile[drawn])
    assert np.all((gaps < -0.2) & (gaps > -0.3))
    assert np.allclose(selection.quantile[drawn], (selection.peaks.peak[drawn] + 0.5) / 100)


def test_few_documents_are_all_shown_once() -> None:
    sample = peaks_of(2, [3.0, 2.0, 1.0], [7, 8, 9])
    selection = select_examples(sample.take(np.array([0])), sample, 8)
    assert selection.peaks.document.tolist() == [7, 8, 9]
    assert np.isnan(selection.quantile).tolist() == [True, False, False]


def test_no_latents() -> None:
    selection = select_examples(DocumentPeaks.empty(), DocumentPeaks.empty(), 3)
    assert len(selection.peaks) == 0


def test_missing_tokens_have_no_row() -> None:
    finder = RowFinder()
    finder.update(ActivationBatch(torch.zeros(3, 1), torch.tensor([5, 5, 9]), torch.tensor([0, 2, 1])))
    find = finder.lookup()
    assert find(np.array([5, 5, 5, 9, 9, 5]), np.array([0, 1, 2, 1, 7, -1])).tolist() == [0, -1, 1, 2, -1, -1]
