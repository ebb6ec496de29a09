import torch

from analysis.histograms import ActivationHistograms
from crosscoder.firings import Firings


def histogram_of(code: torch.Tensor, batch: int, order: torch.Tensor | None = None) -> ActivationHistograms:
    histograms = ActivationHistograms(code.shape[1])
    rows = code if order is None else code[order]
    for part in rows.split(batch):
        histograms.update(Firings.of(part))
    return histograms


def activations() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(2000, 4, generator=generator).exp() * torch.tensor([1e-6, 1.0, 300.0, 0.0])
    return code * (torch.rand(2000, 4, generator=generator) < 0.3)


def test_counts_do_not_depend_on_batches_or_order() -> None:
    code = activations()
    whole = histogram_of(code, 2000)
    for batch in (1, 64):
        shuffled = histogram_of(code, batch, torch.randperm(2000))
        assert torch.equal(whole.counts, shuffled.counts)
        assert torch.equal(whole.maximum, shuffled.maximum)


def test_close_to_the_histogram_of_all_values() -> None:
    """Only what lies within a fine bin of an edge may be counted next to it."""
    code = activations()
    histograms = histogram_of(code, 100)
    for latent in range(3):
        values = code[:, latent][code[:, latent] > 0]
        edges, counts = histograms.result(latent)
        assert float(edges[-1]) == float(values.max())
        assert int(counts.sum()) == len(values)
        exact = torch.histogram(values, bins=20, range=(0.0, float(values.max()))).hist
        fine = float(values.max()) / 128
        near = [int(((values - edge).abs() <= fine).sum()) for edge in edges]
        for place in range(20):
            assert abs(int(counts[place]) - int(exact[place])) <= near[place] + near[place + 1]


def test_a_latent_that_never_fired_has_no_counts() -> None:
    edges, counts = histogram_of(activations(), 100).result(3)
    assert int(counts.sum()) == 0
    assert float(edges.max()) == 0


def test_powers_of_two_stay_inside() -> None:
    code = torch.tensor([[1.0], [2.0], [4.0], [4.0]])
    _, counts = histogram_of(code, 1).result(0)
    assert counts[-1] == 2
    assert int(counts.sum()) == 4
