import numpy as np
import pytest
import torch

import analysis.latents.peaks
from analysis.latents.peaks import DocumentPeaks, PeakAccumulator
from crosscoder.activations.batch import ActivationBatch
from crosscoder.dictionary.sparse_latents import SparseLatents

TOKENS, LATENTS, LENGTH = 600, 6, 10


def code() -> torch.Tensor:
    """Few distinct values, so that there are ties; the last latent never fires."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(1, 40, (TOKENS, LATENTS), generator=generator).float()
    values *= torch.rand(TOKENS, LATENTS, generator=generator) < 0.2
    values[:, -1] = 0
    return values


def accumulate(
    values: torch.Tensor, batch: int, n_top: int = 4, n_sample: int = 5, seed: int = 0
) -> PeakAccumulator:
    accumulator = PeakAccumulator(n_top, n_sample, seed)
    rows = torch.arange(TOKENS)
    for part in rows.split(batch):
        where = ActivationBatch(values[part], part // LENGTH, part % LENGTH)
        accumulator.update(where, SparseLatents.from_dense(values[part]))
    return accumulator


def listed(peaks: DocumentPeaks) -> list[tuple[int, int, int, float]]:
    return list(
        zip(
            peaks.latent.tolist(),
            peaks.document.tolist(),
            peaks.position.tolist(),
            peaks.peak.tolist(),
            strict=True,
        )
    )


def brute_force(values: torch.Tensor, count: int) -> list[tuple[int, int, int, float]]:
    expected = []
    for latent in range(LATENTS):
        found = []
        for document in range(TOKENS // LENGTH):
            column = values[document * LENGTH : (document + 1) * LENGTH, latent]
            if column.max() > 0:
                # The first of equal maxima.
                position = int((column == column.max()).nonzero()[0])
                found.append((-float(column.max()), document, position))
        expected += [
            (latent, document, position, -negative) for negative, document, position in sorted(found)[:count]
        ]
    return expected


def test_top_examples_equal_a_brute_force_search() -> None:
    values = code()
    assert listed(accumulate(values, TOKENS).top) == brute_force(values, 4)


def test_batches_do_not_matter_even_if_they_split_documents() -> None:
    values = code()
    for batch in (1, 7, 10, 64):
        accumulator = accumulate(values, batch)
        assert listed(accumulator.top) == brute_force(values, 4)
        assert listed(accumulator.sample) == listed(accumulate(values, TOKENS).sample)


def test_truncating_lists_during_the_pass_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = listed(accumulate(code(), TOKENS).sample)
    monkeypatch.setattr(analysis.latents.peaks, "_PENDING", 3)
    values = code()
    for batch in (7, 10):
        accumulator = accumulate(values, batch)
        assert listed(accumulator.top) == brute_force(values, 4)
        assert listed(accumulator.sample) == whole


def test_no_document_is_shown_twice_for_a_latent() -> None:
    for peaks in (accumulate(code(), 3).top, accumulate(code(), 3).sample):
        pairs = list(zip(peaks.latent.tolist(), peaks.document.tolist(), strict=True))
        assert len(pairs) == len(set(pairs))


def test_the_sample_is_uniform() -> None:
    """Over seeds, every document in which a latent fires is drawn about equally often, for any peak."""
    values = code()
    firing = [document for latent, document, *_ in brute_force(values, TOKENS) if latent == 0]
    drawn = np.zeros(TOKENS // LENGTH)
    for seed in range(300):
        sample = accumulate(values, TOKENS, seed=seed).sample
        drawn[sample.document[sample.latent == 0]] += 1
    assert set(np.flatnonzero(drawn)) == set(firing)
    expected = 300 * 5 / len(firing)
    assert np.abs(drawn[firing] - expected).max() < 5 * np.sqrt(expected)


def test_a_latent_that_never_fires_has_no_examples() -> None:
    assert LATENTS - 1 not in accumulate(code(), 50).top.latent
