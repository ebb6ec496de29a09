import numpy as np
import pytest
import torch
from torch import Tensor

from crosscoder.config import BatchTopK, CrosscoderConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.metrics import relative_norm
from crosscoder.dictionary.views import View, view_rows
from crosscoder.planted import SMALL, PlantedPair
from tests.dictionaries import small_crosscoder
from tests.training.in_memory import InMemoryReader, source_of
from training.evaluation import (
    EVALUATION_TOKENS,
    HeldOutMeter,
    decoder_histograms,
    measure_reconstruction,
)

PAIR = PlantedPair(counts=SMALL)
WIDTHS = (48, 48)


def numpy_fve(actual: Tensor, reconstructed: Tensor) -> float:
    y, y_hat = actual.double().numpy(), reconstructed.double().numpy()
    return 1 - ((y - y_hat) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()


def one_model_dictionary(reads: View, seed: int = 0) -> Crosscoder:
    """A random, calibrated dictionary with the view `pooled` or `difference`."""
    config = CrosscoderConfig(d_models=(48,), model_names=(reads,), n_latents=32, sparsity=BatchTopK(k=3))
    crosscoder = Crosscoder(config, seed=seed)
    rows = view_rows(PAIR.sample(500, seed=1), WIDTHS, reads)
    crosscoder.set_normalization(rows)
    crosscoder.calibrate(rows)
    return crosscoder


def measured(
    crosscoder: Crosscoder, reads: View, values: Tensor, chunk: int = 2048
) -> dict[str, float | None]:
    meter = measure_reconstruction(crosscoder, values, WIDTHS, reads, chunk)
    named = {name: variance.result() for name, variance in zip(meter.names, meter.per_model, strict=True)}
    assert meter.difference is not None
    return named | {"diff": meter.difference.result(), "l0": meter.l0(), "dead": meter.dead_share()}


# --- reconstruction ---------------------------------------------------------------------------------------------------


def test_exact_dictionary_explains_all_but_the_noise() -> None:
    values = PAIR.sample(3000, seed=4)
    result = measured(PAIR.dictionary(), "paired", values)
    noise = 48 * PAIR.noise**2
    for name, part in (("reference", values[:, :48]), ("intervened", values[:, 48:])):
        variance = float((part - part.mean(dim=0)).square().sum(dim=1).mean())
        # The latents fit a little of the noise: 20 of 48 directions.
        explained = result[name]
        assert explained is not None
        assert 1 - noise / variance - 0.01 < explained < 1 - 0.4 * noise / variance
    assert result["l0"] == pytest.approx(PAIR.true_l0, rel=0.1)


def test_paired_measures_equal_the_numpy_reference() -> None:
    crosscoder = PAIR.dictionary(threshold=0.9)
    values = PAIR.sample(1000, seed=4)
    latents = crosscoder.encode(values).detach()
    reconstructed = crosscoder.decode(latents).detach().flatten(1)  # pyright: ignore[reportAttributeAccessIssue]
    result = measured(crosscoder, "paired", values)
    assert result["reference"] == pytest.approx(numpy_fve(values[:, :48], reconstructed[:, :48]), rel=1e-5)
    assert result["intervened"] == pytest.approx(numpy_fve(values[:, 48:], reconstructed[:, 48:]), rel=1e-5)
    shift, rebuilt_shift = (part[:, 48:] - part[:, :48] for part in (values, reconstructed))
    assert result["diff"] == pytest.approx(numpy_fve(shift, rebuilt_shift), rel=1e-5)
    assert result["l0"] == pytest.approx(float((latents > 0).sum()) / 1000)
    assert 0.2 < float(result["reference"] or 0) < 0.99


def test_pooled_encodes_each_model_alone_and_measures_the_difference_of_both() -> None:
    crosscoder, values = one_model_dictionary("pooled"), PAIR.sample(1000, seed=4)
    parts = values.split(48, dim=1)
    codes = [crosscoder.encode(part).detach() for part in parts]
    reconstructed = [crosscoder.decode(code).detach().flatten(1) for code in codes]  # pyright: ignore[reportAttributeAccessIssue]
    result = measured(crosscoder, "pooled", values)
    assert result["reference"] == pytest.approx(numpy_fve(parts[0], reconstructed[0]), rel=1e-5)
    assert result["intervened"] == pytest.approx(numpy_fve(parts[1], reconstructed[1]), rel=1e-5)
    assert result["diff"] == pytest.approx(
        numpy_fve(parts[1] - parts[0], reconstructed[1] - reconstructed[0]), rel=1e-5
    )
    assert result["l0"] == pytest.approx(sum(float((code > 0).sum()) for code in codes) / 2000)
    never = ~((codes[0] > 0).any(dim=0) | (codes[1] > 0).any(dim=0))
    assert result["dead"] == pytest.approx(float(never.float().mean()))
    assert result["reference"] != pytest.approx(result["intervened"], rel=1e-3), (
        "so that a swap would be seen"
    )


def test_difference_measures_the_difference() -> None:
    crosscoder, values = one_model_dictionary("difference"), PAIR.sample(1000, seed=4)
    shift = values[:, 48:] - values[:, :48]
    reconstructed = crosscoder(shift).detach().flatten(1)
    result = measured(crosscoder, "difference", values)
    assert result["difference"] == result["diff"] == pytest.approx(numpy_fve(shift, reconstructed), rel=1e-5)


@pytest.mark.parametrize("reads", ["paired", "pooled", "difference"])
@pytest.mark.parametrize("chunk", [1, 130, 999])
def test_chunks_do_not_matter(reads: View, chunk: int) -> None:
    crosscoder = PAIR.dictionary() if reads == "paired" else one_model_dictionary(reads)
    values = PAIR.sample(1000, seed=4)
    whole, chunked = measured(crosscoder, reads, values), measured(crosscoder, reads, values, chunk)
    assert chunked == pytest.approx(whole, rel=1e-5)


def test_low_precision_activations_are_measured_in_float32() -> None:
    values = PAIR.sample(1000, seed=4).bfloat16()
    crosscoder = PAIR.dictionary()
    assert measured(crosscoder, "paired", values) == measured(crosscoder, "paired", values.float())


# --- looks during training --------------------------------------------------------------------------------------------


def test_held_out_meter_calibrates_only_on_request() -> None:
    crosscoder = PAIR.dictionary()
    meter = HeldOutMeter(
        source_of(PAIR.sample(6000, seed=1), PAIR.sample(3000, seed=2), WIDTHS), "paired", 1000
    )
    threshold = crosscoder.sparsity.get_buffer("threshold")
    before = float(threshold)
    kept = meter.measure(crosscoder)
    assert float(threshold) == before
    meter.calibrate(crosscoder)
    assert float(threshold) != before
    assert kept.keys() == {
        "metrics/explained_variance/reference", "metrics/explained_variance/intervened", "diff/explained_variance",
        "metrics/held_out_l0", "sparsity/held_out_dead_share",
    }  # fmt: skip


@pytest.mark.parametrize("norm", [1.0, 1e-30, 0.0])
def test_norms_that_are_equal_up_to_rounding_have_a_histogram(norm: float) -> None:
    """As after steps with a very small learning rate; numpy refuses to divide so narrow a range into bins."""
    crosscoder = one_model_dictionary("pooled")
    rows = torch.nn.functional.normalize(torch.randn(crosscoder.W_dec.shape), dim=1)
    with torch.no_grad():
        crosscoder.W_dec.copy_(norm * rows)
    for name, (counts, edges) in decoder_histograms(crosscoder).items():
        if name.startswith("weights/decoder_norm"):
            assert counts.sum() == crosscoder.config.n_latents and (np.diff(edges) > 0).all()


@pytest.mark.parametrize("n_tokens", [1, 2, 7, EVALUATION_TOKENS, 2 * EVALUATION_TOKENS + 1, 40_000])
def test_evaluation_and_calibration_rows_are_disjoint_and_spread(n_tokens: int) -> None:
    values = torch.arange(float(n_tokens))[:, None].repeat(1, 2)
    meter = HeldOutMeter(source_of(torch.randn(5, 2), values, (1, 1)), "paired", EVALUATION_TOKENS)
    measured, calibrated = (part[:, 0].long() for part in (meter.values, meter.calibration))
    for rows in (measured, calibrated):
        assert len(rows) == max(
            1, min(n_tokens // 2 + (n_tokens % 2 if rows is calibrated else 0), EVALUATION_TOKENS)
        )
        assert len(rows.unique()) == len(rows)
        assert int(rows[0]) <= 1 and int(rows[-1]) >= 0.99 * (n_tokens - 2)
    if n_tokens > 1:
        assert not set(measured.tolist()) & set(calibrated.tolist())


def test_held_out_rows_stay_within_more_tokens_than_float32_can_count() -> None:
    class Long(InMemoryReader):
        def gather(self, rows: Tensor):
            asked.append(rows)
            return super().gather(rows % 10)

    asked: list[Tensor] = []
    reader = Long(torch.randn(10, 2), (1, 1))
    reader.n_tokens = 2**25 + 4
    source = source_of(torch.randn(5, 2), torch.randn(5, 2), (1, 1))
    source.held_out = lambda: reader
    HeldOutMeter(source, "paired", 100)
    for rows in asked:
        assert 0.98 * reader.n_tokens < int(rows.max()) < reader.n_tokens


# --- histograms -------------------------------------------------------------------------------------------------------


def test_histograms_hold_every_latent_once() -> None:
    crosscoder = small_crosscoder("relu", "two")
    histograms = decoder_histograms(crosscoder)
    assert histograms.keys() == {
        "weights/decoder_norm/reference", "weights/decoder_norm/intervened", "diff/relative_norm", "diff/decoder_cosine",
    }  # fmt: skip
    for counts, edges in histograms.values():
        assert int(counts.sum()) == 24
        assert len(edges) == len(counts) + 1
    norms = crosscoder.decoder_norms().detach()
    counts, edges = histograms["diff/relative_norm"]
    expected, _ = np.histogram(relative_norm(norms[:, 0], norms[:, 1]).numpy(), bins=edges)
    assert counts.tolist() == expected.tolist()
    assert (edges[0], edges[-1]) == (0, 1)


@pytest.mark.parametrize(
    ("shape", "compared"),
    [
        ("one", set()),
        ("two_unequal", {"diff/relative_norm"}),
        ("three", {"diff/relative_norm", "diff/decoder_cosine"}),
    ],
)
def test_only_what_can_be_compared_has_a_histogram(shape: str, compared: set[str]) -> None:
    names = decoder_histograms(small_crosscoder("relu", shape))
    assert {name for name in names if name.startswith("diff/")} == compared


def test_histograms_allow_rows_of_zeros() -> None:
    crosscoder = small_crosscoder("relu", "two")
    with torch.no_grad():
        crosscoder.W_dec[:3] = 0
        crosscoder.W_dec[3, :6] = 0
    for counts, _ in decoder_histograms(crosscoder).values():
        assert int(counts.sum()) == 24
